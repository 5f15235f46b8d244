"""Run in its own process: compile the kernels for GPUs that are not here, as JSON of failures."""

from __future__ import annotations

import json
import sys
from typing import Any

from interpreted import quadratic_kernel, window_kernel
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from nldc.runtime.errors import BackendError
from nldc.runtime.kernels import attention as kernels
from nldc.runtime.kernels.ahead import (
    SIZES,
    attention_source,
    compile_source,
    merge_source,
)
from nldc.runtime.kernels.attention_tiles import tiles_for

TARGETS = (
    GPUTarget("cuda", 80, 32),
    GPUTarget("cuda", 90, 32),
    GPUTarget("cuda", 100, 32),
    GPUTarget("hip", "gfx942", 64),
)
DTYPES = ("bf16", "fp32", "fp16", "bf16")


def failures(*, everything: bool) -> list[str]:
    """Compile every target, dtype, predicate and tile, or a few that between them cover each.

    It is a failure too if values are spilled.
    """
    found = []
    for number, target in enumerate(TARGETS):
        for dtype in SIZES if everything else (DTYPES[number],):
            tiles = tiles_for(128, SIZES[dtype])
            for place, tile in enumerate(tiles):
                for predicate, sees_prefix in ((quadratic_kernel, True), (window_kernel, False)):
                    for partial in (True, False):
                        seldom = (place, sees_prefix, partial) != (
                            number % len(tiles), True, number % 2 == 0,
                        )  # fmt: skip
                        if seldom and not everything:
                            continue
                        source = attention_source(
                            predicate, dtype, 4, 128, tile, sees_prefix=sees_prefix, partial=partial
                        )
                        found += problems(source, target, tile.options, f"{tile} {partial}")
            for chunks in (True, False):
                source = merge_source(dtype, 32, 4, 128, chunks=chunks)
                found += problems(source, target, kernels.MERGE_OPTIONS, f"merge {chunks}")
    return found


def problems(source: ASTSource, target: GPUTarget, options: dict[str, Any], name: str) -> list[str]:
    """Return what is wrong with a kernel on a target, in words."""
    what = f"{name} for {target.backend}:{target.arch} of {source.signature['output_ptr']}"
    try:
        report = compile_source(source, target, options, name)
    except BackendError as problem:
        return [f"{what}: {problem}"]
    return [f"{what}: {report}"] if report.stack else []


if __name__ == "__main__":
    print(json.dumps(failures(everything="everything" in sys.argv)))
