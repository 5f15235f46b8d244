"""One launch of attention for a whole batch: the torch backend's `attend`, fused.

A program holds a tile of query rows, the heads that share a key head side by side, and walks over
the sequence's keys page by page, so that a row's sum is taken in the same order whatever its
forward's other rows are. Keys and values are read where they lie in the cache; the pages' numbers
and the lengths are read from device memory. What a row sees is a `@triton.jit` predicate, inlined.
"""

# ruff: noqa: N803  (Triton names compile-time values in capitals)

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from nldc.runtime.invariant.line_tiles import KEY_TILE

TILE_ROWS = 32
"""Rows of a program, the heads of a group counted; never chosen by the number of rows."""
OPTIONS = {"num_warps": 4, "num_stages": 2, "enable_fp_fusion": False}
"""Fixed: a row's bits depend on them.

No products are fused with sums. `_weigh` is compiled twice, for tiles of the prefix and for those
that are masked, and a compiler fuses the two as it likes; a tile passes from one to the other as
the prefix grows. One loop with one copy would do too, at twice the price for a long prefix.
"""
FACTS = 5
"""Columns of the facts: kind, group, index, row, position."""


@triton.jit  # type: ignore[untyped-decorator]
def _weigh(  # type: ignore[no-untyped-def]
    query, factor, key_ptr, value_ptr, page_ptr, page_stride, step, feature, inside, sees,
    total, top, found,
    HEAD_DIM: tl.constexpr, MASKED: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Add the keys `step` [N] of a page to `total` [M], `top` [M] and `found` [M, D]."""
    page = tl.load(page_ptr).to(tl.int64) * page_stride
    key_ptr += page
    value_ptr += page
    place = step[:, None] * HEAD_DIM + feature[None, :]
    held = inside[:, None] & (feature < HEAD_DIM)[None, :]
    keys = tl.load(key_ptr + place, mask=held, other=0.0)
    values = tl.load(value_ptr + place, mask=held, other=0.0)
    if UPCAST:
        keys = keys.to(tl.float32)
        values = values.to(tl.float32)
    scores = tl.dot(query, tl.trans(keys), input_precision="ieee", out_dtype=tl.float32)
    scores = scores * factor[:, None]
    if MASKED:
        scores = tl.where(sees, scores, float("-inf"))
    higher = tl.maximum(top, tl.max(scores, 1))
    base = tl.where(higher == float("-inf"), 0.0, higher)
    weights = tl.exp2(scores - base[:, None])
    fade = tl.exp2(top - base)
    total = total * fade + tl.sum(weights, 1)
    found = found * fade[:, None]
    found += tl.dot(weights.to(values.dtype), values, input_precision="ieee", out_dtype=tl.float32)
    return total, higher, found


@triton.jit(do_not_specialize=["rows", "table_stride"])  # type: ignore[untyped-decorator]
def attention_kernel(  # type: ignore[no-untyped-def]
    query_ptr, key_ptr, value_ptr, output_ptr, table_ptr, slot_ptr, length_ptr, factor_ptr,
    fact_ptr, rows, kv_heads, query_stride, page_stride, table_stride,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr,
    TILE_M: tl.constexpr, TILE_N: tl.constexpr, FACT_COUNT: tl.constexpr,
    SEES_PREFIX: tl.constexpr, UPCAST: tl.constexpr, PREDICATE: tl.constexpr,
):  # fmt: skip
    """Attend from one tile of query rows of one sequence and key head.

    `query_ptr` [B * rows, heads, HEAD_DIM] with `query_stride` between rows, `output_ptr` the same
    without gaps; `key_ptr` and `value_ptr` are one layer's cache, [pages, kv_heads, TILE_N,
    HEAD_DIM]; `table_ptr` int32 holds each slot's pages, with `table_stride` between slots;
    `factor_ptr` float32 [B * rows], which scales the scores; `fact_ptr` int32 [rows, FACT_COUNT].
    Grid: tiles of rows, B * kv_heads. One compiled kernel serves every number of rows, or a row's
    bits could depend on it.
    """
    sequence = tl.program_id(1) // kv_heads
    kv_head = tl.program_id(1) % kv_heads
    packed = tl.program_id(0) * TILE_M + tl.arange(0, TILE_M)
    row = packed // GROUP
    head = kv_head * GROUP + packed % GROUP
    live = row < rows
    feature = tl.arange(0, BLOCK_D)
    line = (sequence * rows + row).to(tl.int64)
    held = live[:, None] & (feature < HEAD_DIM)[None, :]
    query_place = line[:, None] * query_stride + head[:, None] * HEAD_DIM + feature[None, :]
    query = tl.load(query_ptr + query_place, mask=held, other=0.0)
    if UPCAST:
        query = query.to(tl.float32)
    factor = tl.load(factor_ptr + line, mask=live, other=0.0) * 1.4426950408889634  # log2(e)
    length = tl.load(length_ptr + sequence).to(tl.int32)
    slot = tl.load(slot_ptr + sequence).to(tl.int64)
    table_ptr += slot * table_stride
    start = kv_head.to(tl.int64) * (TILE_N * HEAD_DIM)
    key_ptr += start
    value_ptr += start

    own = fact_ptr + row * FACT_COUNT
    q_kind = tl.load(own, mask=live, other=-1)[:, None]
    q_group = tl.load(own + 1, mask=live, other=-1)[:, None]
    q_index = tl.load(own + 2, mask=live, other=-1)[:, None]
    q_row = tl.load(own + 3, mask=live, other=-1)[:, None]
    q_position = tl.load(own + 4, mask=live, other=0)[:, None]

    total = tl.zeros([TILE_M], dtype=tl.float32)
    top = tl.full([TILE_M], float("-inf"), dtype=tl.float32)
    found = tl.zeros([TILE_M, BLOCK_D], dtype=tl.float32)
    step = tl.arange(0, TILE_N)
    whole = length // TILE_N * TILE_N if SEES_PREFIX else 0
    for first in range(0, whole, TILE_N):
        total, top, found = _weigh(
            query, factor, key_ptr, value_ptr, table_ptr + first // TILE_N, page_stride, step,
            feature, step >= 0, live[:, None],
            total, top, found, HEAD_DIM, False, UPCAST,
        )  # fmt: skip
    for first in range(whole, length + rows, TILE_N):
        key = first + step
        inside = key < length + rows
        other = key - length
        k_prefix = other < 0
        fresh = inside & (other >= 0)
        facts = fact_ptr + other * FACT_COUNT
        k_kind = tl.load(facts, mask=fresh, other=-1)[None, :]
        k_group = tl.load(facts + 1, mask=fresh, other=-1)[None, :]
        k_index = tl.load(facts + 2, mask=fresh, other=-1)[None, :]
        k_row = tl.load(facts + 3, mask=fresh, other=-1)[None, :]
        offset = tl.load(facts + 4, mask=fresh, other=0)
        k_position = tl.where(k_prefix, other, offset)[None, :]
        sees = PREDICATE(
            q_kind, q_group, q_index, q_row, q_position, k_prefix[None, :], k_kind, k_group,
            k_index, k_row, k_position,
        )  # fmt: skip
        total, top, found = _weigh(
            query, factor, key_ptr, value_ptr, table_ptr + first // TILE_N, page_stride, step,
            feature, inside, sees & inside[None, :] & live[:, None],
            total, top, found, HEAD_DIM, True, UPCAST,
        )  # fmt: skip
    found = found / tl.where(total == 0.0, 1.0, total)[:, None]
    output_place = (line * (kv_heads * GROUP) + head)[:, None] * HEAD_DIM + feature[None, :]
    tl.store(output_ptr + output_place, found.to(output_ptr.dtype.element_ty), mask=held)


def constants(group: int, head_dim: int, *, sees_prefix: bool, upcast: bool) -> dict[str, Any]:
    """Return the compile-time values of `attention_kernel` but for the predicate."""
    return {
        "GROUP": group,
        "HEAD_DIM": head_dim,
        "BLOCK_D": max(16, triton.next_power_of_2(head_dim)),
        "TILE_M": TILE_ROWS,
        "TILE_N": KEY_TILE,
        "FACT_COUNT": FACTS,
        "SEES_PREFIX": sees_prefix,
        "UPCAST": upcast,
    }


def attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    table: Tensor,
    slots: Tensor,
    lengths: Tensor,
    factor: Tensor,
    facts: Tensor,
    predicate: Any,
    *,
    sees_prefix: bool,
    upcast: bool,
) -> Tensor:
    """Return [B * R, heads * head_dim] for query [B * R, heads, head_dim].

    `keys` and `values` [pages, kv_heads, KEY_TILE, head_dim] hold the rows already, behind each
    sequence's length. `table` int32 [slots, n] are the pages of every slot; `slots`, `lengths`
    int64 [B]; `factor` float32 [B * R]; `facts` int32
    [R, FACTS]. `upcast` computes 16-bit values in float32 throughout.
    """
    count, heads, dim = query.shape
    rows, batch, kv_heads = facts.shape[0], slots.shape[0], keys.shape[1]
    group = heads // kv_heads
    output = torch.empty((count, heads * dim), dtype=keys.dtype, device=query.device)
    grid = (triton.cdiv(rows * group, TILE_ROWS), batch * kv_heads)
    attention_kernel[grid](
        query, keys, values, output, table, slots, lengths, factor, facts,
        rows, kv_heads, query.stride(0), keys.stride(0), table.stride(0),
        **constants(group, dim, sees_prefix=sees_prefix, upcast=upcast),
        PREDICATE=predicate,
        **OPTIONS,
    )  # fmt: skip
    return output
