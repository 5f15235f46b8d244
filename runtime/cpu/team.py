"""Torch's own threads, for kernels that are none of torch's.

Two pools of threads that wait for work by looking for it take the processor from one another. So
the library whose threads torch computes with is asked for them; it keeps a team for every thread
that calls it, and calls may overlap.
"""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

LIBRARY = re.compile(r"lib(gomp|iomp5|omp)\b.*\.(so|dylib)")


@dataclass(frozen=True)
class Team:
    """The library's functions: one that starts a team, and the addresses of three for its threads:
    to wait for one another, to be told one's number, and how many there are.
    """

    start: Any
    barrier: int
    who: int
    count: int

    def run(self, function: int, argument: int, threads: int) -> None:
        """Call a compiled function of one int64 in so many threads, and wait for them."""
        self.start(function, argument, threads, 0)


@cache
def team() -> Team | None:
    """Return what starts torch's threads; None where its library is no OpenMP that is known."""
    if "OpenMP" not in torch.__config__.parallel_info():
        return None
    for name in _names():
        try:
            library = ctypes.CDLL(name)
            start = library.GOMP_parallel
            parts = (library.GOMP_barrier, library.omp_get_thread_num, library.omp_get_num_threads)
        except (OSError, AttributeError):
            continue
        start.restype = None
        start.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        found = (ctypes.cast(part, ctypes.c_void_p).value or 0 for part in parts)
        return Team(start, *found)
    return None


def _names() -> list[str]:
    """Return the files of the library: those that are loaded, or that came with torch."""
    try:
        lines = Path("/proc/self/maps").read_text("utf-8", "replace").splitlines()
        paths = {line.split(maxsplit=5)[-1] for line in lines}
    except OSError:  # no Linux
        paths = {str(path) for path in (Path(torch.__file__).parent / "lib").glob("*omp*")}
    return sorted(path for path in paths if LIBRARY.match(Path(path).name))
