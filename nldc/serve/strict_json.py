"""Bodies of strangers: JSON that means one thing to every reader, and is not too deep."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from nldc.runtime.json_file import has_half_character, key_twice
from nldc.serve.errors import ApiError, refused

DEEPEST = 64
LONGEST_NUMBER = 64
# A string that nobody closes is a part as well: else each quote in it would be tried anew.
_PARTS = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[{\]}]', re.DOTALL)


def parse(data: bytes) -> dict[str, Any]:
    """Return the object that a body holds.

    Raises:
        ApiError: it is not UTF-8, no JSON or no object; it is nested deeper than DEEPEST, names a
            key twice, holds a number that is none or too long, or half a character.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise _wrong(f"is not UTF-8 text (byte {problem.start})") from None
    if _depth(text) > DEEPEST:
        raise _wrong(f"is nested deeper than {DEEPEST} levels")
    try:
        found = json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_int=_int,
            parse_float=_float,
        )
    except json.JSONDecodeError as problem:
        place = f"line {problem.lineno}, column {problem.colno}"
        raise _wrong(f"is no JSON: {problem.msg} ({place})") from None
    if not isinstance(found, dict):
        raise _wrong("is no JSON object")
    if has_half_character(text, found):
        raise _wrong("holds half a character (a lone surrogate)")
    return found


def _wrong(what: str) -> ApiError:
    return refused(f"the body {what}", None, "invalid_json")


def _depth(text: str) -> int:
    """Return how deep a text is nested, no further than is of interest."""
    depth = deepest = 0
    for part in _PARTS.finditer(text):
        if part[0] in "[{":
            depth += 1
            deepest = max(deepest, depth)
            if deepest > DEEPEST:
                break
        elif part[0] in "]}":
            depth -= 1
    return deepest


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    twice = key_twice(pairs)
    if twice is not None:
        raise _wrong(f"names `{twice}` twice")
    return dict(pairs)


def _constant(text: str) -> Any:
    raise _wrong(f"holds {text}, which is no number in JSON")


def _int(text: str) -> int:
    if len(text) > LONGEST_NUMBER:
        raise _wrong(f"holds a number of {len(text)} digits")
    return int(text)


def _float(text: str) -> float:
    value = float(text) if len(text) <= 1024 else math.inf
    if not math.isfinite(value):
        raise _wrong(f"holds a number that is too large or too long: {text[:24]}…")
    return value
