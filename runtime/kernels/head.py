"""The head's product, of which each tile of logits becomes what is asked for while it is at hand.

The logits of a row are as many as the vocabulary has tokens, and mostly nobody asks for them: they
are written only if somebody does. `kernels.asked` says what else is made of them.
"""

# ruff: noqa: N803  (Triton names compile-time values in capitals)

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from nldc.runtime.kernels.asked import (
    ANYWHERE,
    MEASURED_FEATURES,
    Asked,
    Found,
    Tiles,
    constants_of,
    finish,
    pointers_of,
)
from nldc.runtime.kernels.launchable import TYPES, Launchable, Target, options_of
from nldc.runtime.kernels.noise import APART, Noise
from nldc.runtime.kernels.product import (
    Matrix,
    Shape,
    Tile,
    rows_of_tile,
    sums_of,
    tile_constants,
    tile_of,
)


@triton.jit(  # type: ignore[untyped-decorator]
    do_not_specialize=[*APART, "rows", "own_rows", "barred", "uncounted"],
    do_not_specialize_on_alignment=ANYWHERE,  # a column of a table, which begins where it does
)
def head_kernel(  # type: ignore[no-untyped-def]
    x_ptr, w_ptr, scale_ptr, offset_ptr, logit_ptr, score_ptr, token_ptr, measure_ptr, position_ptr,
    sequence_ptr, seed_ptr, temperature_ptr, given_ptr, sequence_step, seed_step, heat_step,
    rows, own_rows, barred, uncounted,
    OUT: tl.constexpr, WIDTH: tl.constexpr, STRIDE: tl.constexpr, ROWS: tl.constexpr,
    MORE: tl.constexpr, FEATURES: tl.constexpr, BLOCK: tl.constexpr, ONCE: tl.constexpr,
    LOGITS: tl.constexpr, TOKEN: tl.constexpr, NOISY: tl.constexpr,
    MEASURED: tl.constexpr, GIVEN: tl.constexpr, MEASURES: tl.constexpr, UPCAST: tl.constexpr,
    BITS: tl.constexpr, FLOATING: tl.constexpr, LANES: tl.constexpr,
    GROUP: tl.constexpr, CHAIN: tl.constexpr, SHIFTED: tl.constexpr, PTX: tl.constexpr,
    DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Multiply x [rows, WIDTH] with w [OUT, WIDTH], and leave what is asked for.

    `logit_ptr` [rows, OUT]; `score_ptr` (float64 if NOISY, else float32) and `token_ptr` int32
    [rows, tiles]; `measure_ptr` float32 [rows, tiles, MEASURES]; `given_ptr` int64 [rows] tokens.
    The token `barred` is never chosen, and `uncounted` is in no measure. Grid: tiles of features *
    tiles of rows, these side by side.
    """
    row_tiles = tl.cdiv(rows, ROWS + MORE)
    tile = tl.program_id(0) // row_tiles
    tiles = tl.num_programs(0) // row_tiles
    first_row = (tl.program_id(0) % row_tiles) * (ROWS + MORE)
    first_out = tile * FEATURES
    out = tl.arange(0, FEATURES)
    held = tl.minimum(out, OUT - 1 - first_out)
    w_ptr += first_out.to(tl.int64) * STRIDE
    if DEPENDENT:
        gdc_wait()
    row, other_row, x_row, x_other = rows_of_tile(rows - first_row, ROWS, MORE)
    x_ptr += first_row.to(tl.int64) * WIDTH
    total, other = sums_of(
        x_ptr, w_ptr, scale_ptr + first_out, offset_ptr + first_out, x_row, x_other, held, 0, WIDTH,
        OUT, WIDTH, STRIDE, BLOCK, MORE, ONCE, UPCAST,
        BITS, FLOATING, LANES, GROUP, CHAIN, SHIFTED, PTX,
    )  # fmt: skip
    if DEPENDENT:
        gdc_launch_dependents()
    finish(
        total, logit_ptr, score_ptr, token_ptr, measure_ptr, position_ptr, sequence_ptr, seed_ptr,
        temperature_ptr, given_ptr, sequence_step, seed_step, heat_step, first_row + row,
        first_out + out, tile, tiles, rows, own_rows, barred, uncounted,
        OUT, LOGITS, TOKEN, NOISY, MEASURED, GIVEN, MEASURES, x_ptr.dtype.element_ty,
    )  # fmt: skip
    if MORE > 0:
        finish(
            other, logit_ptr, score_ptr, token_ptr, measure_ptr, position_ptr, sequence_ptr,
            seed_ptr, temperature_ptr, given_ptr, sequence_step, seed_step, heat_step,
            first_row + other_row, first_out + out, tile, tiles, rows, own_rows, barred, uncounted,
            OUT, LOGITS, TOKEN, NOISY, MEASURED, GIVEN, MEASURES, x_ptr.dtype.element_ty,
        )  # fmt: skip


def head_tile(rows: int, shape: Shape, target: Target, asked: Asked) -> Tile:
    """Return what a program takes of so many rows: never a segment alone."""
    if (asked.noisy or asked.measures) and not target.upcast:
        # their arithmetic is long: few values a thread, or a compiler takes minutes and spills
        tight = shape.dtype == torch.float32 or target.blackwell
        most = 32 if asked.measures and tight else 64
        few = tile_of(min(rows, most), shape, target)
        warps = 8 if few.rows > 16 else few.warps if target.dependent else 4
        return replace(few, apart=False, features=MEASURED_FEATURES, warps=warps)
    tile = replace(tile_of(rows, shape, target), apart=False)
    return replace(tile, features=MEASURED_FEATURES) if asked.measures else tile


@lru_cache(maxsize=1024)
def launchable(shape: Shape, tile: Tile, target: Target, asked: Asked, *, once: bool) -> Launchable:
    """Return the head of a shape of weights; `once`: one program has all the rows."""
    number = f"*{TYPES[shape.dtype]}"
    pointers = {
        "x_ptr": number,
        **dict(zip(("w_ptr", "scale_ptr", "offset_ptr"), shape.pointers, strict=True)),
        "logit_ptr": number,
        **pointers_of(asked, number),
    }
    constants: dict[str, Any] = {
        **tile_constants(shape, tile, target, once=once),
        "LOGITS": asked.logits,
        **constants_of(asked),
    }
    kinds = [name for name, value in vars(asked).items() if value]
    return Launchable(
        f"head {shape.name} rows {tile.height} {' '.join(kinds)}",
        head_kernel,
        {**pointers, **dict.fromkeys((*APART, "rows", "own_rows", "barred", "uncounted"), "i32")},
        constants,
        options_of(target, tile.warps, tile.stages),
        tuple(name for name in pointers if name not in ANYWHERE),
    )


def head(
    x: Tensor,
    weight: Matrix,
    asked: Asked,
    target: Target,
    noise: Noise | None = None,
    barred: int | None = None,
    tile: Tile | None = None,
    *,
    given: Tensor | None = None,
    uncounted: int | None = None,
) -> Found:
    """Return what is asked for of the logits of `x`, normed rows [rows, width] without gaps.

    The token `barred` is never chosen, and `uncounted` is in no measure. Of `given` tokens, int64
    [rows], those below 0 count as 0.
    """
    rows, shape = x.shape[0], weight.shape
    tile = tile or head_tile(rows, shape, target, asked)
    tiles = -(-shape.out // tile.features)
    row_tiles = -(-rows // tile.height)
    logits = x.new_empty((rows, shape.out)) if asked.logits else None
    left = Tiles.room(asked, rows, tiles, x)
    launchable(shape, tile, target, asked, once=row_tiles == 1).launch(
        (row_tiles * tiles,),
        x,
        *weight.memory,
        x if logits is None else logits,
        *left.arguments(noise, given),
        rows,
        rows if noise is None else noise.own_rows(rows),
        -1 if barred is None else barred,
        -1 if uncounted is None else uncounted,
    )
    return left.merged(target, logits)
