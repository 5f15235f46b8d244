"""Attention of a few lines over the pages of a sequence.

A line is a row and one of its query heads. Its scores are computed for every key up to the last one
that it sees; those that it does not see get no weight, and what they are worth is added as zero. So
its bits are those of the keys that it sees, in their order, wherever they lie and whatever lies
between them, and lines are computed together only to read the keys less often.
"""

# ruff: noqa: ARG001  (numba tells an instruction its context, and of what type its arguments are)

from __future__ import annotations

import math
from functools import cache, partial
from typing import Any

import numpy as np
from numba import types

from nldc.runtime.cpu import job as at
from nldc.runtime.cpu.compiled import Entry, digest, entry, has_room, helper, written
from nldc.runtime.cpu.exponent import exp_of
from nldc.runtime.cpu.memory import byte, fma, get, load, put, put_word, word
from nldc.runtime.cpu.numbers import BYTES
from nldc.runtime.cpu.vectors import F32, I32, I64, Vectors, in_cases, loop
from nldc.runtime.invariant.line_tiles import KEY_TILE

TOGETHER = 4
"""Lines that are computed together."""
HELD = (4, 16)
"""Sums of values that are held in registers at a time, by whether there is room for more."""
MINUS = np.float32(-math.inf)
NONE, ONE = np.float32(0.0), np.float32(1.0)


def _lanes_of(dim: int) -> int:
    """Return how many lanes the vectors of a head have, which they fill."""
    return math.gcd(dim, 16)


