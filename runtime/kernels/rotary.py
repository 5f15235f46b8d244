"""Behind the product for query, key and value: sums of its parts, rotary positions, the cache.

Keys and values are written to the pages where attention reads them; queries are left for it,
rotated but not scaled.
"""

# ruff: noqa: N803  (Triton names compile-time values in capitals)

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from nldc.runtime.kernels.launchable import TYPES, Launchable, Target, options_of, power_above
from nldc.runtime.kernels.low_rank import Delta
from nldc.runtime.kernels.product import sum_of_parts

LINES = 8
"""Heads of rows that a program takes; any number gives the same bits."""
PLACES = ("position_ptr", "table_ptr", "slot_ptr", "length_ptr")
"""Columns of tables may begin anywhere: one compiled kernel serves all places."""


@dataclass(frozen=True)
class Heads:
    """How many heads there are of queries and of keys, the size of each, and the rows of a page."""

    query: int
    kv: int
    dim: int
    page: int


@dataclass(frozen=True, eq=False)
class Pages:
    """Where the rows of a forward are written.

    `table` int32 [slots, n] has the pages of every slot; `slots` and `lengths` int64 [B] are the
    sequences' slots, and how many rows lie before theirs.
    """

    table: Tensor
    slots: Tensor
    lengths: Tensor


