"""Colours of a terminal, where they are wanted, and nothing that a terminal obeys besides."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

from nldc.explain.model import Sort

COLORS: dict[Sort, str] = {
    "given": "2", "rows": "36", "forward": "34", "choice": "33", "accept": "32", "loop": "35",
    "other": "37", "out": "2",
}  # fmt: skip
_OBEYED = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\ufffe\uffff]"
)


@dataclass(frozen=True)
class Pen:
    """Writes in colours or without."""

    colored: bool

    def paint(self, text: str, code: str) -> str:
        """Return text in a colour, by the number that a terminal knows it by."""
        return f"\x1b[{code}m{text}\x1b[0m" if self.colored and code and text.strip() else text

    def runs(self, cells: Iterable[tuple[str, str]]) -> str:
        """Return characters with their colours as text, neighbours of one colour together."""
        grouped = groupby(cells, key=itemgetter(1))
        return "".join(self.paint("".join(c for c, _ in run), code) for code, run in grouped)


def visible(text: str) -> str:
    """Return text in which nothing is obeyed, or turns the direction of what it shows."""
    return _OBEYED.sub(lambda found: ascii(found[0])[1:-1], text)


def clean(text: str) -> str:
    """Return visible text for a terminal, each character one column wide."""
    return "".join("?" if _is_odd(c) else c for c in visible(text))


def _is_odd(character: str) -> bool:
    return unicodedata.east_asian_width(character) in "WF" or unicodedata.combining(character) > 0


def cut(text: str, most: int) -> str:
    """Return text in so many columns."""
    return text if len(text) <= most else f"{text[: max(most - 1, 0)]}…"
