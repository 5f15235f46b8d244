"""JSON of a stranger: read with every way in which reading can fail as one kind of error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


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
        return json.loads(text.decode("utf-8-sig") if isinstance(text, bytes) else text)
    except UnicodeDecodeError as problem:
        raise ValueError("it is not UTF-8 text") from problem
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