@triton.jit(  # type: ignore[untyped-decorator]
    do_not_specialize=["rows", "own_rows", "table_stride"],
    do_not_specialize_on_alignment=PLACES,
)
def rotary_kernel(  # type: ignore[no-untyped-def]
    part_ptr, delta_ptr, mark_ptr, position_ptr, cos_ptr, sin_ptr, table_ptr, slot_ptr, length_ptr,
    query_ptr, key_ptr, value_ptr, rows, own_rows, table_stride, page_stride,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HALF: tl.constexpr, PAGE: tl.constexpr,
    LINES: tl.constexpr, BLOCK: tl.constexpr, PARTS: tl.constexpr, ADAPTED: tl.constexpr,
    DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Rotate the sum of the parts [PARTS, rows, (HEADS + 2 * KV_HEADS) * 2 * HALF].

    `position_ptr` int64 [rows]; `cos_ptr` and `sin_ptr` [positions, 2 * HALF], of which sines are
    negated in the first half. `query_ptr` [rows, HEADS, 2 * HALF]; `key_ptr` and `value_ptr` are a
    layer's pages, [pages, KV_HEADS, PAGE, 2 * HALF], and get row r of a sequence `own_rows` long
    behind its length. ADAPTED: see `summed`. Grid: tiles of LINES heads of rows.
    """
    line = tl.program_id(0) * LINES + tl.arange(0, LINES)
    row = (line // (HEADS + 2 * KV_HEADS))[:, None]
    head = (line % (HEADS + 2 * KV_HEADS))[:, None]
    feature = tl.arange(0, BLOCK)[None, :]
    live = row < rows
    held = live & (feature < HALF)
    sequence = row // own_rows
    if DEPENDENT:
        gdc_wait()
    position = tl.load(position_ptr + row, mask=live, other=0)
    at = tl.load(length_ptr + sequence, mask=live, other=0) + row % own_rows
    slot = tl.load(slot_ptr + sequence, mask=live, other=0)
    page = tl.load(table_ptr + slot * table_stride + at // PAGE, mask=live, other=0).to(tl.int64)
    turn = position * (2 * HALF) + feature
    cos = tl.load(cos_ptr + turn, mask=held, other=0.0)
    sin = tl.load(sin_ptr + turn + HALF, mask=held, other=0.0)
    place = line[:, None].to(tl.int64) * (2 * HALF) + feature
    distance = rows.to(tl.int64) * ((HEADS + 2 * KV_HEADS) * 2 * HALF)
    left = sum_of_parts(part_ptr, place, held, distance, PARTS)
    right = sum_of_parts(part_ptr + HALF, place, held, distance, PARTS)
    if ADAPTED:
        adapted = held & (tl.load(mark_ptr + row, mask=live, other=0) != 0)
        delta = tl.load(delta_ptr + place, mask=adapted, other=0.0)
        left = tl.where(adapted, left + delta, left)
        delta = tl.load(delta_ptr + HALF + place, mask=adapted, other=0.0)
        right = tl.where(adapted, right + delta, right)
    if DEPENDENT:
        gdc_launch_dependents()
    turned = head < HEADS + KV_HEADS
    first = tl.where(turned, left * cos - right * sin, left)
    second = tl.where(turned, right * cos + left * sin, right)
    first = first.to(query_ptr.dtype.element_ty)
    second = second.to(query_ptr.dtype.element_ty)

    own = held & (head < HEADS)
    to = query_ptr + (row.to(tl.int64) * HEADS + head) * (2 * HALF) + feature
    tl.store(to, first, mask=own)
    tl.store(to + HALF, second, mask=own)
    kept = page * page_stride + (at % PAGE) * (2 * HALF) + feature
    own = held & (head >= HEADS) & (head < HEADS + KV_HEADS)
    to = key_ptr + kept + (head - HEADS) * (PAGE * 2 * HALF)
    tl.store(to, first, mask=own)
    tl.store(to + HALF, second, mask=own)
    own = held & (head >= HEADS + KV_HEADS)
    to = value_ptr + kept + (head - HEADS - KV_HEADS) * (PAGE * 2 * HALF)
    tl.store(to, first, mask=own)
    tl.store(to + HALF, second, mask=own)


@lru_cache(maxsize=1024)
def launchable(
    heads: Heads, parts: int, dtype: torch.dtype, target: Target, *, adapted: bool
) -> Launchable:
    """Return the kernel for a model's heads and a product of so many parts."""
    number = f"*{TYPES[dtype]}"
    pointers = {
        "part_ptr": "*fp32",
        "delta_ptr": "*fp32",
        "mark_ptr": "*i8" if adapted else "*fp32",
        "position_ptr": "*i64",
        "cos_ptr": "*fp32",
        "sin_ptr": "*fp32",
        "table_ptr": "*i32",
        "slot_ptr": "*i64",
        "length_ptr": "*i64",
        "query_ptr": number,
        "key_ptr": number,
        "value_ptr": number,
    }
    scalars = dict.fromkeys(("rows", "own_rows", "table_stride", "page_stride"), "i32")
    constants = {
        "HEADS": heads.query,
        "KV_HEADS": heads.kv,
        "HALF": heads.dim // 2,
        "PAGE": heads.page,
        "LINES": 512 if target.upcast else LINES,
        "BLOCK": power_above(heads.dim // 2),
        "PARTS": parts,
        "ADAPTED": adapted,
        "DEPENDENT": target.dependent,
    }
    return Launchable(
        f"rotary {heads.query}+2*{heads.kv} x {heads.dim} parts {parts}" + " adapted" * adapted,
        rotary_kernel,
        {**pointers, **scalars},
        constants,
        options_of(target, 4, 1),
        (*(name for name in pointers if name not in PLACES), "page_stride"),
    )


def rotary(
    parts: Tensor,
    positions: Tensor,
    cos: Tensor,
    sin: Tensor,
    pages: Pages,
    keys: Tensor,
    values: Tensor,
    heads: Heads,
    target: Target,
    beside: Delta | None = None,
) -> Tensor:
    """Write keys and values of one layer, and return the queries [rows, heads, dim], rotated.

    `parts` float32 [parts, rows, (heads + 2 * kv_heads) * dim]; `positions` int64 [rows]; `cos` and
    `sin` float32 [positions, dim] as `RopeTable` has them; `keys` and `values` [pages, kv_heads,
    page, dim]. The rows are those of all sequences, equally many of each. `beside` is an
    adapter's part of the sum.
    """
    rows = parts.shape[1]
    shape = (rows, heads.query, heads.dim)
    query = torch.empty(shape, dtype=keys.dtype, device=keys.device)
    kernel = launchable(heads, len(parts), keys.dtype, target, adapted=beside is not None)
    kernel.launch(
        (-(-rows * (heads.query + 2 * heads.kv) // kernel.constants["LINES"]),),
        parts,
        parts if beside is None else beside.values,
        parts if beside is None else beside.marks,
        positions,
        cos,
        sin,
        pages.table,
        pages.slots,
        pages.lengths,
        query,
        keys,
        values,
        rows,
        rows // pages.slots.shape[0],
        pages.table.stride(0),
        keys.stride(0),
    )
    return query
