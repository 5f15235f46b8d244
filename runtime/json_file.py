"""JSON of a stranger: read with every way in which reading can fail as one kind of error."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")
"""What may stand for half a character, which no other text format can hold."""


def read_json(path: Path) -> Any:
    """Return the data in `path`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read, or is no JSON; the message says why, without the path.
    """
    try:
        return parse_json(path.read_bytes())
    except FileNotFoundError:
        raise
    except OSError as problem:
        raise ValueError((problem.strerror or str(problem)).lower()) from problem


def parse_json(text: bytes | str, *, once: bool = False) -> Any:
    """Return the data in `text`, without a byte order mark; raise ValueError if it is no JSON.

    Where an object may name a key only `once`, one that does it again is no JSON either.
    """
    try:
        given = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        data = json.loads(given, object_pairs_hook=_once if once else None)
        is_half = has_half_character(given, data)
    except UnicodeDecodeError as problem:
        raise ValueError("it is not UTF-8 text") from problem
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if is_half:
        raise ValueError("a text in it holds half a character (a lone surrogate)")
    return data


def has_half_character(text: str, data: Any) -> bool:
    """Whether data that was read from `text` holds a lone surrogate."""
    if not _SURROGATE.search(text):
        return False
    try:
        json.dumps(data, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def texts_of(data: Any) -> Iterator[str]:
    """Yield every text in data, wherever it stands; the names of objects are texts too."""
    if isinstance(data, str):
        yield data
    elif isinstance(data, Mapping):
        for key, each in data.items():
            yield from texts_of(key)
            yield from texts_of(each)
    elif isinstance(data, Sequence) and not isinstance(data, bytes):
        for each in data:
            yield from texts_of(each)


def key_twice(pairs: list[tuple[str, Any]]) -> str | None:
    """Return a key that an object of these pairs names again, 80 characters of it; None: none."""
    count = Counter(key for key, _ in pairs)
    return None if len(count) == len(pairs) else count.most_common(1)[0][0][:80]


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    twice = key_twice(pairs)
    if twice is not None:
        raise ValueError(f"the key {twice!r} is there twice")
    return dict(pairs)
