"""Run in its own process: compile a model's kernels for GPUs that are not here.

Prints as JSON what is wrong with them: what does not compile, and what spills. `everything` takes
all targets, dtypes and numbers of rows instead of a few that between them cover each kernel, or of
those the targets (90) and dtypes (bf16) that are named. `verbose` says what each takes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace

import torch

from nldc.runtime.checkpoint.sampler import SamplerShape
from nldc.runtime.errors import BackendError
from nldc.runtime.kernels import gated, head, product
from nldc.runtime.kernels.ahead import compile_launchable, target_of
from nldc.runtime.kernels.asked import Asked, merging
from nldc.runtime.kernels.forward import (
    ASKED,
    DOWN,
    GATED,
    OUTPUT,
    QKV,
    SCORED,
    HeadRows,
    Looks,
    LowRank,
    Rows,
    Sizes,
    kernels,
)
from nldc.runtime.kernels.launchable import TYPES, Launchable, Target
from nldc.runtime.kernels.numbers import Numbers
from nldc.runtime.kernels.product import Shape

NUMBERS = (
    Numbers(8, 64, 0, torch.bfloat16, None),
    Numbers(8, 64, 128, torch.bfloat16, None),
    Numbers(8, 32, 32, torch.float16, None),
    Numbers(8, 64, 128, torch.bfloat16, torch.float32),
    Numbers(8, 64, 0, torch.bfloat16, None, floating=True),
    Numbers(8, 64, 128, torch.bfloat16, None, floating=True),
    Numbers(4, 64, 128, torch.bfloat16, None),
    Numbers(4, 64, 128, torch.bfloat16, torch.bfloat16),
    Numbers(4, 32, 32, torch.bfloat16, torch.bfloat16),
    Numbers(4, 32, 32, torch.float16, torch.float16),
)
"""Kinds of quantised weights: of `nldc quantize`, of a kept GGUF file, and floats in groups."""
ROWS = (1, 32, 64, 72, 96, 128, 272, 1056)
RANK = 128
SAMPLERS = (
    SamplerShape(),
    SamplerShape(width=128, heads=1),
    SamplerShape(width=128, heads=8, top=64),
    SamplerShape(width=96, heads=12),
)
"""Trained samplers as the demo has one, and such as differ most from it."""
LOOKS = Looks(frozenset((2, 64)), frozenset((2, 3)), frozenset((16, 32, 64)), scores=True)
"""What is done with logits that are there."""
GIVEN = (
    *(replace(each, given=True) for each in SCORED if each.token),
    Asked(measures=True, given=True),
)
"""What a head is asked for where a token is given."""


def large(dtype: torch.dtype) -> Sizes:
    """Return the 8B model, with an adapter beside all of its products."""
    hidden, mlp, qkv = 4096, 14336, 6144
    adapter = {
        QKV: LowRank(3 * RANK, RANK, hidden, qkv),
        OUTPUT: LowRank(RANK, RANK, hidden, hidden),
        GATED: LowRank(2 * RANK, RANK, hidden, 2 * mlp),
        DOWN: LowRank(RANK, RANK, mlp, hidden),
    }
    return Sizes.of(hidden, mlp, (32, 8, 128), 131072, dtype, adapter, SAMPLERS)


def forwards(sizes: Sizes, rows: tuple[int, ...], target: Target) -> Iterator[Launchable]:
    """Yield the kernels of layers and heads, but attention, which `ahead_of_time.py` compiles."""
    whole = Rows(rows, 1, None, sees_prefix=True, adapted=True)
    heads = [HeadRows(each, scored) for each in rows for scored in (False, True)]
    for kernel in kernels(sizes, [whole], heads, target, LOOKS):
        if not kernel.name.startswith("attention"):
            yield kernel


def numbers(sizes: Sizes, rows: int, target: Target, kind: Numbers) -> Iterator[Launchable]:
    """Yield the kernels that read a kind of quantised weights, for so many rows."""

    def of(shape: Shape) -> Shape:
        return replace(shape, stride=shape.width * kind.bits // 16, numbers=kind)

    for shape in (of(sizes.qkv), of(sizes.down)):
        tile = product.tile_of(rows, shape, target)
        yield product.launchable(shape, tile, target, once=rows <= tile.height)
    own = of(sizes.gate)
    for adapted in (False, True):
        tile = gated.gated_tile(rows, own, target, adapted=adapted)
        yield gated.launchable(own, tile, target, once=rows <= tile.height, adapted=adapted)
    if not kind.group or rows == 1:  # an embedding has a scale for each row
        own = of(sizes.head)
        for asked in (*ASKED, *SCORED, *GIVEN):
            tile = head.head_tile(rows, own, target, asked)
            yield head.launchable(own, tile, target, asked, once=rows <= tile.height)


def measuring(sizes: Sizes, rows: int, target: Target) -> Iterator[Launchable]:
    """Yield the kernels of a head that is given tokens."""
    for asked in GIVEN:
        tile = head.head_tile(rows, sizes.head, target, asked)
        yield head.launchable(sizes.head, tile, target, asked, once=rows <= tile.height)
        yield merging(-(-sizes.head.out // tile.features), target, asked)


def chosen(arch: int, *, everything: bool) -> Iterator[Launchable]:
    target = Target(arch)
    if not everything:
        sizes = large(torch.bfloat16)
        one_a_kind = {each.name.split()[0]: each for each in forwards(sizes, (1,), target)}
        yield from one_a_kind.values()
        for kind in (NUMBERS[0], NUMBERS[4], NUMBERS[8]):
            yield from list(numbers(sizes, 32, target, kind))[:3:2]
        return
    for dtype in [each for each, name in TYPES.items() if name in sys.argv] or TYPES:
        sizes = large(dtype)
        yield from forwards(sizes, ROWS, target)
        for rows in ROWS:
            yield from measuring(sizes, rows, target)
            for kind in NUMBERS if dtype != torch.float32 else ():
                yield from numbers(sizes, rows, target, kind)


def failures(archs: tuple[int, ...], *, everything: bool) -> list[str]:
    found = []
    for arch in archs:
        known = set()
        for each in chosen(arch, everything=everything):
            key = (each.name, tuple(each.signature.items()), tuple(each.constants.items()))
            if key in known:
                continue
            known.add(key)
            what = f"{each.name} {each.signature.get('rows', '')} for {arch} {each.signature}"
            try:
                report = compile_launchable(each, target_of(f"cuda:{arch}"))
            except BackendError as problem:
                found.append(f"{what}: {problem}")
                continue
            if report.stack:
                found.append(f"{what}: {report.stack} bytes of stack")
            if "verbose" in sys.argv:
                print(
                    arch, *each.signature.values(), each.name, report, file=sys.stderr, flush=True
                )
    return found


if __name__ == "__main__":
    whole = "everything" in sys.argv
    named = tuple(int(each) for each in sys.argv[1:] if each.isdecimal())
    print(json.dumps(failures(named or ((80, 90, 100) if whole else (90,)), everything=whole)))
