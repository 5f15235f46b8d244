"""What files of the library say, read without the proofs that `api.check` makes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from nldc import api
from nldc.reuse import load
from nldc.source import Source

SHORT = ("block_length", "k", "length")
"""The params that say how many rows a step drafts or fills."""


@cache
def _files() -> dict[str, Source]:
    return {name: load(path) for name, path in sorted(api.library().items())}


def exact() -> list[str]:
    """Return the names of the strategies that promise AR's tokens, in order."""
    return [name for name, file in _files().items() if file.data["guarantee"] == "exact"]


def params_of(name: str) -> Mapping[str, Any]:
    """Return what a strategy declares of its params."""
    return _files()[name].data.get("params") or {}


def short_steps(name: str, rows: int) -> dict[str, int | float]:
    """Return the params with which a strategy drafts or fills so many rows a step."""
    return {param: rows for param in SHORT if param in params_of(name)}
