"""Run in its own process: the arithmetic of the attention kernel's two loops, as JSON.

A loop is what lies between a label of the PTX and the branch that leads back to it.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

import triton
from interpreted import causal_kernel
from triton.backends.compiler import GPUTarget

from nldc.runtime.kernels import attention as kernels
from nldc.runtime.kernels.ahead import attention_source

OPERATION = re.compile(
    r"^\s*(?:@!?%p\d+\s+)?((?:fma|mul|add|sub|ex2|max|mma|wgmma)\.\S*f32\S*)", re.MULTILINE
)
OPEN = re.compile(r"^\s*(?:mul|add|sub)\.(?:ftz\.)?f32\s", re.MULTILINE)
"""Without a mode of rounding, a later compiler may still fuse it."""


def arithmetic(dtype: str, arch: int, **options: Any) -> dict[str, Any]:
    """Return how often each loop does what in float32, and how many operations may be fused yet."""
    source = attention_source(causal_kernel, dtype, 4, 64, sees_prefix=True)
    target = GPUTarget("cuda", arch, 32)
    compiled = triton.compile(source, target=target, options={**kernels.OPTIONS, **options})
    text = compiled.asm["ptx"]
    loops = []
    for label in re.finditer(r"^(\$L\w+):", text, re.MULTILINE):
        back = re.compile(rf"\bbra(?:\.uni)?\s+{re.escape(label[1])};").search(text, label.end())
        if back:
            counts = Counter(OPERATION.findall(text[label.end() : back.start()]))
            loops.append(dict(sorted(counts.items())))
    return {"loops": loops, "open_to_fusion": len(OPEN.findall(text))}


if __name__ == "__main__":
    shipped = {
        f"{dtype} for {arch}": arithmetic(dtype, arch)
        for dtype in ("fp32", "bf16", "fp16")
        for arch in (80, 90)
    }
    fused = arithmetic("bf16", 90, enable_fp_fusion=True)
    print(json.dumps({"shipped": shipped, "fused": fused}))
