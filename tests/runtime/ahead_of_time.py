"""Run in its own process: compile the kernels for GPUs that are not here, as JSON of failures."""

from __future__ import annotations

import json
import sys

import triton
from interpreted import quadratic_kernel, window_kernel
from triton.backends.compiler import GPUTarget

from nldc.runtime.kernels import attention as kernels
from nldc.runtime.kernels.ahead import attention_source

TARGETS = (
    GPUTarget("cuda", 80, 32),
    GPUTarget("cuda", 90, 32),
    GPUTarget("cuda", 100, 32),
    GPUTarget("hip", "gfx942", 64),
)
DTYPES = ("bf16", "fp32", "fp16", "bf16")


def failures(*, everything: bool) -> list[str]:
    """Compile every target, dtype and predicate, or a few that between them cover each."""
    found = []
    for number, target in enumerate(TARGETS):
        for dtype in ("fp32", "fp16", "bf16") if everything else (DTYPES[number],):
            for predicate, sees_prefix in ((quadratic_kernel, True), (window_kernel, False)):
                if not everything and sees_prefix != (number % 2 == 0):
                    continue
                source = attention_source(predicate, dtype, 4, 128, sees_prefix=sees_prefix)
                try:
                    triton.compile(source, target=target, options=kernels.OPTIONS)
                except Exception as problem:
                    found.append(f"{target} {dtype} {predicate.__name__}: {problem!r}")
    return found


if __name__ == "__main__":
    print(json.dumps(failures(everything="everything" in sys.argv)))
