"""Every error code with its page; `nldc explain CODE` prints one, docs/errors/ holds them all.

`python -m nldc.errors docs/errors` writes the pages again.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

from nldc.errors import (
    adapters,
    effects,
    expressions,
    guarantee,
    limits,
    reuse,
    shape,
    source,
    types,
)
from nldc.errors.entry import Entry

_MODULES = (source, shape, reuse, expressions, types, effects, adapters, guarantee, limits)

REGISTRY: Mapping[str, Entry] = {
    entry.code: entry for module in _MODULES for entry in module.ENTRIES
}
"""Every code, in order."""


def page(entry: Entry) -> str:
    """Return the page of a code as Markdown."""
    return (
        f"# {entry.code}: {entry.title}\n\n{textwrap.fill(entry.explanation, 90)}\n\n"
        f"Wrong:\n\n{_block(entry.bad)}\n\nRight:\n\n{_block(entry.good)}\n"
    )


def index() -> str:
    """Return the list of all codes as Markdown."""
    lines = [f"- [{entry.code}]({entry.code}.md): {entry.title}" for entry in REGISTRY.values()]
    return "# Error codes\n\n`nldc explain CODE` prints these pages.\n\n" + "\n".join(lines) + "\n"


def pages() -> dict[str, str]:
    """Return every file of docs/errors by its name."""
    found = {f"{entry.code}.md": page(entry) for entry in REGISTRY.values()}
    return {"README.md": index(), **found}


def _block(example: str) -> str:
    language = "sh" if example.lstrip().startswith("nldc ") else "yaml"
    return f"```{language}\n{example.strip(chr(10)).rstrip()}\n```"
