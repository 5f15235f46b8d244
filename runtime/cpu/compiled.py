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
from llvmlite.binding import get_host_cpu_features, get_host_cpu_name
from numba.core.caching import FunctionCache
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
    at such values, but not at the functions that are called, to know what it kept. It numbers the
    files of functions of one name, and of two processes that write at once, or of one that dies
    meanwhile, a file may then hold another function than the index says. So each gets a name.
    """
    signature = numba.void(*([numba.int64] * arguments))
    options: dict[str, Any] = {"error_model": "numpy", "nogil": True}
    function.__qualname__ = f"{function.__name__}_{_identity(function)}"
    try:
        made = _kept(signature, function, options)
    except Exception:  # no place, no room there, or whatever reading a damaged file comes to
        made = numba.cfunc(signature, **options)(function)
    return Entry(made.address or 0, made.ctypes, made)


def _kept(signature: Any, function: Callable[..., None], options: dict[str, Any]) -> Any:
    """Compile a function, or read what was kept; what cannot be read is made and kept anew."""
    try:
        return numba.cfunc(signature, cache=True, **options)(function)
    except Exception:
        files: Any = FunctionCache  # numba tells no types
        files(function).flush()
        return numba.cfunc(signature, cache=True, **options)(function)


def _identity(function: Callable[..., None]) -> str:
    """Return what stands for a function's values and the machine that it is compiled for."""
    told = [each.cell_contents for each in function.__closure__ or ()]
    machine = [getattr(numba.config, name, None) for name in ("CPU_NAME", "CPU_FEATURES")]
    if None in machine:
        machine += [get_host_cpu_name(), _features()]
    return hashlib.sha256(repr((told, machine)).encode()).hexdigest()[:16]


def _features() -> str:
    try:
        return str(get_host_cpu_features().flatten())
    except RuntimeError:  # LLVM does not know this machine
        return ""


@cache
def has_room() -> bool:
    """Whether this machine's registers hold 32 vectors of 16 values; they hold 8 at least.

    It says in which parts a kernel is computed, and changes no bits.
    """
    given: str | None = getattr(numba.config, "CPU_FEATURES", None)
    if given is not None:
        return "+avx512f" in given
    try:
        return bool(get_host_cpu_features().get("avx512f"))
    except RuntimeError:  # LLVM does not know this machine
        return False


@cache
def digest() -> str:
    """Return what stands for the source of all kernels."""
    found = hashlib.sha256()
    sources = [Path(each.__file__ or "") for each in (blocked, line_tiles)]  # their constants
    for path in (*sorted(Path(__file__).parent.glob("*.py")), *sources):
        found.update(path.read_bytes())
    return found.hexdigest()
