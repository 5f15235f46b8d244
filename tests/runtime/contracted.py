"""Run in its own process: the arithmetic of the attention kernel's two loops, as JSON.

A loop is what lies between a label of the PTX and the branch that leads back to it.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

import torch
import triton
from interpreted import causal_kernel
from triton.backends.compiler import GPUTarget

from nldc.runtime.kernels import attention as kernels
from nldc.runtime.kernels.ahead import source_of
from nldc.runtime.kernels.attention_tiles import tiles_for
from nldc.runtime.kernels.launchable import TYPES, Launchable, Target

KINDS = {name: dtype for dtype, name in TYPES.items()}

OPERATION = re.compile(
    r"^\s*(?:@!?%p\d+\s+)?((?:fma|mul|add|sub|ex2|max|mma|wgmma)\.\S*f32\S*)", re.MULTILINE
)
OPEN = re.compile(r"^\s*(?:mul|add|sub)\.(?:ftz\.)?f32\s", re.MULTILINE)
"""Without a mode of rounding, a later compiler may still fuse it."""


def arithmetic(dtype: str, arch: int, lines: int, *, partial: bool) -> dict[str, Any]:
    """Return how often each loop does what in float32, and how many operations may be fused yet."""
    kind = KINDS[dtype]
    (tile,) = (one for one in tiles_for(64, kind.itemsize) if one.lines == lines)
    kernel = kernels.launchable(
        causal_kernel, kind, 4, 64, tile, Target(arch),
        sees_prefix=True, partial=partial, upcast=kind == torch.float32,
    )  # fmt: skip
    return of(kernel, arch)


def of(kernel: Launchable, arch: int, **options: Any) -> dict[str, Any]:
    """Return that of a kernel; of loops, those that have none within."""
    compiled = triton.compile(
        source_of(kernel, GPUTarget("cuda", arch, 32)),
        target=GPUTarget("cuda", arch, 32),
        options={**kernel.options, **options},
    )
    text = compiled.asm["ptx"]
    spans = []
    for label in re.finditer(r"^(\$L\w+):", text, re.MULTILINE):
        back = re.compile(rf"\bbra(?:\.uni)?\s+{re.escape(label[1])};").search(text, label.end())
        if back:
            spans.append((label.end(), back.start()))
    inner = [
        (start, end)
        for start, end in spans
        if not any(start < other and beyond < end for other, beyond in spans)
    ]
    loops = [dict(sorted(Counter(OPERATION.findall(text[a:b])).items())) for a, b in inner]
    return {"loops": loops, "open_to_fusion": len(OPEN.findall(text))}


SHIPPED = (  # dtype, compute capability, lines, whether results are partial
    ("fp32", 80, 16, True),
    ("bf16", 90, 128, False),
)

if __name__ == "__main__":
    shipped = {
        f"{dtype} for {arch}, {lines} lines, partial {partial}": arithmetic(
            dtype, arch, lines, partial=partial
        )
        for dtype, arch, lines, partial in SHIPPED
    }
    merging = kernels.merging(torch.bfloat16, 32, 4, 64, Target(90), chunks=True)
    merge, fused = of(merging, 90), of(merging, 90, enable_fp_fusion=True)
    print(json.dumps({"shipped": shipped, "merge": merge, "fused": fused}))
