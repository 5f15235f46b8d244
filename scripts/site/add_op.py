"""docs/howto/add-op.md: CONTRIBUTING's list of places, each with what a test puts there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tests.test_new_op import EDITS, STRATEGY

ROOT = Path(__file__).parents[2]
HEAD = """\
# Add an op

An op of the language is told of in eleven places. This page adds one, `reverse`, which turns
tokens round: a drafter might want that. The list is
[CONTRIBUTING's](../../CONTRIBUTING.md#adding-an-op), and what stands below each place is what
`tests/test_new_op.py` puts there in a copy of the project. That test then compiles and runs the op,
and shows what is said where a place is left out; so this page cannot be out of date.

First the wish, as a strategy:
"""
TAIL = """\
## Is it there?

In this order: `mypy` (a place that was forgotten is an error of types), `make golden`, `make pages`
(which writes the op into [the reference](../reference.md)), `make test`. Then the strategy is
checked, proved, compiled and run like any other. What the proof may conclude is the one place to
think about twice: an op of which it is told nothing yields tokens of which nothing is known, and an
exact strategy may only draft with them.
"""


def pages() -> Iterator[tuple[str, str]]:
    """Yield the page: its path below docs/, and its text."""
    lines = [HEAD, "<!-- example -->", "```yaml", STRATEGY.rstrip(), "```", ""]
    for number, told in _list().items():
        what = re.sub(r"^`([^`]+)`: ", "", told)
        place = re.match(r"`([^`]+)`", told)
        lines += [f"## {number}. {place[1] if place else ''}", "", f"{_sentence(what)}.", ""]
        for file, before, text in EDITS.get(number, ()):
            lines += [
                f"In `{file}`:",
                "",
                "<!-- not run: is run by tests of its own -->",
                "```diff",
            ]
            lines += [f"+{line}" for line in text.removeprefix("\n").rstrip("\n").splitlines()]
            lines += [f" {before.strip(chr(10)).splitlines()[0]}", "```", ""]
    yield "howto/add-op.md", "\n".join([*lines, TAIL])


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _list() -> dict[int, str]:
    """Return the lines of CONTRIBUTING's list by their numbers."""
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8").split("## Adding an op")[1]
    parts = re.split(r"^(\d+)\. ", text, flags=re.MULTILINE)[1:]
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return {
        int(number): re.sub(r"\s+", " ", told.split("\n\n")[0]).strip() for number, told in pairs
    }
