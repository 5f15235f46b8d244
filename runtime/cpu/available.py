"""Whether the kernels for CPUs can be had: numba is optional, and compiles when it is asked to.

Of this room only this module and `numbers` are imported where numba is missing.
"""

from __future__ import annotations

import importlib.util
import logging
import time
from functools import cache

LOG = logging.getLogger("nldc")
EXTRA = "pip install 'nldc[cpu]'"
SLOW = 0.5
"""Seconds from which on it is said that kernels were compiled."""


@cache
def why_not(number: int | None = None, dim: int | None = None) -> str | None:
    """Return why there are no kernels for CPUs, or None: they are compiled and in memory.

    With `number` and `dim` these are all but the products, whose weights nobody knows yet: those of
    a model of such numbers, see `numbers`, and features a head. Else it is one, to see that numba
    compiles.
    """
    if importlib.util.find_spec("numba") is None:
        return f"numba is not installed ({EXTRA})"
    began = time.perf_counter()
    try:
        import numba

        if getattr(numba.config, "DISABLE_JIT", 0):
            return "numba is told not to compile, by NUMBA_DISABLE_JIT"
        from nldc.runtime.cpu.attention import attention
        from nldc.runtime.cpu.layer import layer
        from nldc.runtime.cpu.product import product

        product("q8", wide=False)
        if number is not None and dim is not None:
            layer()
            attention(number, dim)
    except Exception as problem:  # whatever an old or a broken one says
        lines = str(problem).strip().splitlines()
        said = f"{type(problem).__name__}: {lines[0] if lines else ''}".removesuffix(": ")
        return f"numba does not compile the kernels: {said}"
    took = time.perf_counter() - began
    if took > SLOW:
        LOG.info("compiled the kernels for CPUs in %.2f s", took)
    return None
