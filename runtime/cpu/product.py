"""The product of rows with a weight in blocks, whose numbers become floats in registers.

A sum goes over the inputs of a group in their order, is scaled, and added to the groups before it.
Every sum is a lane of its own and every step of it one instruction, so that a row's bits are the
same whichever rows are computed with it, and on any machine. Several rows at a time only read the
weight less often.

Where a number lies at bit b of its word, the float that is made of it is 2 ** b times too large,
and x is as much smaller: `prepare` sees to that, which rounds nothing.
"""

# ruff: noqa: ARG001  (numba tells an instruction its context, and of what type its arguments are)

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import types

from nldc.runtime.cpu.compiled import Entry, digest, entry, has_room, helper, written
from nldc.runtime.cpu.memory import get, put
from nldc.runtime.cpu.numbers import FLOAT16, FLOAT32
from nldc.runtime.cpu.vectors import F32, I32, Vectors, loop
from nldc.runtime.invariant.blocked import BITS, FORMS, OUTPUTS, WORD, Blocked

Q4, Q4S, Q8, Q8S, F8, BF16, F16 = range(7)
assert FORMS[: F16 + 1] == ("q4", "q4s", "q8", "q8s", "f8", "bf16", "f16")
EACH = np.array([WORD // BITS[form] for form in FORMS])
"""Numbers of a word."""
PLACES = 8
"""Neighbours in x after which what they are multiplied with repeats itself."""
AHEAD = 4096
"""Bytes between what is read and what is fetched."""
LANES = 16


PARTS = {
    0: {1: (1, 4), 2: (2, 2), 4: (4, 1), 8: (4, 1)},
    1: {1: (1, 4), 2: (2, 4), 4: (4, 4), 8: (8, 2)},
}
"""The rows and vectors of a part, of so many rows times a block, by whether there is room for more:
then each number that is read is used for more rows, or more sums do not wait for one another.
"""


@written
def rows_by_block(
    context: Any, form: Any, wide: Any, much: Any, rows: Any, x: Any, sums: Any, stride: Any,
    data: Any, out: Any, out_stride: Any, groups: Any, words: Any,
) -> Any:  # fmt: skip
    """Write the products of `rows` rows, of those in `PARTS`, with a block of a weight.

    `x` and `sums` are those of `prepare`, `stride` the bytes from row to row of both; `much` is
    `has_room`.
    """
    kind, is_wide, number, count = (each.literal_value for each in (form, wide, much, rows))
    each, vectors = PARTS[number][count]

    def write(code: Any, builder: Any, _: Any, arguments: Any) -> Any:
        x, sums, stride, data, out, out_stride, groups, words = arguments[4:]
        v = Vectors(builder)
        for row in range(0, count, each):
            for start in range(0, OUTPUTS // LANES, vectors):
                further = builder.mul(stride, v.whole(row))
                _Block(builder, kind, is_wide, each, start, vectors).write(
                    v.at(x, further),
                    v.at(sums, further),
                    stride,
                    data,
                    v.at(out, builder.mul(out_stride, v.whole(row))),
                    out_stride,
                    groups,
                    words,
                )
        return code.get_dummy_value()

    return types.void(form, wide, much, rows, *([types.int64] * 8)), write


class _Block:
    """Writes the product of so many rows and vectors of a block, from vector `start` on."""

    def __init__(
        self, builder: Any, form: int, wide: int, rows: int, start: int, vectors: int
    ) -> None:
        self.v = Vectors(builder, LANES)
        self.form, self.wide, self.rows, self.vectors = form, bool(wide), rows, vectors
        self.start = start
        self.shifted = form in (Q4S, Q8S)
        self.plain = form >= BF16
        self.fetches = start == 0  # for all of the block, of which this is the first part
        self.scales = 0 if self.plain else OUTPUTS * (4 if wide else 2)

    def write(
        self, x: Any, sums: Any, stride: Any, data: Any, out: Any, out_stride: Any, groups: Any,
        words: Any,
    ) -> None:  # fmt: skip
        v, write = self.v, self.v.builder
        numbers = v.times(words, OUTPUTS * 4)
        size = v.at(numbers, self.scales * (1 + self.shifted))
        width = v.times(words, 4 * int(EACH[self.form]))
        strides = [write.mul(stride, v.whole(row)) for row in range(self.rows)]
        count = self.rows * self.vectors
        with loop(write, groups, [v.zero] * count) as (group, totals, going):
            at = v.at(data, write.mul(group, size))
            of_x = v.at(x, write.mul(group, width))
            with loop(write, words, [v.zero] * count) as (word, held, results):
                results += self._word(
                    v.at(at, v.times(word, OUTPUTS * 4)),
                    v.at(of_x, v.times(word, 4 * int(EACH[self.form]))),
                    strides,
                    held,
                )
            sums_of = [
                v.spread(v.load_one(v.at(sums, v.times(group, 4), each))) for each in strides
            ]
            going += self._scaled(v.at(at, numbers), sums_of, results, totals)
        for row in range(self.rows):
            begin = v.at(out, write.mul(out_stride, v.whole(row)))
            for place in range(self.vectors):
                total = going[row * self.vectors + place]
                v.store(total, v.at(begin, (self.start + place) * LANES * 4))

    def _word(self, at: Any, x: Any, strides: list[Any], held: list[Any]) -> list[Any]:
        """Return sums with the numbers of one word of each output."""
        v, found = self.v, list(held)
        if self.fetches:
            v.prefetch_all(v.at(at, AHEAD), OUTPUTS * 4)
        at = v.at(at, self.start * LANES * 4)
        words = [v.load(v.at(at, place * LANES * 4), I32, 32) for place in range(self.vectors)]
        for each in range(int(EACH[self.form])):
            values = [v.spread(v.load_one(v.at(x, stride, 4 * each))) for stride in strides]
            for place, word in enumerate(words):
                number = self._number(word, each)
                for row, value in enumerate(values):
                    own = row * self.vectors + place
                    found[own] = v.fma(value, number, found[own])
        return found

    def _number(self, word: Any, each: int) -> Any:
        """Return a number of each word as floats, still in its place."""
        v, write = self.v, self.v.builder

        def const(value: int) -> Any:
            return v.const(I32, value)

        if self.form in (Q4, Q4S, Q8S):
            bits = 32 // int(EACH[self.form])
            if each == EACH[self.form] - 1:
                word = write.lshr(word, const(32 - bits))
            else:
                word = write.and_(word, const(((1 << bits) - 1) << (bits * each)))
        elif self.form == Q8:
            word = write.ashr(write.shl(word, const(24 - 8 * each)), const(24))
        elif self.form == F8:
            return v.float8(write.shl(word, const(24 - 8 * each)))
        elif self.form == BF16:
            high = write.and_(word, const(0xFFFF0000)) if each else write.shl(word, const(16))
            return v.floats(high)
        elif self.form == F16:
            low = write.lshr(word, const(16)) if each else write.and_(word, const(0xFFFF))
            return v.half(low)
        else:
            return v.floats(word)
        return write.sitofp(word, v.of(F32))

    def _scaled(self, at: Any, sums: list[Any], found: list[Any], totals: list[Any]) -> list[Any]:
        """Return what is known of a group added to the totals."""
        if self.plain:
            return found
        v, results = self.v, list(totals)
        for place in range(self.vectors):
            offset = (self.start + place) * LANES * (4 if self.wide else 2)
            scale = self._factor(v.at(at, offset))
            shift = self._factor(v.at(at, offset + self.scales)) if self.shifted else None
            for row, sum_ in enumerate(sums):
                own = row * self.vectors + place
                value = found[own]
                if self.form == Q4:
                    value = v.fma(v.const(F32, -8.0), sum_, value)
                results[own] = v.fma(value, scale, results[own])
                if shift is not None:
                    results[own] = v.fma(sum_, shift, results[own])
        return results

    def _factor(self, at: Any) -> Any:
        return self.v.read(at, FLOAT32 if self.wide else FLOAT16)


@written
def scale_eights(context: Any, x: Any, count: Any, scales: Any, out: Any) -> Any:
    """Write `count` times 8 values of x, float32, times `scales`, float32 [8]; return their sum."""

    def write(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        v = Vectors(builder, PLACES)
        x, count, scales, out = arguments
        scale = v.load(scales, F32, 4)
        with loop(builder, count, [v.zero]) as (number, held, going):
            offset = v.times(number, 4 * PLACES)
            value = v.load(v.at(x, offset), F32, 4)
            v.store(builder.fmul(value, scale), v.at(out, offset))
            going.append(builder.fadd(held[0], value))
        return v.sum(going[0])

    return types.float32(*([types.int64] * 4)), write


@helper
def prepare(x: int, group: int, groups: int, padded: int, scales: int, out: int, sums: int) -> None:
    """Write a row x, float32 [groups * group], as products read it, and its groups' sums.

    `padded` is what a group has in `out`, float32 [groups * padded]; `scales` are those of
    `scales_of`.
    """
    eights = group // PLACES
    for number in range(groups):
        start, to = x + 4 * number * group, out + 4 * number * padded
        sum_ = np.float32(0.0)
        if eights:
            sum_ = scale_eights(start, eights, scales, to)
        for place in range(eights * PLACES, group):
            value = get(start, place)
            sum_ += value
            put(to, place, value * get(scales, place % PLACES))
        for place in range(group, padded):
            put(to, place, np.float32(0.0))
        put(sums, number, sum_ * get(scales, PLACES - 1))


def scales_of(weight: Blocked) -> np.ndarray[Any, Any]:
    """Return what neighbours in x are multiplied with for a weight, float32 [8].

    The last place of a word needs nothing but the inverse of the weight's power of two.
    """
    form = FORMS.index(weight.form)
    each = int(EACH[form])
    found = np.full(PLACES, 1 / weight.power, np.float32)
    if form in (Q4, Q4S, Q8S):
        places = np.arange(PLACES) % each
        found[places < each - 1] *= 2.0 ** -(WORD // each * places[places < each - 1])
    return found


def _product(form: int, wide: int, much: int, source: str) -> Any:
    """Return the product with weights of a form: rows and a range of blocks."""

    def product(
        x: int, sums: int, stride: int, data: int, out: int, out_stride: int, groups: int,
        words: int, first: int, last: int, rows: int,
    ) -> None:  # fmt: skip
        _ = source  # what was compiled for another source is not taken
        factors = 0 if form >= BF16 else OUTPUTS * (4 if wide else 2)
        if form in (Q4S, Q8S):
            factors *= 2
        size = groups * (words * OUTPUTS * 4 + factors)
        for number in range(first, last):
            block, to = data + number * size, out + number * OUTPUTS * 4
            row = 0
            while row < rows:
                own, its, there = x + row * stride, sums + row * stride, to + row * out_stride
                if rows - row >= 8:
                    rows_by_block(
                        form, wide, much, 8,
                        own, its, stride, block, there, out_stride, groups, words,
                    )  # fmt: skip
                    row += 8
                elif rows - row >= 4:
                    rows_by_block(
                        form, wide, much, 4,
                        own, its, stride, block, there, out_stride, groups, words,
                    )  # fmt: skip
                    row += 4
                elif rows - row >= 2:
                    rows_by_block(
                        form, wide, much, 2,
                        own, its, stride, block, there, out_stride, groups, words,
                    )  # fmt: skip
                    row += 2
                else:
                    rows_by_block(
                        form, wide, much, 1,
                        own, its, stride, block, there, out_stride, groups, words,
                    )  # fmt: skip
                    row += 1

    return product


@cache
def product(form: str, *, wide: bool) -> Entry:
    """Return the compiled product with weights of a form."""
    return entry(_product(FORMS.index(form), int(wide), int(has_room()), digest()), 11)