@written
def score_page(
    context: Any, number: Any, dim: Any, lines: Any, queries: Any, keys: Any, scores: Any,
    stride: Any, page: Any,
) -> Any:  # fmt: skip
    """Write the products of lines with the keys of a page, float32 [lines, `stride` bytes].

    `queries` are the addresses, int64, of so many `lines` float32 [dim]; `keys` lie as `number`
    says, [KEY_TILE, dim]; those `page` bytes behind them are fetched for what comes next.
    """
    kind, size = number.literal_value, dim.literal_value

    def write_for(builder: Any, arguments: Any, count: int) -> None:
        v = Vectors(builder, _lanes_of(size))
        queries, keys, scores, stride, page = arguments
        parts = range(size // v.lanes)
        held = []
        for line in range(count):
            query = builder.load(v.pointer(v.at(queries, 8 * line), I64))
            held.append([v.load(v.at(query, 4 * v.lanes * part), F32, 4) for part in parts])
        with loop(builder, v.whole(KEY_TILE // v.lanes), []) as (number, _held, _going):
            first = v.at(keys, v.times(number, v.lanes * size * BYTES[kind]))

            def products(key: int) -> list[Any]:
                begin = v.at(first, key * size * BYTES[kind])
                own = [v.read(v.at(begin, part * v.lanes * BYTES[kind]), kind) for part in parts]
                found = []
                v.prefetch_all(v.at(begin, page), size * BYTES[kind])
                for line in held:
                    total = builder.fmul(line[0], own[0])
                    for part in parts[1:]:
                        total = v.fma(line[part], own[part], total)
                    found.append(total)
                return found

            to = v.at(scores, v.times(number, v.lanes * 4))
            for line, found in enumerate(v.sum_of_each(products)):
                v.store(found, v.at(to, builder.mul(stride, v.whole(line))))

    def write(code: Any, builder: Any, _: Any, arguments: Any) -> Any:
        own = partial(write_for, builder, arguments[3:])
        in_cases(builder, arguments[2], TOGETHER, own)
        return code.get_dummy_value()

    return types.void(number, dim, *([types.int64] * 6)), write


@written
def weigh(context: Any, scores: Any, pages: Any) -> Any:
    """Make weights, exp(score - the largest), of the scores of so many pages, float32 each.

    Nothing is changed, and false returned, where no score is above -inf.
    """

    def write(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        v = Vectors(builder)
        scores, pages = arguments
        count = v.times(pages, KEY_TILE // v.lanes)
        lowest = v.const(F32, -math.inf)
        with loop(builder, count, [lowest]) as (number, held, most):
            value = v.load(v.at(scores, v.times(number, v.lanes * 4)), F32, 4)
            most.append(v.larger(held[0], value))
        top = builder.extract_element(most[0], I32(0))
        for lane in range(1, v.lanes):
            value = builder.extract_element(most[0], I32(lane))
            top = builder.select(builder.fcmp_ordered(">", value, top), value, top)
        sees = builder.fcmp_unordered(">", top, F32(-math.inf))
        with builder.if_then(sees):
            largest = v.spread(top)
            with loop(builder, count, []) as (number, _held, _going):
                own = v.at(scores, v.times(number, v.lanes * 4))
                v.store(exp_of(v, builder.fsub(v.load(own, F32, 4), largest)), own)
        return builder.zext(sees, I64)

    return types.int64(types.int64, types.int64), write


@written
def add_page(
    context: Any, number: Any, dim: Any, much: Any, lines: Any, weights: Any, stride: Any,
    values: Any, count: Any, totals: Any, page: Any,
) -> Any:  # fmt: skip
    """Add the first `count` values of a page, weighted, to float32 `totals` [lines, dim + 1].

    The last of each line is the sum of its weights. `weights` are float32 [lines, `stride` bytes].
    What lies `page` bytes behind the values is fetched.
    """
    kind, size, has_room = (each.literal_value for each in (number, dim, much))

    def write_for(builder: Any, arguments: Any, all_lines: int) -> None:
        v = Vectors(builder, _lanes_of(size))
        weights, stride, values, count, totals, page = arguments
        at_once = max(1, HELD[has_room] // all_lines)
        parts = size // v.lanes
        for first in range(0, parts, at_once):
            own = range(first, min(first + at_once, parts))
            places = [
                v.at(totals, 4 * (line * (size + 1) + part * v.lanes))
                for line in range(all_lines)
                for part in own
            ]
            sums_at = [v.at(totals, 4 * (line * (size + 1) + size)) for line in range(all_lines)]
            begin = [v.load(place, F32, 4) for place in places]
            if first == 0:
                begin += [v.load_one(place) for place in sums_at]
            with loop(builder, count, begin) as (key, held, going):
                start = v.at(values, v.times(key, size * BYTES[kind]))
                if first == 0:
                    v.prefetch_all(v.at(start, page), size * BYTES[kind])
                read = [v.read(v.at(start, part * v.lanes * BYTES[kind]), kind) for part in own]
                alone = [
                    v.load_one(v.at(weights, builder.mul(stride, v.whole(line)), v.times(key, 4)))
                    for line in range(all_lines)
                ]
                for line, weight in enumerate(alone):
                    spread = v.spread(weight)
                    going += [
                        v.fma(spread, value, held[line * len(own) + place])
                        for place, value in enumerate(read)
                    ]
                if first == 0:
                    going += [
                        builder.fadd(total, weight)
                        for total, weight in zip(held[len(places) :], alone, strict=True)
                    ]
            for place, value in zip(places, going, strict=False):
                v.store(value, place)
            if first == 0:
                for place, value in zip(sums_at, going[len(places) :], strict=True):
                    v.store(value, place)

    def write(code: Any, builder: Any, _: Any, arguments: Any) -> Any:
        own = partial(write_for, builder, arguments[4:])
        in_cases(builder, arguments[3], TOGETHER, own)
        return code.get_dummy_value()

    return types.void(number, dim, much, *([types.int64] * 7)), write


@helper
def hide(scores: int, first: int, end: int, seen: int) -> None:
    """Take away the scores from `first` to `end` of keys that bytes `seen` say are not seen."""
    for key in range(end - first):
        if byte(seen, key) == 0:
            put(scores, first + key, MINUS)


@helper
def is_finite(values: int, count: int) -> bool:
    """Whether all float32 values are numbers and have an end."""
    sum_ = NONE
    for place in range(count):
        value = get(values, place)
        sum_ += value - value
    found: bool = sum_ == NONE
    return found


@helper
def add_seen(number: int, dim: int, weights: int, values: int, count: int, totals: int) -> None:
    """Do for one line what `add_page` does, but leave out values without a weight.

    Times zero these are added as zero, unless they are no numbers or have no end.
    """
    for key in range(count):
        weight = get(weights, key)
        if weight != NONE:
            for place in range(dim):
                value = load(values, key * dim + place, number)
                put(totals, place, fma(weight, value, get(totals, place)))
            put(totals, dim, get(totals, dim) + weight)


def _attention(number: int, dim: int, much: int, source: str) -> Any:
    """Return the attention of heads of `dim` features over a cache of such numbers.

    `much` is `has_room`; `room` below is memory.
    """

    def attention(job: int, me: int, team: int, room: int) -> None:
        _ = source  # what was compiled for another source is not taken
        heads, kv_heads = word(job, at.HEADS), word(job, at.KV_HEADS)
        shared = heads // kv_heads
        page = kv_heads * KEY_TILE * dim * BYTES[number]
        turn = 0
        for place in range(word(job, at.LOOKS)):
            look = word(job, at.LOOKS_AT) + place * 8 * at.LOOK_WORDS
            lines = word(look, at.LOOK_ROWS) * shared
            for head in range(kv_heads):
                within = head * KEY_TILE * dim * BYTES[number]
                for first in range(0, lines, TOGETHER):
                    turn += 1
                    if turn % team != me:
                        continue
                    count = min(TOGETHER, lines - first)
                    for line in range(count):
                        own = head * shared + (first + line) % shared
                        row = word(look, at.LOOK_FIRST) + (first + line) // shared
                        column = 4 * dim * own
                        query = word(job, at.QKV) + row * word(job, at.QKV_STRIDE) + column
                        put_word(room, line, query)
                        out = word(job, at.ATTENDED) + 4 * dim * heads * row + column
                        put_word(room, TOGETHER + line, out)
                    most = 0
                    for line in range(count):
                        most = max(most, word(word(look, at.LIMITS), (first + line) // shared))
                    tiles = (most + KEY_TILE - 1) // KEY_TILE
                    stride = 4 * KEY_TILE * tiles
                    totals = room + 8 * 2 * TOGETHER
                    scores = totals + (4 * TOGETHER * (dim + 1) + 63) // 64 * 64
                    pages = word(look, at.PAGES)
                    for tile in range(tiles):
                        held = word(job, at.KEYS) + within + word(pages, tile) * page
                        to = scores + 4 * KEY_TILE * tile
                        score_page(number, dim, count, room, held, to, stride, page)
                    for line in range(count):
                        mask(look, (first + line) // shared, scores + line * stride, tiles)
                    for place in range(count * (dim + 1)):
                        put(totals, place, NONE)
                    for tile in range(tiles):
                        held = word(job, at.VALUES) + within + word(pages, tile) * page
                        own = scores + 4 * KEY_TILE * tile
                        some = min(KEY_TILE, most - tile * KEY_TILE)
                        add_page(number, dim, much, count, own, stride, held, some, totals, page)
                    for line in range(count):
                        own, out = totals + 4 * line * (dim + 1), word(room, TOGETHER + line)
                        if not is_finite(own, dim):
                            for place in range(dim + 1):
                                put(own, place, NONE)
                            for tile in range(tiles):
                                held = word(job, at.VALUES) + within + word(pages, tile) * page
                                its = scores + line * stride + 4 * KEY_TILE * tile
                                some = min(KEY_TILE, most - tile * KEY_TILE)
                                add_seen(number, dim, its, held, some, own)
                        whole = get(own, dim)
                        whole = whole if whole != NONE else ONE
                        for place in range(dim):
                            put(out, place, get(own, place) / whole)

    return attention


@helper
def mask(look: int, row: int, scores: int, tiles: int) -> None:
    """Make weights of the scores of a row's line, 0 for keys that it does not see."""
    limit, length = word(word(look, at.LIMITS), row), word(look, at.LENGTH)
    if word(look, at.CACHED_MASK):
        hide(scores, 0, min(length, limit), word(look, at.CACHED_MASK) + row * length)
    if word(look, at.OWN_MASK) and limit > length:
        rows = word(look, at.OWN_WIDTH)
        hide(scores, length, min(length + rows, limit), word(look, at.OWN_MASK) + row * rows)
    for key in range(limit, tiles * KEY_TILE):
        put(scores, key, MINUS)
    if tiles == 0 or weigh(scores, tiles) == 0:
        for key in range(tiles * KEY_TILE):
            put(scores, key, NONE)


def room_of(dim: int, keys: int) -> int:
    """Return the bytes that a thread computes in, for so many keys."""
    tiles = -(-keys // KEY_TILE)
    return 8 * 2 * TOGETHER + 4 * TOGETHER * (dim + 1) + 64 + 4 * TOGETHER * KEY_TILE * tiles


@cache
def attention(number: int, dim: int) -> Entry:
    """Return the compiled attention; it takes the job, which thread of how many, and its room."""
    return entry(_attention(number, dim, int(has_room()), digest()), 4)
