"""The gated product of an MLP: `silu(x @ gate.T) * (x @ up.T)`, the activation as an epilogue.

Both weights are read side by side, a program for the same features of each. See `product` for what
a row's bits depend on; these sums are never cut, since the activation needs them whole.
"""

# ruff: noqa: N803  (Triton names compile-time values in capitals)

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from nldc.runtime.kernels.blocks import row_block, weight_block
from nldc.runtime.kernels.launchable import TYPES, Launchable, Target, options_of, power_above
from nldc.runtime.kernels.low_rank import Delta
from nldc.runtime.kernels.numbers import number_sums
from nldc.runtime.kernels.product import (
    FEW,
    Matrix,
    Shape,
    Tile,
    rows_of_tile,
    store_rows,
    tile_constants,
    tile_of,
)


@triton.jit  # type: ignore[untyped-decorator]
def _sums(  # type: ignore[no-untyped-def]
    x_ptr, gate_ptr, up_ptr, row, other_row, out,
    WIDTH: tl.constexpr, STRIDE: tl.constexpr, BLOCK: tl.constexpr, MORE: tl.constexpr,
    ONCE: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Return the products with gate and up, [N, R] and [N, MORE] of each."""
    gate = tl.zeros((out.shape[0], row.shape[0]), tl.float32)
    up = tl.zeros((out.shape[0], row.shape[0]), tl.float32)
    other_gate = tl.zeros((out.shape[0], other_row.shape[0]), tl.float32)
    other_up = tl.zeros((out.shape[0], other_row.shape[0]), tl.float32)
    for start in tl.range(0, WIDTH, BLOCK):
        column = start + tl.arange(0, BLOCK)
        weight = weight_block(gate_ptr, out, column, WIDTH, STRIDE, BLOCK, ONCE, UPCAST)
        beside = weight_block(up_ptr, out, column, WIDTH, STRIDE, BLOCK, ONCE, UPCAST)
        x = row_block(x_ptr, row, column, WIDTH, BLOCK, UPCAST)
        gate = tl.dot(weight, x, gate, input_precision="ieee", out_dtype=tl.float32)
        up = tl.dot(beside, x, up, input_precision="ieee", out_dtype=tl.float32)
        if MORE > 0:
            x = row_block(x_ptr, other_row, column, WIDTH, BLOCK, UPCAST)
            other_gate = tl.dot(weight, x, other_gate, input_precision="ieee", out_dtype=tl.float32)
            other_up = tl.dot(beside, x, other_up, input_precision="ieee", out_dtype=tl.float32)
    return gate, up, other_gate, other_up


@triton.jit  # type: ignore[untyped-decorator]
def _activated(  # type: ignore[no-untyped-def]
    gate, up, delta_ptr, mark_ptr, row, out, rows, OUT: tl.constexpr, ADAPTED: tl.constexpr
):
    """Return silu(gate) * up of [N, R], with an adapter's products on the rows marked."""
    if ADAPTED:
        mark = tl.load(mark_ptr + row, mask=row < rows, other=0)
        adapted = (mark != 0)[None, :] & (out < OUT)[:, None]
        place = delta_ptr + row[None, :].to(tl.int64) * (2 * OUT) + out[:, None]
        gate = tl.where(adapted, gate + tl.load(place, mask=adapted, other=0.0), gate)
        up = tl.where(adapted, up + tl.load(place + OUT, mask=adapted, other=0.0), up)
    return gate / (1.0 + tl.exp(-gate)) * up


@triton.jit(do_not_specialize=["rows"])  # type: ignore[untyped-decorator]
def gated_kernel(  # type: ignore[no-untyped-def]
    x_ptr, gate_ptr, gate_scale_ptr, gate_offset_ptr, up_ptr, up_scale_ptr, up_offset_ptr,
    delta_ptr, mark_ptr, out_ptr, rows,
    OUT: tl.constexpr, WIDTH: tl.constexpr, STRIDE: tl.constexpr, ROWS: tl.constexpr,
    MORE: tl.constexpr, FEATURES: tl.constexpr, BLOCK: tl.constexpr, ONCE: tl.constexpr,
    ADAPTED: tl.constexpr, UPCAST: tl.constexpr, BITS: tl.constexpr, FLOATING: tl.constexpr,
    LANES: tl.constexpr, GROUP: tl.constexpr, CHAIN: tl.constexpr, SHIFTED: tl.constexpr,
    PTX: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Write [rows, OUT] for x [rows, WIDTH] and two weights [OUT, WIDTH].

    ADAPTED: `delta_ptr` float32 [rows, 2 * OUT] is added on the rows whose mark is not 0, for gate
    and then for up. Grid: tiles of features * tiles of rows, these side by side.
    """
    row_tiles = tl.cdiv(rows, ROWS + MORE)
    first_row = (tl.program_id(0) % row_tiles) * (ROWS + MORE)
    first_out = (tl.program_id(0) // row_tiles) * FEATURES
    out = tl.arange(0, FEATURES)
    held = tl.minimum(out, OUT - 1 - first_out)
    gate_ptr += first_out.to(tl.int64) * STRIDE
    up_ptr += first_out.to(tl.int64) * STRIDE
    if DEPENDENT:
        gdc_wait()
    row, other_row, x_row, x_other = rows_of_tile(rows - first_row, ROWS, MORE)
    x_ptr += first_row.to(tl.int64) * WIDTH
    if BITS == 16:
        gate, up, other_gate, other_up = _sums(
            x_ptr, gate_ptr, up_ptr, x_row, x_other, held,
            WIDTH, STRIDE, BLOCK, MORE, ONCE, UPCAST,
        )  # fmt: skip
    else:
        gate, other_gate, up, other_up = number_sums(
            x_ptr, gate_ptr, gate_scale_ptr + first_out, gate_offset_ptr + first_out,
            up_ptr, up_scale_ptr + first_out, up_offset_ptr + first_out, x_row, x_other, held,
            0, WIDTH, OUT, WIDTH, STRIDE, BLOCK, MORE, ONCE, UPCAST,
            BITS, FLOATING, LANES, GROUP, CHAIN, SHIFTED, PTX, True,
        )  # fmt: skip
    if DEPENDENT:
        gdc_launch_dependents()
    row += first_row
    out += first_out
    found = _activated(gate, up, delta_ptr, mark_ptr, row, out, rows, OUT, ADAPTED)
    store_rows(out_ptr, found, row, out, rows, OUT)
    if MORE > 0:
        other_row += first_row
        found = _activated(
            other_gate, other_up, delta_ptr, mark_ptr, other_row, out, rows, OUT, ADAPTED
        )
        store_rows(out_ptr, found, other_row, out, rows, OUT)


@triton.jit(do_not_specialize=["rows"])  # type: ignore[untyped-decorator]
def activated_kernel(  # type: ignore[no-untyped-def]
    gate_ptr, up_ptr, delta_ptr, mark_ptr, out_ptr, rows,
    OUT: tl.constexpr, FEATURES: tl.constexpr, ADAPTED: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Write [rows, OUT] of the products with gate and up, float32 [., OUT], as `gated_kernel` does.

    Grid: rows, tiles of features.
    """
    row = tl.program_id(0) + tl.arange(0, 1)
    out = tl.program_id(1) * FEATURES + tl.arange(0, FEATURES)
    place = row[None, :].to(tl.int64) * OUT + out[:, None]
    held = (out < OUT)[:, None]
    if DEPENDENT:
        gdc_wait()
    gate = tl.load(gate_ptr + place, mask=held, other=0.0)
    up = tl.load(up_ptr + place, mask=held, other=0.0)
    found = _activated(gate, up, delta_ptr, mark_ptr, row, out, rows, OUT, ADAPTED)
    if DEPENDENT:
        gdc_launch_dependents()
    store_rows(out_ptr, found, row, out, rows, OUT)


def gated_tile(rows: int, shape: Shape, target: Target, *, adapted: bool = False) -> Tile:
    """Return what a program takes of so many rows; an adapter's part takes registers too."""
    tile = tile_of(rows, shape, target, weights=2)
    if not adapted or target.upcast or tile.rows < FEW:
        return tile
    return replace(tile, rows=FEW, features=64, warps=8, stages=min(tile.stages, 3))


@lru_cache(maxsize=1024)
def launchable(
    shape: Shape, tile: Tile, target: Target, *, once: bool, adapted: bool
) -> Launchable:
    """Return the kernel for two weights of a shape; `once`: one program has all the rows."""
    number = f"*{TYPES[shape.dtype]}"
    parts = ("", "_scale", "_offset")
    pointers = {
        "x_ptr": number,
        **{f"gate{part}_ptr": kind for part, kind in zip(parts, shape.pointers, strict=True)},
        **{f"up{part}_ptr": kind for part, kind in zip(parts, shape.pointers, strict=True)},
        "delta_ptr": "*fp32" if adapted else number,
        "mark_ptr": "*i8" if adapted else number,
        "out_ptr": number,
    }
    constants = {
        **tile_constants(shape, tile, target, once=once),
        "ADAPTED": adapted,
    }
    return Launchable(
        f"gated {shape.name} rows {tile.height}" + " adapted" * adapted,
        gated_kernel,
        {**pointers, "rows": "i32"},
        constants,
        options_of(target, tile.warps, tile.stages),
        tuple(pointers),
    )


@lru_cache(maxsize=1024)
def activating(out: int, dtype: torch.dtype, target: Target, *, adapted: bool) -> Launchable:
    """Return the kernel that is left of `gated` where products are at hand."""
    pointers = {
        "gate_ptr": "*fp32",
        "up_ptr": "*fp32",
        "delta_ptr": "*fp32",
        "mark_ptr": "*i8" if adapted else "*fp32",
        "out_ptr": f"*{TYPES[dtype]}",
    }
    constants = {
        "OUT": out,
        "FEATURES": min(1024, power_above(out, 16)),
        "ADAPTED": adapted,
        "DEPENDENT": target.dependent,
    }
    return Launchable(
        f"activated {out}" + " adapted" * adapted,
        activated_kernel,
        {**pointers, "rows": "i32"},
        constants,
        options_of(target, 4, 1),
        tuple(pointers),
    )


def activated(
    gate: Tensor,
    up: Tensor,
    rows: int,
    dtype: torch.dtype,
    target: Target,
    beside: Delta | None = None,
) -> Tensor:
    """Return what `gated` does, of the products float32 [n, out] with gate and up, for `rows` rows.

    Those are the first of the n.
    """
    out = gate.shape[1]
    found = torch.empty((rows, out), dtype=dtype, device=gate.device)
    kernel = activating(out, dtype, target, adapted=beside is not None)
    kernel.launch(
        (rows, -(-out // kernel.constants["FEATURES"])),
        gate,
        up,
        gate if beside is None else beside.values,
        gate if beside is None else beside.marks,
        found,
        rows,
    )
    return found


def gated(
    x: Tensor,
    gate: Matrix,
    up: Matrix,
    target: Target,
    beside: Delta | None = None,
    tile: Tile | None = None,
) -> Tensor:
    """Return silu(x @ gate.T) * (x @ up.T), [rows, out], of `x` [rows, width] without gaps.

    `beside` [rows, 2 * out] is an adapter's part of both products. Both weights have one shape.
    """
    rows, shape = x.shape[0], gate.shape
    tile = tile or gated_tile(rows, shape, target, adapted=beside is not None)
    found = torch.empty((rows, shape.out), dtype=x.dtype, device=x.device)
    row_tiles = -(-rows // tile.height)
    kernel = launchable(shape, tile, target, once=row_tiles == 1, adapted=beside is not None)
    kernel.launch(
        (row_tiles * -(-shape.out // tile.features),),
        x,
        *gate.memory,
        *up.memory,
        x if beside is None else beside.values,
        x if beside is None else beside.marks,
        found,
        rows,
    )
    return found
