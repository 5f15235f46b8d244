"""JSON of a stranger: read with every way in which reading can fail as one kind of error."""

from __future__ import annotations

import json
import re
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


def parse_json(text: bytes | str) -> Any:
    """Return the data in `text`, without a byte order mark; raise ValueError if it is no JSON."""
    try:
        given = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        data = json.loads(given)
        if _SURROGATE.search(given):
            json.dumps(data, ensure_ascii=False).encode("utf-8")
        return data
    except UnicodeEncodeError as problem:
        raise ValueError("a text in it holds half a character (a lone surrogate)") from problem
    except UnicodeDecodeError as problem:
        raise ValueError("it is not UTF-8 text") from problem
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
