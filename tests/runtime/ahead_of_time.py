"""Run in its own process: compile the kernels for GPUs that are not here, as JSON of failures."""

from __future__ import annotations

import json
import sys
from typing import Any

import triton
from interpreted import quadratic_kernel, window_kernel
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from nldc.runtime.kernels import attention as kernels

TARGETS = (
    GPUTarget("cuda", 80, 32),
    GPUTarget("cuda", 90, 32),
    GPUTarget("cuda", 100, 32),
    GPUTarget("hip", "gfx942", 64),
)
DTYPES = ("bf16", "fp32", "fp16", "bf16")
SCALARS = ("rows", "kv_heads", "query_stride", "slot_stride")


def attention_source(dtype: str, predicate: Any, *, sees_prefix: bool) -> ASTSource:
    constants = kernels.constants(4, 128, sees_prefix=sees_prefix, upcast=dtype == "fp32")
    constants["PREDICATE"] = predicate
    pointers = {
        **dict.fromkeys(("query_ptr", "key_ptr", "value_ptr", "output_ptr"), f"*{dtype}"),
        **dict.fromkeys(("slot_ptr", "length_ptr"), "*i64"),
        "factor_ptr": "*fp32",
        "fact_ptr": "*i32",
    }
    signature = {
        **pointers,
        **dict.fromkeys(SCALARS, "i32"),
        **dict.fromkeys(constants, "constexpr"),
    }
    names = kernels.attention_kernel.arg_names
    aligned = (*pointers, "query_stride", "slot_stride")
    hints = {(names.index(name),): [["tt.divisibility", 16]] for name in aligned}
    return ASTSource(kernels.attention_kernel, signature, constants, hints)


def failures(*, everything: bool) -> list[str]:
    """Compile every target, dtype and predicate, or a few that between them cover each."""
    found = []
    for number, target in enumerate(TARGETS):
        for dtype in ("fp32", "fp16", "bf16") if everything else (DTYPES[number],):
            for predicate, sees_prefix in ((quadratic_kernel, True), (window_kernel, False)):
                if not everything and sees_prefix != (number % 2 == 0):
                    continue
                source = attention_source(dtype, predicate, sees_prefix=sees_prefix)
                try:
                    triton.compile(source, target=target, options=kernels.OPTIONS)
                except Exception as problem:
                    found.append(f"{target} {dtype} {predicate.__name__}: {problem!r}")
    return found


if __name__ == "__main__":
    print(json.dumps(failures(everything="everything" in sys.argv)))
