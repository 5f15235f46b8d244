"""Pages as a reader follows them: code blocks in order, each with what the page says of it.

What a page says of a block stands before it, in HTML comments that no reader sees:

    <!-- file: NAME -->      the block is that file, and is written there
    <!-- line of: NAME -->   a line that replaces the one of that file with the same key
    <!-- refused: NLD103 --> it is a strategy of which `nldc check` says this first; others are good
    <!-- output -->          what the block before it printed; a line `…` stands for any
    <!-- output like -->     the same, with numbers, bars and widths that may be others
    <!-- exit: 1 -->         the last command of the block leaves with this number
    <!-- part of: NAME -->   YAML that stands in this strategy, or file, as data
    <!-- in: NAME.REGION --> nodes that this strategy may have in that region
    <!-- example -->         YAML or JSON that is a form with gaps
    <!-- not run: WHY -->    one of `WHY`
    <!-- long -->            run with the long tests only

A block of the language `text` without a comment is a picture, a formula or a tree.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

WHY = (
    "needs a GPU",
    "needs a network",
    "starts a server",
    "starts a cluster",
    "needs transformers",
    "needs a model that thinks",
    "needs a terminal",
    "needs pictures and a model that reads them",
    "changes this machine",
    "takes hours",
    "takes minutes of an idle machine",
    "is run by tests of its own",
)
"""Why a block may be left out."""
NOTES = (
    *("file", "line of", "refused", "part of", "in", "example"),  # what the block is
    *("output", "output like", "exit"),  # what comes of it
    *("not run", "long"),
)
FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>[\w-]*) *\n(?P<text>.*?)^(?P=indent)```$", re.M | re.S
)
COMMENT = re.compile(r"<!-- (?P<name>[a-z][a-z ]*?)(?:: (?P<value>[^>]*?))? -->\s*\Z", re.S)


@dataclass(frozen=True)
class Block:
    """A code block of a page: its language, its text, the line of its fence, what is said of it."""

    page: Path
    line: int
    language: str
    text: str
    notes: Mapping[str, str]

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks_of(page: Path) -> Iterator[Block]:
    """Yield the blocks of a page in order.

    Raises:
        ValueError: a comment before a block says what is not known.
    """
    text = page.read_text("utf-8")
    for found in FENCE.finditer(text):
        notes: dict[str, str] = {}
        before = text[: found.start()]
        while (comment := COMMENT.search(before)) is not None:
            name = comment["name"]
            if name not in NOTES:
                raise ValueError(f"{page.name}: {comment[0]}")
            notes[name] = comment["value"] or ""
            before = before[: comment.start()]
        indent = len(found["indent"])
        lines = "".join(each[indent:] or "\n" for each in found["text"].splitlines(keepends=True))
        line = text.count("\n", 0, found.start()) + 1
        yield Block(page, line, found["language"], lines, notes)


def is_shown(shown: str, printed: str, is_alike: bool = False) -> bool:
    """Whether a page shows what was printed, but for lines that `…` stands for and trailing space.

    `is_alike`: numbers, bars and the space of tables may be others.
    """
    lines = [line.rstrip() for line in shown.strip("\n").splitlines()]
    pattern = "".join(_pattern(line, is_alike) for line in lines)
    cleaned = "".join(f"{line.rstrip()}\n" for line in printed.strip("\n").splitlines())
    return re.fullmatch(pattern, cleaned) is not None


def _pattern(line: str, is_alike: bool) -> str:
    if line.strip() == "…":
        return r"(?:.*\n)*?"
    if not is_alike:
        return f"{re.escape(line)}\n"
    parts = re.split(r"((?<!\w)\d[\d.]*|#+ *| {2,})", line)
    return (
        "".join(_other(part) if at % 2 else re.escape(part) for at, part in enumerate(parts))
        + r"\n"
    )


def _other(part: str) -> str:
    """Return a pattern of a number, a bar or the space of a table that may be another."""
    return r"\d[\d.]*" if part[0].isdigit() else r"#+ *" if part[0] == "#" else r" {2,}"
