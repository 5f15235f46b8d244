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

from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from nldc.runtime.invariant.line_tiles import KEY_TILE
from nldc.runtime.kernels.attention_tiles import CHUNK, Division, Tile, block_of, half_of
from nldc.runtime.kernels.launchable import TYPES, Launchable, Target, options_of

FACTS = 5
"""Columns of the facts: kind, group, index, row, position."""
MANY = 256
"""Lines that a program joins where it is interpreted, and each takes its time."""
PLACES = ("table_ptr", "slot_ptr", "length_ptr", "prompt_ptr")
"""Columns of tables may begin anywhere: one compiled kernel serves all places."""


@triton.jit  # type: ignore[untyped-decorator]
def _nothing(  # type: ignore[no-untyped-def]
    LINES: tl.constexpr, BLOCK_D: tl.constexpr, HALF: tl.constexpr
):
    """Return the sum of weights [M], the largest score [M] and the values [M, D] of no keys.

    Values are two halves of their features, so that a page's take half of the registers beside
    those of the pages before it; few features are one half.
    """
    total = tl.zeros([LINES], dtype=tl.float32)
    top = tl.full([LINES], float("-inf"), dtype=tl.float32)
    left = tl.zeros([LINES, HALF], dtype=tl.float32)
    right = tl.zeros([LINES, HALF if HALF < BLOCK_D else 1], dtype=tl.float32)
    return total, top, left, right


@triton.jit
def _scales(top, more_top):  # type: ignore[no-untyped-def]
    """Return the larger of two scores [M], and what scales weights of each to it, [M] and [M]."""
    higher = tl.maximum(top, more_top)
    base = tl.where(higher == float("-inf"), 0.0, higher)
    return higher, tl.exp2(top - base), tl.exp2(more_top - base)


@triton.jit
def _both(one, scale, other, other_scale):  # type: ignore[no-untyped-def]
    """Return the sum of two runs of keys, each scaled: all are [M], or one and other [M, D].

    A run of which a row sees no key changes nothing: it is a sum of zeros, and the other's scale 1.
    """
    if len(one.shape) == 2:
        return one * scale[:, None] + other * other_scale[:, None]
    else:  # noqa: RET505  (Triton looks at one of the two)
        return one * scale + other * other_scale


@triton.jit
def _mean(total, found):  # type: ignore[no-untyped-def]
    """Return the weighted values [M, D] over their weights' sum; zeros where nothing was seen."""
    # Runs of unseen keys change the sign of a zero, and nothing else: it is never negative.
    return found / tl.where(total == 0.0, 1.0, total)[:, None] + 0.0


