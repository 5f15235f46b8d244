"""Marked parts of a page: `<!-- report: NAME -->`, what a command wrote, and `<!-- end -->`."""

from __future__ import annotations

import re

BLOCK = re.compile(r"^<!-- report: ([a-z0-9-]+) -->\n(.*?)^<!-- end -->$", re.DOTALL | re.MULTILINE)
MARK = re.compile(r"<!-- (?:report|end)\b.*")


def blocks_of(text: str) -> dict[str, str]:
    """Return what lies in each block of a page, by name.

    Raises:
        ValueError: a name stands twice, or a mark belongs to no block.
    """
    found: dict[str, str] = {}
    for match in BLOCK.finditer(text):
        if match[1] in found:
            raise ValueError(f"two blocks are named {match[1]}")
        if MARK.search(match[2]):
            raise ValueError(f"the block {match[1]} is not ended before the next one begins")
        found[match[1]] = match[2]
    lone = MARK.search(BLOCK.sub("", text))
    if lone:
        raise ValueError(f"{lone[0]} belongs to no block")
    return found


def with_block(text: str, name: str, inside: str) -> str:
    """Return a page with other text in one of its blocks.

    Raises:
        ValueError: it has no such block.
    """
    if name not in blocks_of(text):
        raise ValueError(
            f"there is no block {name}: write <!-- report: {name} --> and <!-- end -->"
        )

    def fresh(match: re.Match[str]) -> str:
        if match[1] != name:
            return match[0]
        return f"<!-- report: {name} -->\n{inside}<!-- end -->"

    return BLOCK.sub(fresh, text)


def outside(text: str) -> str:
    """Return a page without its blocks."""
    return BLOCK.sub("", text)


def table(head: list[str], rows: list[list[str]], numbers: int = 0) -> str:
    """Return a Markdown table whose last `numbers` columns are set to the right."""
    rule = ["---"] * (len(head) - numbers) + ["---:"] * numbers
    lines = [f"| {' | '.join(line)} |" for line in (head, rule, *rows)]
    return "\n".join(re.sub(r" +\|", " |", line) for line in lines) + "\n"
