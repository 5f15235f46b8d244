"""Which characters of a file each character of a YAML scalar's value comes from."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal, TypeAlias

import yaml

Style: TypeAlias = Literal["plain", "single", "double", "literal", "folded", "collection"]


def character_offsets(raw: str, style: Style, value: str) -> list[int] | None:
    """Return, for each character of `value`, its offset in `raw`; None if it cannot be told."""
    if style == "collection":
        return None
    pairs = list(_block(raw) if style in ("literal", "folded") else _flow(raw, style))
    characters = "".join(character for character, _ in pairs)
    if style == "folded":
        characters = characters[: len(value)].replace("\n", " ")
        value = value.replace("\n", " ")
    if characters[: len(value)] != value:
        return None
    return [offset for _, offset in pairs[: len(value)]]


_ESCAPES: dict[str, str] = yaml.SafeLoader.ESCAPE_REPLACEMENTS
_ESCAPE_LENGTHS = {"x": 2, "u": 4, "U": 8}
_BREAK = re.compile(r"(?:\r\n|[\r\n])[ \t]*")
_BLANKS = re.compile(r"[ \t]*")


def _flow(raw: str, style: Style) -> Iterator[tuple[str, int]]:
    """Read a plain or quoted scalar: each character of its value and where it comes from."""
    quote = {"single": "'", "double": '"'}.get(style, "")
    at, end = len(quote), len(raw) - len(quote)
    while at < end:
        blanks = _BLANKS.match(raw, at, end)
        start, at = at, blanks.end() if blanks else at
        fold = _BREAK.match(raw, at, end)
        if fold:
            breaks = 0
            while fold:
                at, breaks = fold.end(), breaks + 1
                fold = _BREAK.match(raw, at, end)
            yield from [(" ", start)] if breaks == 1 else [("\n", start)] * (breaks - 1)
        elif at > start:
            yield from ((raw[place], place) for place in range(start, at))
        elif quote == "'" and raw.startswith("''", at):
            yield "'", at
            at += 2
        elif quote == '"' and raw[at] == "\\":
            length = 2 + _ESCAPE_LENGTHS.get(raw[at + 1], 0)
            joined = re.compile(r"\\(?:\r\n|[\r\n])[ \t]*").match(raw, at, end)
            if joined:
                at = joined.end()
                continue
            digits = raw[at + 2 : at + length]
            if digits:
                yield _character(digits), at
            else:
                yield _ESCAPES.get(raw[at + 1], raw[at + 1]), at
            at += length
        else:
            yield raw[at], at
            at += 1


def _character(digits: str) -> str:
    """Return the character of a hexadecimal number; of one that has none, what replaces it."""
    number = int(digits, 16)
    return chr(number) if number < 0x110000 else "\ufffd"


def _block(raw: str) -> Iterator[tuple[str, int]]:
    """Read a block scalar; its indentation is that of its first line with text."""
    lines = raw.splitlines(keepends=True)
    at = len(lines[0]) if lines else 0
    body = lines[1:]
    given = re.match(r"[|>][-+]?([1-9])", raw)
    indent = next((len(line) - len(line.lstrip(" ")) for line in body if line.strip()), 0)
    if given:
        return
    for line in body:
        content = line[indent:].rstrip("\r\n")
        for n, character in enumerate(content):
            yield character, at + indent + n
        yield "\n", at + len(line.rstrip("\r\n"))
        at += len(line)