@triton.jit  # type: ignore[untyped-decorator]
def _read(  # type: ignore[no-untyped-def]
    start_ptr, first, end,
    FROM: tl.constexpr, WIDTH: tl.constexpr, PAGE: tl.constexpr, HEAD_DIM: tl.constexpr,
    MASKED: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Return `WIDTH` features of a page's keys or values, [PAGE, WIDTH], with zeros in place of key
    `end` and what follows; without `MASKED` all keys are there.
    """
    step = tl.arange(0, PAGE)
    feature = FROM + tl.arange(0, WIDTH)
    place = start_ptr + step[:, None] * HEAD_DIM + feature[None, :]
    if MASKED:
        there = (first + step < end)[:, None] & (feature < HEAD_DIM)[None, :]
        read = tl.load(place, mask=there, other=0.0)
    elif FROM + WIDTH <= HEAD_DIM:
        read = tl.load(place)
    else:
        read = tl.load(place, mask=(feature < HEAD_DIM)[None, :], other=0.0)
    if UPCAST:
        read = read.to(tl.float32)
    return read


@triton.jit  # type: ignore[untyped-decorator]
def _sees(  # type: ignore[no-untyped-def]
    q_kind, q_group, q_index, q_row, q_position, fact_ptr, first, end, length, prompt,
    PAGE: tl.constexpr, FACT_COUNT: tl.constexpr, ASKS_PROMPT: tl.constexpr,
    PREDICATE: tl.constexpr,
):  # fmt: skip
    """Return which keys of a page the rows see, bool [M, PAGE]; the first `prompt` are a prompt's,
    where that is asked.
    """
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
    if ASKS_PROMPT:
        k_prompt = k_prefix & (key < prompt)
        sees = PREDICATE(
            q_kind, q_group, q_index, q_row, q_position, k_prefix[None, :], k_kind, k_group,
            k_index, k_row, k_position, k_prompt[None, :],
        )  # fmt: skip
    else:
        sees = PREDICATE(
            q_kind, q_group, q_index, q_row, q_position, k_prefix[None, :], k_kind, k_group,
            k_index, k_row, k_position,
        )  # fmt: skip
    return sees & (key < end)[None, :]


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
def _add(  # type: ignore[no-untyped-def]
    total, top, left, right, query, factor, key_ptr, value_ptr, table_ptr, page_stride, first, end,
    q_kind, q_group, q_index, q_row, q_position, fact_ptr, length, prompt,
    PAGE: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, HALF: tl.constexpr,
    FACT_COUNT: tl.constexpr, MASKED: tl.constexpr, UPCAST: tl.constexpr,
    ASKS_PROMPT: tl.constexpr, PREDICATE: tl.constexpr,
):  # fmt: skip
    """Return what keys come to, as `_nothing` does, with the page that begins with key `first`.

    With `MASKED`, rows see of it what `_sees` says; else all, and facts are not looked at. The page
    is weighed by itself, as if it were the only one: so it can be in another program, too.
    """
    page = tl.load(table_ptr + first // PAGE).to(tl.int64) * page_stride
    key_ptr += page
    value_ptr += page
    keys = _read(key_ptr, first, end, 0, BLOCK_D, PAGE, HEAD_DIM, MASKED, UPCAST)
    values = _read(value_ptr, first, end, 0, HALF, PAGE, HEAD_DIM, MASKED, UPCAST)
    if HALF < BLOCK_D:
        others = _read(value_ptr, first, end, HALF, HALF, PAGE, HEAD_DIM, MASKED, UPCAST)
    scores = tl.dot(query, tl.trans(keys), input_precision="ieee", out_dtype=tl.float32)
    scores = scores * factor[:, None]
    if MASKED:  # only now: what rows see would take registers meanwhile
        sees = _sees(
            q_kind, q_group, q_index, q_row, q_position, fact_ptr, first, end, length, prompt,
            PAGE, FACT_COUNT, ASKS_PROMPT, PREDICATE,
        )  # fmt: skip
        scores = tl.where(sees, scores, float("-inf"))
    page_top = tl.max(scores, 1)
    base = tl.where(page_top == float("-inf"), 0.0, page_top)
    weights = tl.exp2(scores - base[:, None]).to(values.dtype)
    top, fade, grow = _scales(top, page_top)
    total = _both(total, fade, _sum(weights, UPCAST), grow)
    found = tl.dot(weights, values, input_precision="ieee", out_dtype=tl.float32)
    left = _both(left, fade, found, grow)
    if HALF < BLOCK_D:
        found = tl.dot(weights, others, input_precision="ieee", out_dtype=tl.float32)
        right = _both(right, fade, found, grow)
    return total, top, left, right


@triton.jit  # type: ignore[untyped-decorator]
def _walk(  # type: ignore[no-untyped-def]
    query, factor, key_ptr, value_ptr, table_ptr, page_stride, fact_ptr, length, begin, end,
    hole, beyond, own, live, prompt,
    LINES: tl.constexpr, PAGE: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr,
    HALF: tl.constexpr, FACT_COUNT: tl.constexpr, SEES_PREFIX: tl.constexpr, UPCAST: tl.constexpr,
    ASKS_PROMPT: tl.constexpr, PREDICATE: tl.constexpr,
):  # fmt: skip
    """Return what the pages from key `begin` to `end` come to, joined one after another.

    Nobody sees a key from `hole` to `beyond`, which are ends of pages. `own` [M] are the addresses
    of the rows' facts.
    """
    total, top, left, right = _nothing(LINES, BLOCK_D, HALF)
    whole = begin
    if SEES_PREFIX:
        whole = tl.maximum(begin, tl.minimum(end, length) // PAGE * PAGE)
    for first in range(begin, whole, PAGE):
        total, top, left, right = _add(
            total, top, left, right, query, factor, key_ptr, value_ptr, table_ptr, page_stride,
            first, end, 0, 0, 0, 0, 0, fact_ptr, length, prompt,
            PAGE, HEAD_DIM, BLOCK_D, HALF, FACT_COUNT, False, UPCAST, ASKS_PROMPT, PREDICATE,
        )  # fmt: skip
    q_kind = tl.load(own, mask=live, other=-1)[:, None]
    q_group = tl.load(own + 1, mask=live, other=-1)[:, None]
    q_index = tl.load(own + 2, mask=live, other=-1)[:, None]
    q_row = tl.load(own + 3, mask=live, other=-1)[:, None]
    q_position = tl.load(own + 4, mask=live, other=0)[:, None]
    hole = tl.minimum(tl.maximum(hole, whole), end)
    missing = tl.maximum(tl.minimum(beyond, end) - hole, 0)
    for place in range(whole, end - missing, PAGE):
        first = place + tl.where(place >= hole, missing, 0)
        some = True
        if not SEES_PREFIX:
            sees = _sees(
                q_kind, q_group, q_index, q_row, q_position, fact_ptr, first, end, length,
                prompt, PAGE, FACT_COUNT, ASKS_PROMPT, PREDICATE,
            )  # fmt: skip
            some = tl.max(tl.max(sees.to(tl.int32), 1), 0) > 0
        if some:
            total, top, left, right = _add(
                total, top, left, right, query, factor, key_ptr, value_ptr, table_ptr,
                page_stride, first, end, q_kind, q_group, q_index, q_row, q_position, fact_ptr,
                length, prompt, PAGE, HEAD_DIM, BLOCK_D, HALF, FACT_COUNT, True, UPCAST,
                ASKS_PROMPT, PREDICATE,
            )  # fmt: skip
    return total, top, left, right


@triton.jit(  # type: ignore[untyped-decorator]
    do_not_specialize=["rows", "span", "kv_heads", "table_stride"],
    do_not_specialize_on_alignment=PLACES,
)
def attention_kernel(  # type: ignore[no-untyped-def]
    query_ptr, key_ptr, value_ptr, output_ptr, room_ptr, table_ptr, slot_ptr, length_ptr,
    factor_ptr, fact_ptr, seen_ptr, prompt_ptr, rows, span, kv_heads, query_stride, page_stride,
    table_stride,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, HALF: tl.constexpr,
    LINES: tl.constexpr, PAGE: tl.constexpr, CHUNK_KEYS: tl.constexpr, FACT_COUNT: tl.constexpr,
    SEES_PREFIX: tl.constexpr, UPCAST: tl.constexpr, PARTIAL: tl.constexpr,
    DEPENDENT: tl.constexpr, ASKS_PROMPT: tl.constexpr, PREDICATE: tl.constexpr,
):  # fmt: skip
    """Attend from one tile of query rows of one sequence and key head, to some keys or to all.

    `query_ptr` [B * rows, heads, HEAD_DIM] with `query_stride` between rows, `output_ptr` the same
    without gaps; `key_ptr` and `value_ptr` are one layer's cache, [pages, kv_heads, PAGE,
    HEAD_DIM]; `table_ptr` int32 holds each slot's pages, with `table_stride` between slots;
    `factor_ptr` float32 [B * rows], which scales the scores; `fact_ptr` int32 [rows, FACT_COUNT]
    and `seen_ptr` int32 [rows, 3] are of the plan; `prompt_ptr` int64 [B], which the predicate may
    ask for. With `PARTIAL` the program takes `span` keys, a
    page or a chunk, and writes what they come to into `room_ptr` float32 [programs, LINES *
    (BLOCK_D + 2)]: values, largest scores, sums of weights. Else it takes all, chunk by chunk, and
    keeps the chunks before there. Grid: tiles of rows, B * kv_heads, units; programs are counted
    with tiles fastest.
    """
    sequence = tl.program_id(1) // kv_heads
    kv_head = tl.program_id(1) % kv_heads
    begin = tl.program_id(2) * span
    length = tl.load(length_ptr + sequence).to(tl.int32)
    if begin >= length + rows:
        return
    if DEPENDENT:  # lengths are older than the launch before this one
        gdc_wait()
    prompt = 0
    if ASKS_PROMPT:
        prompt = tl.load(prompt_ptr + sequence).to(tl.int32)
    # Lines are counted from the tile's first row: the fewer numbers are alive, the more registers
    # are left for sums.
    line = tl.arange(0, LINES)
    shift = 0
    if LINES % GROUP != 0:
        shift = tl.program_id(0) * LINES % GROUP
    inner = shift + line
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
    empty = (begin >= end) | ((begin >= hole) & (begin + span <= beyond))
    if PARTIAL & empty:
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
    room_ptr += program * (LINES * (BLOCK_D + 2))
    kept = LINES * BLOCK_D + line
    cell = line[:, None] * BLOCK_D + tl.arange(0, HALF)[None, :]
    if PARTIAL:
        total, top, left, right = _walk(
            query, factor, key_ptr, value_ptr, table_ptr, page_stride, fact_ptr, length,
            begin, tl.minimum(begin + span, end), hole, beyond,
            own, live, prompt, LINES, PAGE, HEAD_DIM, BLOCK_D, HALF, FACT_COUNT, SEES_PREFIX,
            UPCAST, ASKS_PROMPT, PREDICATE,
        )  # fmt: skip
        if DEPENDENT:
            gdc_launch_dependents()
        tl.store(room_ptr + LINES + kept, total)
        tl.store(room_ptr + kept, top)
        tl.store(room_ptr + cell, left)
        if HALF < BLOCK_D:
            tl.store(room_ptr + HALF + cell, right)
    else:
        total, top, left, right = _nothing(LINES, BLOCK_D, HALF)
        for chunk in range(0, end, CHUNK_KEYS):
            # There are no registers for the chunks before: they lie in memory meanwhile.
            if chunk > 0:
                tl.store(room_ptr + LINES + kept, total)
                tl.store(room_ptr + kept, top)
                tl.store(room_ptr + cell, left)
                if HALF < BLOCK_D:
                    tl.store(room_ptr + HALF + cell, right)
            if UPCAST:
                # Or a compiler would keep it in registers throughout.
                query = tl.load(query_ptr + query_place, mask=held, other=0.0).to(tl.float32)
            total, top, left, right = _walk(
                query, factor, key_ptr, value_ptr, table_ptr, page_stride, fact_ptr, length,
                chunk, tl.minimum(chunk + CHUNK_KEYS, end), hole, beyond, own, live, prompt,
                LINES, PAGE, HEAD_DIM, BLOCK_D, HALF, FACT_COUNT, SEES_PREFIX, UPCAST,
                ASKS_PROMPT, PREDICATE,
            )  # fmt: skip
            if chunk > 0:
                tl.debug_barrier()
                top, fade, grow = _scales(tl.load(room_ptr + kept), top)
                total = _both(tl.load(room_ptr + LINES + kept), fade, total, grow)
                left = _both(tl.load(room_ptr + cell), fade, left, grow)
                if HALF < BLOCK_D:
                    right = _both(tl.load(room_ptr + HALF + cell), fade, right, grow)
                tl.debug_barrier()
        if DEPENDENT:
            gdc_launch_dependents()
        stride = kv_heads * (GROUP * HEAD_DIM)
        output_ptr += first_row * stride + kv_head * (GROUP * HEAD_DIM)
        # Another range than `line`, or the addresses would be computed before all keys were read,
        # and take registers.
        inner = tl.arange(LINES, 2 * LINES) - (LINES - shift)
        place = (inner // GROUP * stride + inner % GROUP * HEAD_DIM)[:, None]
        live = (inner // GROUP < rows - tile_row)[:, None]
        feature = tl.arange(0, HALF)[None, :]
        kind = output_ptr.dtype.element_ty
        there = live & (feature < HEAD_DIM)
        tl.store(output_ptr + place + feature, _mean(total, left).to(kind), mask=there)
        if HALF < BLOCK_D:
            there = live & (feature + HALF < HEAD_DIM)
            tl.store(output_ptr + HALF + place + feature, _mean(total, right).to(kind), mask=there)


@triton.jit(  # type: ignore[untyped-decorator]
    do_not_specialize=["lines", "rows", "span", "pairs", "tiles", "tile"],
    do_not_specialize_on_alignment=PLACES,
)
def merge_kernel(  # type: ignore[no-untyped-def]
    output_ptr, room_ptr, length_ptr, seen_ptr, lines, rows, span, pairs, tiles, tile,
    HEADS: tl.constexpr, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr,
    LINES: tl.constexpr, UNITS: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Join what the programs of `attention_kernel` wrote of some lines, unit by unit.

    A line is a row and one of its heads, of `lines` = B * rows * HEADS; `output_ptr` is [lines,
    HEAD_DIM]. Those programs had `tile` lines, and were `tiles` times `pairs` = B * key heads for
    each unit of `span` keys; `UNITS` of these are a chunk. Grid: lines / LINES.
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
    packed = row * GROUP + head % GROUP
    program = (pair * tiles + packed // tile).to(tl.int64)
    inner = packed % tile
    feature = tl.arange(0, BLOCK_D)
    total = tl.zeros([LINES], dtype=tl.float32)
    top = tl.full([LINES], float("-inf"), dtype=tl.float32)
    found = tl.zeros([LINES, BLOCK_D], dtype=tl.float32)
    if DEPENDENT:
        gdc_wait()
    for first in range(0, tl.max(units, 0), UNITS):
        chunk_total = tl.zeros([LINES], dtype=tl.float32)
        chunk_top = tl.full([LINES], float("-inf"), dtype=tl.float32)
        chunk = tl.zeros([LINES, BLOCK_D], dtype=tl.float32)
        for part in tl.static_range(UNITS):
            unit = first + part
            read = (unit < units) & ((unit < hole) | (unit >= beyond))
            start = room_ptr + (program + unit * tiles * pairs) * tile * (BLOCK_D + 2)
            kept = start + tile * BLOCK_D + inner
            cell = (start + inner * BLOCK_D)[:, None] + feature[None, :]
            more_top = tl.load(kept, mask=read, other=float("-inf"))
            more_total = tl.load(kept + tile, mask=read, other=0.0)
            more = tl.load(cell, mask=read[:, None], other=0.0)
            chunk_top, fade, grow = _scales(chunk_top, more_top)
            chunk_total = _both(chunk_total, fade, more_total, grow)
            chunk = _both(chunk, fade, more, grow)
        top, fade, grow = _scales(top, chunk_top)
        total = _both(total, fade, chunk_total, grow)
        found = _both(found, fade, chunk, grow)
    if DEPENDENT:
        gdc_launch_dependents()
    output = _mean(total, found).to(output_ptr.dtype.element_ty)
    cell = here.to(tl.int64)[:, None] * HEAD_DIM + feature[None, :]
    tl.store(output_ptr + cell, output, mask=live[:, None] & (feature < HEAD_DIM)[None, :])


@lru_cache(maxsize=1024)
def launchable(
    predicate: Any,
    dtype: torch.dtype,
    group: int,
    head_dim: int,
    tile: Tile,
    target: Target,
    *,
    sees_prefix: bool,
    partial: bool,
    upcast: bool,
    asks_prompt: bool = False,
) -> Launchable:
    """Return the kernel for `group` query heads a key head; the rest is as in `attention`."""
    number = f"*{TYPES[dtype]}"
    pointers = {
        **dict.fromkeys(("query_ptr", "key_ptr", "value_ptr", "output_ptr"), number),
        "room_ptr": "*fp32",
        "table_ptr": "*i32",
        **dict.fromkeys(("slot_ptr", "length_ptr"), "*i64"),
        "factor_ptr": "*fp32",
        **dict.fromkeys(("fact_ptr", "seen_ptr"), "*i32"),
        "prompt_ptr": "*i64",
    }
    scalars = ("rows", "span", "kv_heads", "query_stride", "page_stride", "table_stride")
    constants = {
        "GROUP": group,
        "HEAD_DIM": head_dim,
        "BLOCK_D": block_of(head_dim),
        "HALF": half_of(head_dim, 4 if upcast else 2),
        "LINES": tile.lines,
        "PAGE": KEY_TILE,
        "CHUNK_KEYS": CHUNK * KEY_TILE,
        "FACT_COUNT": FACTS,
        "SEES_PREFIX": sees_prefix,
        "UPCAST": upcast,
        "PARTIAL": partial,
        "DEPENDENT": target.dependent,
        "ASKS_PROMPT": asks_prompt,
        "PREDICATE": predicate,
    }
    options = options_of(target, tile.warps, tile.stages)
    if not partial:
        options["maxnreg"] = 255  # a compiler would rather spill, to have more programs at once
    return Launchable(
        f"attention lines {tile.lines}" + " partial" * partial,
        attention_kernel,
        {**pointers, **dict.fromkeys(scalars, "i32")},
        constants,
        options,
        (*(name for name in pointers if name not in PLACES), "query_stride", "page_stride"),
    )


@lru_cache(maxsize=1024)
def merging(
    dtype: torch.dtype, heads: int, group: int, head_dim: int, target: Target, *, chunks: bool
) -> Launchable:
    """Return what joins partial results, for units that are chunks or else pages."""
    pointers = {
        "output_ptr": f"*{TYPES[dtype]}",
        "room_ptr": "*fp32",
        "length_ptr": "*i64",
        "seen_ptr": "*i32",
    }
    scalars = ("lines", "rows", "span", "pairs", "tiles", "tile")
    constants = {
        "HEADS": heads,
        "GROUP": group,
        "HEAD_DIM": head_dim,
        "BLOCK_D": block_of(head_dim),
        "LINES": MANY if target.upcast else 1,
        "UNITS": 1 if chunks else CHUNK,
        "DEPENDENT": target.dependent,
    }
    return Launchable(
        "attention merge" + " chunks" * chunks,
        merge_kernel,
        {**pointers, **dict.fromkeys(scalars, "i32")},
        constants,
        options_of(target, 1, 1),
        tuple(name for name in pointers if name not in PLACES),
    )


def room_for(division: Division, pairs: int, head_dim: int, device: torch.device) -> Tensor:
    """Return `room_ptr` of `attention_kernel`, for `pairs` of a sequence and a key head.

    It serves all layers: what it holds before a launch and after it does not matter.
    """
    lines = division.programs(pairs) * division.tile.lines
    return torch.empty(lines * (block_of(head_dim) + 2), dtype=torch.float32, device=device)


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
    room: Tensor,
    target: Target,
    *,
    sees_prefix: bool,
    upcast: bool,
    begin: Tensor | None = None,
) -> Tensor:
    """Return [B * R, heads * head_dim] for query [B * R, heads, head_dim].

    `keys` and `values` [pages, kv_heads, KEY_TILE, head_dim] hold the rows already, behind each
    sequence's length. `table` int32 [slots, n] are the pages of every slot; `slots`, `lengths`
    int64 [B]; `factor` float32 [B * R]; `facts` int32 [R, FACTS] and `seen` int32 [R, 3] are the
    plan's. `division` serves lengths up to that which it was made for, with `room`
    of `room_for`. `upcast` computes 16-bit values in float32 throughout. `begin` int64 [B] are the
    lengths of prompts, None: the predicate does not ask for them.
    """
    count, heads, dim = query.shape
    rows, batch, kv_heads = facts.shape[0], slots.shape[0], keys.shape[1]
    group, pairs = heads // kv_heads, batch * kv_heads
    tile, partial = division.tile, division.partial
    output = torch.empty((count, heads * dim), dtype=keys.dtype, device=query.device)
    launchable(
        predicate, keys.dtype, group, dim, tile, target,
        sees_prefix=sees_prefix, partial=partial, upcast=upcast, asks_prompt=begin is not None,
    ).launch(
        (division.tiles, pairs, division.units),
        query, keys, values, output, room, table, slots, lengths, factor, facts, seen,
        lengths if begin is None else begin, rows, division.span, kv_heads, query.stride(0),
        keys.stride(0), table.stride(0),
    )  # fmt: skip
    if partial:
        merge = merging(keys.dtype, heads, group, dim, target, chunks=division.chunked)
        lines = count * heads
        merge.launch(
            (triton.cdiv(lines, merge.constants["LINES"]),),
            output, room, lengths, seen, lines, rows, division.span, pairs, division.tiles,
            tile.lines,
        )  # fmt: skip
    return output
