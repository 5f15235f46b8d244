"""Run in its own process: compile the kernels for GPUs that are not here, as JSON of failures."""

from __future__ import annotations

import json
import sys
from itertools import product

import torch
from interpreted import quadratic_kernel, window_kernel
from triton.backends.compiler import GPUTarget

from nldc.runtime.errors import BackendError
from nldc.runtime.kernels import attention
from nldc.runtime.kernels.ahead import compile_launchable, kernel_target
from nldc.runtime.kernels.attention_tiles import tiles_for
from nldc.runtime.kernels.launchable import TYPES, Launchable

TARGETS = (
    GPUTarget("cuda", 80, 32),
    GPUTarget("cuda", 90, 32),
    GPUTarget("cuda", 100, 32),
    GPUTarget("hip", "gfx942", 64),
)


FEW = (  # target, dtype, tile, predicate, whether results are partial
    (0, "bf16", 0, quadratic_kernel, True),
    (2, "fp16", 2, quadratic_kernel, True),
    (3, "bf16", 0, window_kernel, True),
)


def failures(*, everything: bool) -> list[str]:
    """Compile every target, dtype, predicate and tile, or a few that between them cover each.

    It is a failure too if values are spilled.
    """
    found = []
    for number, (dtype, kind) in product(range(len(TARGETS)), TYPES.items()):
        target = TARGETS[number]
        for place, tile in enumerate(tiles_for(128, dtype.itemsize)):
            for predicate, partial in product((quadratic_kernel, window_kernel), (True, False)):
                few = (number, kind, place, predicate, partial) in FEW
                if not few and not (everything and (partial or tile.whole)):
                    continue
                kernel = attention.launchable(
                    predicate, dtype, 4, 128, tile, kernel_target(target),
                    sees_prefix=predicate is quadratic_kernel,
                    partial=partial, upcast=dtype == torch.float32,
                )  # fmt: skip
                # Once a chunk: see `tiles_for`. Of predicates that look first, more is allowed.
                allowed = 0 if predicate is quadratic_kernel else 800
                if tile.lines == 128 and not partial:
                    allowed += 96
                found += problems(kernel, target, allowed)
        if everything or (number, kind) == (1, "bf16"):
            for chunks in (True, False) if everything else (True,):
                own = kernel_target(target)
                merge = attention.merging(dtype, 32, 4, 128, own, chunks=chunks)
                found += problems(merge, target, 0)
    return found


def problems(kernel: Launchable, target: GPUTarget, allowed: int) -> list[str]:
    """Return what is wrong with a kernel on a target, of which so many bytes may be spilled."""
    what = f"{kernel.name} {kernel.signature['output_ptr']} {target.backend}:{target.arch}"
    try:
        report = compile_launchable(kernel, target)
    except BackendError as problem:
        return [f"{what}: {problem}"]
    return [f"{what}: {report}"] if (report.stack or 0) > allowed else []


if __name__ == "__main__":
    print(json.dumps(failures(everything="everything" in sys.argv)))
