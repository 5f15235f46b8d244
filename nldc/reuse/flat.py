"""The data of a strategy as YAML again: one file, with nothing extended and nothing included."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from nldc.source import Source

WIDTH = 120
_PLAIN = re.compile(r"[A-Za-z$](?:[\w.$+*/()<>= -]*[\w.$+*/()<>=])?", re.ASCII)
_WORDS = ("true", "false", "null")
_BLOCKS = ("prefill", "step", "steps", "params", "adapters")
"""What is written over several lines, even where it would fit into one."""


def flat(source: Source) -> str:
    """Return a strategy as one file that means the same; of one file, its own text."""
    if not source.files:
        return source.text
    written = [f"# {_listed(source)}, put together", ""]
    return "\n".join([*written, *_block(source.data, 0, ())]) + "\n"


def _listed(source: Source) -> str:
    names = ", ".join(dict.fromkeys(file.shown for file in source.files))
    return "".join(each if each.isascii() and each.isprintable() else "?" for each in names)


def _block(data: Mapping[str, Any], indent: int, path: tuple[str, ...]) -> Iterator[str]:
    pad = " " * indent
    for key, value in data.items():
        head = f"{pad}{_scalar(key)}:"
        line = f"{head} {_flow(value)}"
        is_block = (not path and key in _BLOCKS) or path == ("steps",)
        is_long = len(line) > WIDTH and path[:1] != ("params",) and isinstance(value, Mapping)
        if isinstance(value, Mapping) and value and (is_block or is_long):
            yield head
            yield from _block(value, indent + 2, (*path, key))
        else:
            yield line


def _flow(value: Any) -> str:
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_scalar(key)}: {_flow(part)}" for key, part in value.items())
        return f"{{{inner}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_flow, value))}]"
    return _scalar(value)


def _scalar(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, str):
        is_plain = _PLAIN.fullmatch(value) and value not in _WORDS
        return value if is_plain else json.dumps(value, ensure_ascii=False)
    return repr(value)
