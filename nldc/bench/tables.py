"""Tables of a benchmark's page, and how numbers stand in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

Data = Mapping[str, Any]
NONE = "none"
"""What stands where there is no such number."""


def table_of(heading: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> str:
    """Return a table whose first `words` columns are no numbers."""

    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{'' if place < words else ' class=number'}>{escape(cell)}</{tag}>"
            for place, cell in enumerate(row)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    head = f"<thead><tr>{cells('th', heading)}</tr></thead>"
    return f'<div class="scrolls"><table>{head}<tbody>{body}</tbody></table></div>'


def number(value: float | None, digits: int = 2) -> str:
    """Return a number with so many digits, or that there is none."""
    return NONE if value is None else f"{value:.{digits}f}"


def share(line: Data) -> str:
    """Return how much of AR's tokens a run has."""
    return "100 %" if line["same"] else f"{100 * line['agreement']:.1f} %"
