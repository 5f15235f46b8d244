"""Run in its own process: compile a model's kernels for GPUs that are not here.

Prints as JSON what is wrong with them: what does not compile, and what spills. `everything` takes
all targets, dtypes and numbers of rows instead of a few that between them cover each kernel, or of
those the targets (90) and dtypes (bf16) that are named. `verbose` says what each takes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from nldc.runtime.errors import BackendError
from nldc.runtime.kernels import gated, head, low_rank, product, rotary, summed
from nldc.runtime.kernels.ahead import compile_launchable, target_of
from nldc.runtime.kernels.launchable import TYPES, Launchable, Target
from nldc.runtime.kernels.numbers import Numbers
from nldc.runtime.kernels.product import Shape

NUMBERS = (
    Numbers(8, 64, 0, torch.bfloat16, None),
    Numbers(8, 64, 128, torch.bfloat16, None),
    Numbers(8, 32, 32, torch.float16, None),
    Numbers(8, 64, 128, torch.bfloat16, torch.float32),
    Numbers(4, 64, 128, torch.bfloat16, None),
    Numbers(4, 64, 128, torch.bfloat16, torch.bfloat16),
    Numbers(4, 32, 32, torch.bfloat16, torch.bfloat16),
    Numbers(4, 32, 32, torch.float16, torch.float16),
)
"""Kinds of quantised weights: those of `nldc quantize`, and of a GGUF file that is kept."""
ROWS = (1, 32, 64, 72, 96, 128, 272, 1056)
RANK = 128
ASKED = (
    head.Asked(token=True),
    head.Asked(logits=True),
    head.Asked(token=True, noisy=True),
    head.Asked(token=True, measures=True),
)


@dataclass(frozen=True)
class Geometry:
    hidden: int
    mlp: int
    heads: rotary.Heads
    vocabulary: int


LARGE = Geometry(4096, 14336, rotary.Heads(32, 8, 128, 64), 131072)
"""The 8B model."""


def layer(
    geometry: Geometry, rows: int, dtype: torch.dtype, target: Target
) -> Iterator[Launchable]:
    """Yield the kernels of a layer of so many rows, with an adapter and without, but attention."""
    heads, hidden, mlp = geometry.heads, geometry.hidden, geometry.mlp
    qkv = (heads.query + 2 * heads.kv) * heads.dim
    parts = []
    for out, width in (
        (qkv, hidden), (hidden, heads.query * heads.dim), (hidden, mlp), (3 * RANK, hidden),
    ):  # fmt: skip
        shape = Shape(out, width, width, dtype)
        tile = product.tile_of(rows, shape, target)
        parts.append(shape.segments if tile.apart else 1)
        yield product.launchable(shape, tile, target, once=rows <= tile.height)
    shape = Shape(mlp, hidden, hidden, dtype)
    for adapted in (False, True):
        tile = gated.gated_tile(rows, shape, target, adapted=adapted)
        yield gated.activating(mlp, dtype, target, adapted=adapted)
        yield gated.launchable(shape, tile, target, once=rows <= tile.height, adapted=adapted)
        yield rotary.launchable(heads, parts[0], dtype, target, adapted=adapted)
        for count in {*parts[1:3]}:
            yield summed.launchable(hidden, count, dtype, target, adapted=adapted, normed=True)
    yield summed.launchable(hidden, 0, dtype, target, adapted=False, normed=True)
    size = low_rank.row_tile(rows)
    yield low_rank.launchable(RANK, 3 * RANK, qkv, parts[3], size, dtype, target)


def numbers(
    geometry: Geometry, rows: int, dtype: torch.dtype, target: Target, kind: Numbers
) -> Iterator[Launchable]:
    """Yield the kernels that read a kind of quantised weights, for so many rows."""

    def shape(out: int, width: int) -> Shape:
        return Shape(out, width, width * kind.bits // 16, dtype, numbers=kind)

    heads, hidden, mlp = geometry.heads, geometry.hidden, geometry.mlp
    for out, width in (((heads.query + 2 * heads.kv) * heads.dim, hidden), (hidden, mlp)):
        tile = product.tile_of(rows, shape(out, width), target)
        yield product.launchable(shape(out, width), tile, target, once=rows <= tile.height)
    own = shape(mlp, hidden)
    for adapted in (False, True):
        tile = gated.gated_tile(rows, own, target, adapted=adapted)
        yield gated.launchable(own, tile, target, once=rows <= tile.height, adapted=adapted)
    if not kind.group or rows == 1:  # an embedding has a scale for each row
        own = shape(geometry.vocabulary, hidden)
        for asked in ASKED:
            tile = head.head_tile(rows, own, target, asked)
            yield head.launchable(own, tile, target, asked, once=rows <= tile.height)


def heads(
    geometry: Geometry, rows: int, dtype: torch.dtype, target: Target, asked: head.Asked
) -> Iterator[Launchable]:
    """Yield the kernels of a head that is asked for something."""
    shape = Shape(geometry.vocabulary, geometry.hidden, geometry.hidden, dtype)
    tile = head.head_tile(rows, shape, target, asked)
    yield head.launchable(shape, tile, target, asked, once=rows <= tile.height)
    if asked.token or asked.measures:
        yield head.merging(-(-shape.out // tile.features), target, asked)


def chosen(arch: int, *, everything: bool) -> Iterator[Launchable]:
    target = Target(arch)
    if not everything:
        few = list(layer(LARGE, 1, torch.bfloat16, target))
        yield from (few[0], few[4], few[5], few[6], few[-1])
        yield from heads(LARGE, 72, torch.bfloat16, target, ASKED[0])
        for kind in (NUMBERS[0], NUMBERS[6]):
            yield from list(numbers(LARGE, 32, torch.bfloat16, target, kind))[:3:2]
        return
    for dtype in [each for each, name in TYPES.items() if name in sys.argv] or TYPES:
        for rows in ROWS:
            yield from layer(LARGE, rows, dtype, target)
            for asked in ASKED:
                yield from heads(LARGE, rows, dtype, target, asked)
            for kind in NUMBERS if dtype != torch.float32 else ():
                yield from numbers(LARGE, rows, dtype, target, kind)


def failures(archs: tuple[int, ...], *, everything: bool) -> list[str]:
    found = []
    for arch in archs:
        known = set()
        for each in chosen(arch, everything=everything):
            key = (each.name, tuple(each.signature.items()), tuple(each.constants.items()))
            if key in known:
                continue
            known.add(key)
            what = f"{each.name} {each.signature['rows']} for {arch} {each.signature}"
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
