"""Functions compiled by numba: helpers that others call, and entries that have an address.

Everything is compiled without `fastmath`: no sum is reordered and no product contracted unless the
source says so, so that a value's bits are those of the operations that are written, on any machine
and whatever the compiler makes vectors of.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from numba.extending import intrinsic

from nldc.runtime.invariant import blocked, line_tiles

F = TypeVar("F", bound=Callable[..., Any])


def helper(function: F) -> F:
    """Let compiled functions call this one."""
    return cast(F, numba.njit(error_model="numpy", nogil=True)(function))


def written(function: Callable[..., Any]) -> Any:
    """Let compiled functions call instructions that a function writes; ints may be constants."""
    return intrinsic(prefer_literal=True)(function)


@dataclass(frozen=True, eq=False)
class Entry:
    """A compiled function of int64 values: where it lies, and what keeps it there."""

    address: int
    call: Callable[..., None]
    keeps: Any


def entry(function: Callable[..., None], arguments: int) -> Entry:
    """Compile a function of so many int64 values.

    What is compiled is kept on disk for the next process, where numba finds a place to write it.
    `function` is made by another one, to which it was told `digest()` beside numbers: numba looks
    at such values, but not at the functions that are called, to know what it kept.
    """
    signature = numba.void(*([numba.int64] * arguments))
    options: dict[str, Any] = {"error_model": "numpy", "nogil": True}
    try:
        made = numba.cfunc(signature, cache=True, **options)(function)
    except (OSError, RuntimeError):  # no place, or no room there
        made = numba.cfunc(signature, **options)(function)
    return Entry(made.address or 0, made.ctypes, made)


@cache
def digest() -> str:
    """Return what stands for the source of all kernels."""
    found = hashlib.sha256()
    sources = [Path(each.__file__ or "") for each in (blocked, line_tiles)]  # their constants
    for path in (*sorted(Path(__file__).parent.glob("*.py")), *sources):
        found.update(path.read_bytes())
    return found.hexdigest()
