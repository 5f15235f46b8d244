"""Attention of a whole batch over the cache's pages, in one launch or two.

A program holds a tile of query rows, the heads that share a key head side by side, and weighs some
of the sequence's keys: a split, a chunk of splits, or all of them (see `attention_tiles`). Where
several programs share a row's keys, each writes its largest score, the sum of its weights and its
weighted values, and a second launch joins them, in the order of a program that has all keys. Keys
and values are read where they lie in the cache; the pages' numbers and the lengths are read from
device memory, and a program behind a sequence's last key ends at once, so that a launch serves
every length up to the one that it was made for. What a row sees is a `@triton.jit` predicate,
inlined.
"""

# ruff: noqa: N803  (Triton names compile-time values in capitals)

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from nldc.runtime.invariant.line_tiles import KEY_TILE
from nldc.runtime.kernels.attention_tiles import CHUNK, Division, Tile, block_of
from nldc.runtime.kernels.device import interpreted

FACTS = 5
"""Columns of the facts: kind, group, index, row, position."""
MANY = 256
"""Lines that a program joins where it is interpreted, and each takes its time."""
MERGE_OPTIONS = {"num_warps": 1, "num_stages": 1, "enable_fp_fusion": False}


@triton.jit  # type: ignore[untyped-decorator]
def _nothing(LINES: tl.constexpr, BLOCK_D: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return the sum of weights [M], the largest score [M] and the values [M, D] of no keys."""
    total = tl.zeros([LINES], dtype=tl.float32)
    top = tl.full([LINES], float("-inf"), dtype=tl.float32)
    found = tl.zeros([LINES, BLOCK_D], dtype=tl.float32)
    return total, top, found


@triton.jit  # type: ignore[untyped-decorator]
def _join(total, top, found, more, more_top, more_found):  # type: ignore[no-untyped-def]
    """Return what two runs of keys come to together: [M], [M] and [M, D], as of `_nothing`.

    A run of which a row sees no key changes nothing.
    """
    higher = tl.maximum(top, more_top)
    base = tl.where(higher == float("-inf"), 0.0, higher)
    fade = tl.exp2(top - base)
    grow = tl.exp2(more_top - base)
    total = total * fade + more * grow
    found = found * fade[:, None] + more_found * grow[:, None]
    return total, higher, found


@triton.jit  # type: ignore[untyped-decorator]
def _mean(total, found):  # type: ignore[no-untyped-def]
    """Return the weighted values [M, D] over their weights' sum; zeros where nothing was seen."""
    # Runs of unseen keys change the sign of a zero, and nothing else: it is never negative.
    return found / tl.where(total == 0.0, 1.0, total)[:, None] + 0.0


@triton.jit  # type: ignore[untyped-decorator]
def _read(  # type: ignore[no-untyped-def]
    place, first, end,
    PAGE: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, MASKED: tl.constexpr,
    UPCAST: tl.constexpr,
):  # fmt: skip
    """Return a page's keys or values [PAGE, D], with zeros in place of key `end` and what follows.

    `place` [PAGE, D] are their addresses; without `MASKED` all keys are there.
    """
    feature = tl.arange(0, BLOCK_D)
    if MASKED:
        there = (first + tl.arange(0, PAGE) < end)[:, None] & (feature < HEAD_DIM)[None, :]
        read = tl.load(place, mask=there, other=0.0)
    elif HEAD_DIM == BLOCK_D:
        read = tl.load(place)
    else:
        read = tl.load(place, mask=(feature < HEAD_DIM)[None, :], other=0.0)
    if UPCAST:
        read = read.to(tl.float32)
    return read


@triton.jit  # type: ignore[untyped-decorator]
def _sees(  # type: ignore[no-untyped-def]
    q_kind, q_group, q_index, q_row, q_position, live, fact_ptr, first, end, length,
    PAGE: tl.constexpr, FACT_COUNT: tl.constexpr, PREDICATE: tl.constexpr,
):  # fmt: skip
    """Return which keys of a page the rows see, bool [M, PAGE]."""
    key = first + tl.arange(0, PAGE)
    other = key - length
    k_prefix = other < 0
    fresh = (key < end) & (other >= 0)
    facts = fact_ptr + other * FACT_COUNT
    k_kind = tl.load(facts, mask=fresh, other=-1)[None, :]
    k_group = tl.load(facts + 1, mask=fresh, other=-1)[None, :]
    k_index = tl.load(facts + 2, mask=fresh, other=-1)[None, :]
    k_row = tl.load(facts + 3, mask=fresh, other=-1)[None, :]
    offset = tl.load(facts + 4, mask=fresh, other=0)
    k_position = tl.where(k_prefix, other, offset)[None, :]
    sees = PREDICATE(
        q_kind, q_group, q_index, q_row, q_position, k_prefix[None, :], k_kind, k_group, k_index,
        k_row, k_position,
    )  # fmt: skip
    return sees & (key < end)[None, :] & live[:, None]


@triton.jit  # type: ignore[untyped-decorator]
def _sum(weights, UPCAST: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return the sums [M] of weights [M, PAGE] between 0 and 1, one of which is 1 in a row, or all
    are 0.

    They are sums of whole numbers: those are the same in every order, and `tl.sum` takes another
    one in a tile of another size.
    """
    if UPCAST:
        return tl.sum((weights * 1099511627776.0).to(tl.int64), 1).to(tl.float32) / 1099511627776.0
    # Between 2 and 4 the bits of a float32 count steps of 2 ** -22.
    steps = (weights.to(tl.float32) + 2.0).to(tl.int32, bitcast=True) - 0x40000000
    return tl.sum(steps, 1).to(tl.float32) / 4194304.0


@triton.jit  # type: ignore[untyped-decorator]
def _weigh(  # type: ignore[no-untyped-def]
    query, factor, key_ptr, value_ptr, table_ptr, page_stride, first, end, sees,
    PAGE: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, MASKED: tl.constexpr,
    UPCAST: tl.constexpr,
):  # fmt: skip
    """Return what the page that begins with key `first` comes to, as `_nothing` does.

    With `MASKED`, rows see of it what bool `sees` [M, PAGE] says; else all.
    """
    page = tl.load(table_ptr + first // PAGE).to(tl.int64) * page_stride
    place = tl.arange(0, PAGE)[:, None] * HEAD_DIM + tl.arange(0, BLOCK_D)[None, :]
    keys = _read(key_ptr + page + place, first, end, PAGE, HEAD_DIM, BLOCK_D, MASKED, UPCAST)
    values = _read(value_ptr + page + place, first, end, PAGE, HEAD_DIM, BLOCK_D, MASKED, UPCAST)
    scores = tl.dot(query, tl.trans(keys), input_precision="ieee", out_dtype=tl.float32)
    scores = scores * factor[:, None]
    if MASKED:
        scores = tl.where(sees, scores, float("-inf"))
    top = tl.max(scores, 1)
    base = tl.where(top == float("-inf"), 0.0, top)
    weights = tl.exp2(scores - base[:, None]).to(values.dtype)
    found = tl.dot(weights, values, input_precision="ieee", out_dtype=tl.float32)
    return _sum(weights, UPCAST), top, found


@triton.jit  # type: ignore[untyped-decorator]
def _walk(  # type: ignore[no-untyped-def]
    query, factor, key_ptr, value_ptr, table_ptr, page_stride, fact_ptr, length, begin, end,
    hole, beyond, own, live,
    LINES: tl.constexpr, PAGE: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr,
    FACT_COUNT: tl.constexpr, SEES_PREFIX: tl.constexpr, UPCAST: tl.constexpr,
    PREDICATE: tl.constexpr,
):  # fmt: skip
    """Return what the pages from key `begin` to `end` come to, joined one after another.

    Nobody sees a key from `hole` to `beyond`, which are ends of pages. `own` [M] are the addresses
    of the rows' facts.
    """
    total, top, found = _nothing(LINES, BLOCK_D)
    whole = begin
    if SEES_PREFIX:
        whole = tl.maximum(begin, tl.minimum(end, length) // PAGE * PAGE)
    for first in range(begin, whole, PAGE):
        more, more_top, more_found = _weigh(
            query, factor, key_ptr, value_ptr, table_ptr, page_stride, first, end, live,
            PAGE, HEAD_DIM, BLOCK_D, False, UPCAST,
        )  # fmt: skip
        total, top, found = _join(total, top, found, more, more_top, more_found)
    q_kind = tl.load(own, mask=live, other=-1)[:, None]
    q_group = tl.load(own + 1, mask=live, other=-1)[:, None]
    q_index = tl.load(own + 2, mask=live, other=-1)[:, None]
    q_row = tl.load(own + 3, mask=live, other=-1)[:, None]
    q_position = tl.load(own + 4, mask=live, other=0)[:, None]
    hole = tl.minimum(tl.maximum(hole, whole), end)
    missing = tl.maximum(tl.minimum(beyond, end) - hole, 0)
    for place in range(whole, end - missing, PAGE):
        first = place + tl.where(place >= hole, missing, 0)
        sees = _sees(
            q_kind, q_group, q_index, q_row, q_position, live, fact_ptr, first, end, length,
            PAGE, FACT_COUNT, PREDICATE,
        )  # fmt: skip
        if SEES_PREFIX:
            more, more_top, more_found = _weigh(
                query, factor, key_ptr, value_ptr, table_ptr, page_stride, first, end, sees,
                PAGE, HEAD_DIM, BLOCK_D, True, UPCAST,
            )  # fmt: skip
            total, top, found = _join(total, top, found, more, more_top, more_found)
        elif tl.max(tl.max(sees.to(tl.int32), 1), 0) > 0:
            more, more_top, more_found = _weigh(
                query, factor, key_ptr, value_ptr, table_ptr, page_stride, first, end, sees,
                PAGE, HEAD_DIM, BLOCK_D, True, UPCAST,
            )  # fmt: skip
            total, top, found = _join(total, top, found, more, more_top, more_found)
    return total, top, found


@triton.jit(  # type: ignore[untyped-decorator]
    do_not_specialize=["rows", "span", "kv_heads", "table_stride"]
)
def attention_kernel(  # type: ignore[no-untyped-def]
    query_ptr, key_ptr, value_ptr, output_ptr, found_ptr, top_ptr, total_ptr, table_ptr, slot_ptr,
    length_ptr, factor_ptr, fact_ptr, seen_ptr, rows, span, kv_heads, query_stride, page_stride,
    table_stride,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, LINES: tl.constexpr,
    PAGE: tl.constexpr, CHUNK_KEYS: tl.constexpr, FACT_COUNT: tl.constexpr,
    SEES_PREFIX: tl.constexpr, UPCAST: tl.constexpr, PARTIAL: tl.constexpr,
    PREDICATE: tl.constexpr,
):  # fmt: skip
    """Attend from one tile of query rows of one sequence and key head, to some keys or to all.

    `query_ptr` [B * rows, heads, HEAD_DIM] with `query_stride` between rows, `output_ptr` the same
    without gaps; `key_ptr` and `value_ptr` are one layer's cache, [pages, kv_heads, PAGE,
    HEAD_DIM]; `table_ptr` int32 holds each slot's pages, with `table_stride` between slots;
    `factor_ptr` float32 [B * rows], which scales the scores; `fact_ptr` int32 [rows, FACT_COUNT]
    and `seen_ptr` int32 [rows, 3] are of the plan. With `PARTIAL` the program takes `span` keys, a
    page or a chunk, and writes what they come to: float32 `found_ptr` [programs, LINES, BLOCK_D],
    `top_ptr` and `total_ptr` [programs, LINES]. Else it takes all, chunk by chunk, and keeps the
    chunks before there. Grid: tiles of rows, B * kv_heads, units; programs are counted with tiles
    fastest.
    """
    sequence = tl.program_id(1) // kv_heads
    kv_head = tl.program_id(1) % kv_heads
    begin = tl.program_id(2) * span
    length = tl.load(length_ptr + sequence).to(tl.int32)
    if begin >= length + rows:
        return
    # Lines are counted from the tile's first row: the fewer numbers are alive, the more registers
    # are left for sums.
    line = tl.arange(0, LINES)
    inner = line
    if LINES % GROUP != 0:
        inner += tl.program_id(0) * LINES % GROUP
    row = inner // GROUP
    tile_row = tl.program_id(0) * LINES // GROUP
    live = row < rows - tile_row
    end = length + rows
    hole = end
    beyond = end
    # Not worth a wait where one program has all rows, or keys that all of them see.
    if (tl.num_programs(0) > 1) & ((begin + span > length) | (span == 0)):
        seen = seen_ptr + tile_row * 3 + row * 3
        hole = length + tl.max(tl.load(seen, mask=live, other=0), 0)
        beyond = length + tl.min(tl.load(seen + 1, mask=live, other=0x3FFFFFFF), 0)
        end = length + tl.max(tl.load(seen + 2, mask=live, other=0), 0)
    hole = tl.cdiv(hole, PAGE) * PAGE
    beyond = beyond // PAGE * PAGE
    if PARTIAL:
        if (begin >= end) | ((begin >= hole) & (begin + span <= beyond)):
            return
    end = tl.maximum(end, 1)
    feature = tl.arange(0, BLOCK_D)
    held = live[:, None] & (feature < HEAD_DIM)[None, :]
    first_row = (sequence * rows + tile_row).to(tl.int64)
    head = inner % GROUP * HEAD_DIM
    query_ptr += first_row * query_stride + kv_head * (GROUP * HEAD_DIM)
    query_place = (row * query_stride + head)[:, None] + feature[None, :]
    query = tl.load(query_ptr + query_place, mask=held, other=0.0)
    if UPCAST:
        query = query.to(tl.float32)
    factor = tl.load(factor_ptr + first_row + row, mask=live, other=0.0)
    factor *= 1.4426950408889634  # log2(e)
    slot = tl.load(slot_ptr + sequence).to(tl.int64)
    table_ptr += slot * table_stride
    start = kv_head.to(tl.int64) * (PAGE * HEAD_DIM)
    key_ptr += start
    value_ptr += start
    own = fact_ptr + tile_row * FACT_COUNT + row * FACT_COUNT

    # What a program writes for others, or for itself, lies together.
    program = tl.program_id(2) * tl.num_programs(1) + tl.program_id(1)
    program = program.to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
    total_ptr += program * LINES
    top_ptr += program * LINES
    found_ptr += program * LINES * BLOCK_D
    cell = line[:, None] * BLOCK_D + feature[None, :]
    if PARTIAL:
        total, top, found = _walk(
            query, factor, key_ptr, value_ptr, table_ptr, page_stride, fact_ptr, length,
            begin, tl.minimum(begin + span, end), hole, beyond,
            own, live, LINES, PAGE, HEAD_DIM, BLOCK_D, FACT_COUNT, SEES_PREFIX, UPCAST, PREDICATE,
        )  # fmt: skip
        tl.store(total_ptr + line, total)
        tl.store(top_ptr + line, top)
        tl.store(found_ptr + cell, found)
    else:
        total, top, found = _nothing(LINES, BLOCK_D)
        for chunk in range(0, end, CHUNK_KEYS):
            # There are no registers for the chunks before: they lie in memory meanwhile.
            if chunk > 0:
                tl.store(total_ptr + line, total)
                tl.store(top_ptr + line, top)
                tl.store(found_ptr + cell, found)
            total, top, found = _walk(
                query, factor, key_ptr, value_ptr, table_ptr, page_stride, fact_ptr, length,
                chunk, tl.minimum(chunk + CHUNK_KEYS, end), hole, beyond,
                own, live, LINES, PAGE, HEAD_DIM, BLOCK_D, FACT_COUNT, SEES_PREFIX, UPCAST, PREDICATE,
            )  # fmt: skip
            if chunk > 0:
                tl.debug_barrier()
                total, top, found = _join(
                    tl.load(total_ptr + line), tl.load(top_ptr + line), tl.load(found_ptr + cell),
                    total, top, found,
                )  # fmt: skip
                tl.debug_barrier()
        stride = kv_heads * (GROUP * HEAD_DIM)
        output_ptr += first_row * stride + kv_head * (GROUP * HEAD_DIM)
        output_place = (row * stride + head)[:, None] + feature[None, :]
        output = _mean(total, found).to(output_ptr.dtype.element_ty)
        tl.store(output_ptr + output_place, output, mask=held)


@triton.jit(  # type: ignore[untyped-decorator]
    do_not_specialize=["lines", "rows", "span", "pairs", "padded"]
)
def merge_kernel(  # type: ignore[no-untyped-def]
    output_ptr, found_ptr, top_ptr, total_ptr, length_ptr, seen_ptr, lines, rows, span, pairs,
    padded,
    HEADS: tl.constexpr, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr,
    LINES: tl.constexpr, UNITS: tl.constexpr,
):  # fmt: skip
    """Join what the programs of `attention_kernel` wrote of some lines, unit by unit.

    A line is a row and one of its heads, of `lines` = B * rows * HEADS; `output_ptr` is [lines,
    HEAD_DIM]. `UNITS` units of `span` keys are a chunk; each has `pairs` = B * key heads times
    `padded` lines of that kernel, whose pointers the others are. Grid: lines / LINES.
    """
    here = tl.program_id(0) * LINES + tl.arange(0, LINES)
    live = here < lines
    place = here // HEADS
    head = here % HEADS
    sequence = place // rows
    row = place % rows
    length = tl.load(length_ptr + sequence, mask=live, other=0).to(tl.int32)
    seen = seen_ptr + row * 3
    # Nothing was written of units in which no row of a tile sees a key, nor is it needed.
    hole = tl.cdiv(length + tl.load(seen, mask=live, other=0), span)
    beyond = (length + tl.load(seen + 1, mask=live, other=0)) // span
    units = tl.cdiv(length + tl.load(seen + 2, mask=live, other=0), span)
    pair = sequence * (HEADS // GROUP) + head // GROUP
    start = pair.to(tl.int64) * padded + row * GROUP + head % GROUP
    feature = tl.arange(0, BLOCK_D)
    total, top, found = _nothing(LINES, BLOCK_D)
    for first in range(0, tl.max(units, 0), UNITS):
        chunk, chunk_top, chunk_found = _nothing(LINES, BLOCK_D)
        for part in tl.static_range(UNITS):
            unit = first + part
            line = start + tl.full([LINES], pairs, tl.int64) * padded * unit
            read = (unit < units) & ((unit < hole) | (unit >= beyond))
            cell = line[:, None] * BLOCK_D + feature[None, :]
            chunk, chunk_top, chunk_found = _join(
                chunk, chunk_top, chunk_found,
                tl.load(total_ptr + line, mask=read, other=0.0),
                tl.load(top_ptr + line, mask=read, other=float("-inf")),
                tl.load(found_ptr + cell, mask=read[:, None], other=0.0),
            )  # fmt: skip
        total, top, found = _join(total, top, found, chunk, chunk_top, chunk_found)
    output = _mean(total, found).to(output_ptr.dtype.element_ty)
    cell = here.to(tl.int64)[:, None] * HEAD_DIM + feature[None, :]
    tl.store(output_ptr + cell, output, mask=live[:, None] & (feature < HEAD_DIM)[None, :])


def constants(
    group: int, head_dim: int, tile: Tile, *, sees_prefix: bool, upcast: bool, partial: bool
) -> dict[str, Any]:
    """Return the compile-time values of `attention_kernel` but for the predicate."""
    return {
        "GROUP": group,
        "HEAD_DIM": head_dim,
        "BLOCK_D": block_of(head_dim),
        "LINES": tile.lines,
        "PAGE": KEY_TILE,
        "CHUNK_KEYS": CHUNK * KEY_TILE,
        "FACT_COUNT": FACTS,
        "SEES_PREFIX": sees_prefix,
        "UPCAST": upcast,
        "PARTIAL": partial,
    }


def merge_constants(
    heads: int, group: int, head_dim: int, *, chunks: bool, lines: int = 1
) -> dict[str, Any]:
    """Return the compile-time values of `merge_kernel`, for units that are chunks or else pages."""
    return {
        "HEADS": heads,
        "GROUP": group,
        "HEAD_DIM": head_dim,
        "BLOCK_D": block_of(head_dim),
        "LINES": lines,
        "UNITS": 1 if chunks else CHUNK,
    }


@dataclass(frozen=True, eq=False)
class Room:
    """Where programs write what their keys come to: see `attention_kernel`. One serves all layers.

    What it holds before a launch and after it does not matter.
    """

    found: Tensor
    top: Tensor
    total: Tensor

    @staticmethod
    def of(division: Division, pairs: int, head_dim: int, device: torch.device) -> Room:
        """Return room for the programs of a launch; `pairs` are sequences times key heads."""
        lines = division.programs(pairs) * division.tile.lines
        block = block_of(head_dim)
        room = torch.empty(lines * (block + 2), dtype=torch.float32, device=device)
        found, top, total = room.split([lines * block, lines, lines])
        return Room(found, top, total)


def attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    table: Tensor,
    slots: Tensor,
    lengths: Tensor,
    factor: Tensor,
    facts: Tensor,
    seen: Tensor,
    predicate: Any,
    division: Division,
    room: Room,
    *,
    sees_prefix: bool,
    upcast: bool,
) -> Tensor:
    """Return [B * R, heads * head_dim] for query [B * R, heads, head_dim].

    `keys` and `values` [pages, kv_heads, KEY_TILE, head_dim] hold the rows already, behind each
    sequence's length. `table` int32 [slots, n] are the pages of every slot; `slots`, `lengths`
    int64 [B]; `factor` float32 [B * R]; `facts` int32 [R, FACTS] and `seen` int32 [R, 3] are the
    plan's. `division` serves lengths up to that which it was made for. `upcast` computes 16-bit
    values in float32 throughout.
    """
    count, heads, dim = query.shape
    rows, batch, kv_heads = facts.shape[0], slots.shape[0], keys.shape[1]
    group, pairs = heads // kv_heads, batch * kv_heads
    tile, partial = division.tile, division.partial
    output = torch.empty((count, heads * dim), dtype=keys.dtype, device=query.device)
    attention_kernel[division.tiles, pairs, division.units](
        query, keys, values, output, room.found, room.top, room.total, table, slots, lengths,
        factor, facts, seen, rows, division.span, kv_heads, query.stride(0), keys.stride(0),
        table.stride(0),
        **constants(
            group, dim, tile, sees_prefix=sees_prefix, upcast=upcast, partial=partial
        ),
        PREDICATE=predicate,
        **tile.options,
    )  # fmt: skip
    if partial:
        lines, together = count * heads, MANY if interpreted() else 1
        merge_kernel[(triton.cdiv(lines, together),)](
            output, room.found, room.top, room.total, lengths, seen, lines, rows, division.span,
            pairs, division.tiles * tile.lines,
            **merge_constants(heads, group, dim, chunks=division.chunked, lines=together),
            **MERGE_OPTIONS,
        )  # fmt: skip
    return output
