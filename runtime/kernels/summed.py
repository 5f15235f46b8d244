"""What stands between two products: the sums of a product's parts, the residual, and RMSNorm.

A program has one row, and its shape follows from the width alone: a row is summed up in one order.
Only interpreted, where a program costs milliseconds, there are more rows to one.
"""

# ruff: noqa: N803  (Triton names compile-time values in capitals)

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from nldc.runtime.kernels.launchable import TYPES, Launchable, Target, options_of, power_above
from nldc.runtime.kernels.low_rank import Delta
from nldc.runtime.kernels.product import sum_of_parts


@triton.jit(do_not_specialize=["rows"])  # type: ignore[untyped-decorator]
def summed_kernel(  # type: ignore[no-untyped-def]
    part_ptr, state_ptr, delta_ptr, mark_ptr, gamma_ptr, sum_ptr, normed_ptr, rows, eps,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, PARTS: tl.constexpr,
    ADAPTED: tl.constexpr, NORMED: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Write state + sum of parts [., rows, WIDTH] to `sum_ptr`, and its RMSNorm to `normed_ptr`.

    Without parts, the state is normed as it is. ADAPTED: rows whose mark is not 0 get `delta_ptr`
    [rows, WIDTH] float32 too. `sum_ptr` may be `state_ptr`. Grid: tiles of ROWS rows.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    held = (row < rows)[:, None] & (column < WIDTH)[None, :]
    place = row[:, None].to(tl.int64) * WIDTH + column[None, :]
    if NORMED:
        gamma = tl.load(gamma_ptr + column, mask=column < WIDTH, other=0.0).to(tl.float32)
    if DEPENDENT:
        gdc_wait()
    value = tl.load(state_ptr + place, mask=held, other=0.0).to(tl.float32)
    if PARTS > 0:
        total = sum_of_parts(part_ptr, place, held, rows.to(tl.int64) * WIDTH, PARTS)
        if ADAPTED:
            mark = tl.load(mark_ptr + row, mask=row < rows, other=0)
            adapted = held & (mark != 0)[:, None]
            delta = tl.load(delta_ptr + place, mask=adapted, other=0.0)
            total = tl.where(adapted, total + delta, total)
        rounded = (value + total).to(sum_ptr.dtype.element_ty)
        tl.store(sum_ptr + place, rounded, mask=held)
        value = rounded.to(tl.float32)
    if DEPENDENT:
        gdc_launch_dependents()
    if NORMED:
        mean = tl.sum(value * value, 1) / WIDTH
        normed = value * tl.rsqrt(mean + eps)[:, None] * gamma[None, :]
        tl.store(normed_ptr + place, normed.to(normed_ptr.dtype.element_ty), mask=held)


@lru_cache(maxsize=1024)
def launchable(
    width: int, parts: int, dtype: torch.dtype, target: Target, *, adapted: bool, normed: bool
) -> Launchable:
    """Return the kernel for rows of that width and a product of so many parts (0: none)."""
    number = f"*{TYPES[dtype]}"
    pointers = {
        "part_ptr": "*fp32" if parts else number,
        "state_ptr": number,
        "delta_ptr": "*fp32" if adapted else number,
        "mark_ptr": "*i8" if adapted else number,
        "gamma_ptr": number,
        "sum_ptr": number,
        "normed_ptr": number,
    }
    block = power_above(width, 16)
    constants: dict[str, Any] = {
        "WIDTH": width,
        "ROWS": 64 if target.upcast else 1,
        "BLOCK": block,
        "PARTS": parts,
        "ADAPTED": adapted,
        "NORMED": normed,
        "DEPENDENT": target.dependent,
    }
    return Launchable(
        f"summed {width} parts {parts}" + " adapted" * adapted + " normed" * normed,
        summed_kernel,
        {**pointers, "rows": "i32", "eps": "fp32"},
        constants,
        options_of(target, max(1, min(8, block // 512)), 1),
        tuple(pointers),
    )


def normed(states: Tensor, gamma: Tensor, eps: float, target: Target) -> Tensor:
    """Return the RMSNorm of `states` [rows, width], without gaps, times `gamma` [width]."""
    return _run(None, states, gamma, eps, target, None, states)[1]


def added(
    parts: Tensor,
    states: Tensor,
    target: Target,
    beside: Delta | None = None,
    into: Tensor | None = None,
) -> Tensor:
    """Return `states` + the sum of `parts`, rounded once.

    `states` [rows, width] without gaps, `parts` float32 [parts, rows, width]; `beside` is an
    adapter's part of the sum. The sum is written to `into`, which may be `states` (None: to new
    memory).
    """
    return _run(parts, states, None, 0.0, target, beside, into)[0]


def added_normed(
    parts: Tensor,
    states: Tensor,
    gamma: Tensor,
    eps: float,
    target: Target,
    beside: Delta | None = None,
    into: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return what `added` does, and the RMSNorm of that times `gamma`."""
    return _run(parts, states, gamma, eps, target, beside, into)


def _run(
    parts: Tensor | None,
    states: Tensor,
    gamma: Tensor | None,
    eps: float,
    target: Target,
    beside: Delta | None,
    into: Tensor | None,
) -> tuple[Tensor, Tensor]:
    rows, width = states.shape
    total = torch.empty_like(states) if into is None else into
    norm = total if gamma is None else torch.empty_like(states)
    kernel = launchable(
        width,
        0 if parts is None else len(parts),
        states.dtype,
        target,
        adapted=beside is not None,
        normed=gamma is not None,
    )
    kernel.launch(
        (-(-rows // kernel.constants["ROWS"]),),
        states if parts is None else parts,
        states,
        states if beside is None else beside.values,
        states if beside is None else beside.marks,
        states if gamma is None else gamma,
        total,
        norm,
        rows,
        eps,
    )
    return total, norm
