"""All that a step does between two calls of the model, in one launch: a program for each sequence.

What is done is data: a tuple of instructions, each an op with the places of the lines that it reads
and writes, see `step/noted.py`. It is a compile-time constant, so that Triton makes a straight run
of the device functions below out of it. An instruction reads what those before it wrote, since all
threads of a program wait between two. None looks at another sequence. A score is float32, and each
sum is rounded as torch's ops on the CPU round it (`step/ops.py`).

A line's place is (memory, rows, stride, stride_is_number, blocks, offset, step): in the memory of
that number, behind `blocks` values a sequence and `offset` more; `rows` says whose line it is, each
`stride` behind the last, or as far as a number says, by its place in the first memory; value i lies
`step * i` further. What the host fixes when it launches are numbers: lines of one value for all.

P has all of it as whole numbers (`flat`), S is where an instruction starts: its op, how many values
it is over, the power of two above, and from S + 3 on its operands, seven numbers a place.
"""

# ruff: noqa: N803  (Triton names compile-time values in capitals)

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from nldc.runtime.kernels.launchable import NUMBERS, Launchable, Target, options_of
from nldc.runtime.kernels.noise import row_noise

OWN, SLOT, SHARED = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
"""Whose line is read: the sequence's in the batch, its slot's, or the one that all share."""
(
    COPY,
    WHERE,
    GATHER,
    SPREAD,
    CHOSEN,
    SCATTER,
    ACCEPT,
    TOTAL,
    ANY,
    UNFINISHED,
    AFTER_END,
    RANK,
    SUM_BEFORE,
    LOOKUP,
    RECALL,
    BRANCH,
    NOISE,
) = (tl.constexpr(code) for code in range(17))
(ADD, SUB, MUL, MOD, DIV, AND, OR, LT, LE, GT, GE, EQ, NE) = (
    tl.constexpr(code) for code in range(17, 30)
)
CODES = {
    name.lower(): code.value
    for name, code in list(globals().items())
    if isinstance(code, tl.constexpr) and name not in ("OWN", "SLOT", "SHARED")
}
"""The numbers of all ops, by their names."""
BLOCK = tl.constexpr(16)
"""How many values a value is compared with at a time."""
NAMES = {dtype: name for name, dtype in NUMBERS.items()}
ENTRIES = tl.constexpr(64)
"""How many entries of a pool are looked at at a time."""
TILE = tl.constexpr(1024)
"""How many rows of branches are compared at a time."""
SCAN = tl.constexpr(1024)
"""How many places of a text are looked at at a time."""
WIDE = 64
"""Lines from so many values on are the work of four warps."""
SCANS = ("lookup",)
"""Ops that look at whole texts, and are the work of eight."""


@triton.jit  # type: ignore[untyped-decorator]
def _begin(slots, memory, P: tl.constexpr, AT: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return where the line of operand AT begins, of this program's sequence."""
    program = tl.program_id(0).to(tl.int64)
    line = program
    if P[AT + 1] == SLOT:
        line = tl.load(slots + program)
    if P[AT + 1] == SHARED:
        line = program * 0
    behind = tl.num_programs(0).to(tl.int64) * P[AT + 4] + P[AT + 5]
    apart = P[AT + 2]
    if P[AT + 3]:
        apart = tl.load(memory[0] + P[AT + 2])
    return memory[P[AT]] + (behind + line * apart)


@triton.jit  # type: ignore[untyped-decorator]
def _values(slots, memory, P: tl.constexpr, AT: tl.constexpr, i, there):  # type: ignore[no-untyped-def]
    """Return the values of a line; flags are 0 and 1."""
    at = _begin(slots, memory, P, AT)
    is_one: tl.constexpr = P[AT + 6] == 0  # for all, also where there is nothing
    found = tl.load(at + i * 0) if is_one else tl.load(at + i, mask=there, other=0)
    if found.dtype == tl.int1:
        found = found.to(tl.int64)
    return found


@triton.jit  # type: ignore[untyped-decorator]
def _one(slots, memory, P: tl.constexpr, AT: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return the first value of a line."""
    return tl.load(_begin(slots, memory, P, AT))


@triton.jit  # type: ignore[untyped-decorator]
def _put(slots, memory, P: tl.constexpr, AT: tl.constexpr, i, values, there):  # type: ignore[no-untyped-def]
    at = _begin(slots, memory, P, AT)
    tl.store(at + i, values.to(at.dtype.element_ty), mask=there)


@triton.jit  # type: ignore[untyped-decorator]
def _applied(OP: tl.constexpr, x, y):  # type: ignore[no-untyped-def]
    """Return what an operator makes of two values of one type."""
    if OP == ADD:
        found = x + y
    elif OP == SUB:
        found = x - y
    elif OP == MUL:
        found = x * y
    elif OP == MOD:
        found = ((x % y) + y) % y
    elif OP == DIV:
        found = (x - (((x % y) + y) % y)) // y
    elif OP == AND:
        found = x & y
    elif OP == OR:
        found = x | y
    elif OP == LT:
        found = x < y
    elif OP == LE:
        found = x <= y
    elif OP == GT:
        found = x > y
    elif OP == GE:
        found = x >= y
    elif OP == EQ:
        found = x == y
    else:
        tl.static_assert(OP == NE)
        found = x != y
    return found


@triton.jit  # type: ignore[untyped-decorator]
def _operator(slots, memory, P: tl.constexpr, S: tl.constexpr, i, there):  # type: ignore[no-untyped-def]
    """to, x, y, whether they are scores: an operator on each value."""
    x = _values(slots, memory, P, S + 10, i, there)
    y = _values(slots, memory, P, S + 17, i, there)
    if P[S + 24]:
        x = x.to(tl.float32)
        y = y.to(tl.float32)
    _put(slots, memory, P, S + 3, i, _applied(P[S], x, y), there)


@triton.jit  # type: ignore[untyped-decorator]
def _copy(slots, memory, P: tl.constexpr, S: tl.constexpr, i, there):  # type: ignore[no-untyped-def]
    """to, from: a line, or a number in all of it."""
    values = _values(slots, memory, P, S + 10, i, there)
    _put(slots, memory, P, S + 3, i, values, there)


@triton.jit  # type: ignore[untyped-decorator]
def _where(slots, memory, P: tl.constexpr, S: tl.constexpr, i, there):  # type: ignore[no-untyped-def]
    """to, flags, then, otherwise."""
    flags = _values(slots, memory, P, S + 10, i, there)
    then = _values(slots, memory, P, S + 17, i, there)
    otherwise = _values(slots, memory, P, S + 24, i, there)
    _put(slots, memory, P, S + 3, i, tl.where(flags != 0, then, otherwise), there)


@triton.jit  # type: ignore[untyped-decorator]
def _gather(slots, memory, P: tl.constexpr, S: tl.constexpr, i, there):  # type: ignore[no-untyped-def]
    """to, from, row numbers."""
    rows = _values(slots, memory, P, S + 17, i, there)
    values = tl.load(_begin(slots, memory, P, S + 10) + rows, mask=there, other=0)
    _put(slots, memory, P, S + 3, i, values, there)


@triton.jit  # type: ignore[untyped-decorator]
def _spread(slots, memory, P: tl.constexpr, S: tl.constexpr, i, there):  # type: ignore[no-untyped-def]
    """to, from, row numbers there, row numbers here."""
    to = _values(slots, memory, P, S + 17, i, there)
    rows = _values(slots, memory, P, S + 24, i, there)
    values = tl.load(_begin(slots, memory, P, S + 10) + rows, mask=there, other=0)
    _put(slots, memory, P, S + 3, to, values, there)


@triton.jit  # type: ignore[untyped-decorator]
def _chosen(slots, memory, P: tl.constexpr, S: tl.constexpr, i, there):  # type: ignore[no-untyped-def]
    """to, table, count, low, width: the table's line for that count; `low` has the first."""
    line = _one(slots, memory, P, S + 17) - P[S + 24]
    at = _begin(slots, memory, P, S + 10) + line * P[S + 25]
    _put(slots, memory, P, S + 3, i, tl.load(at + i, mask=there, other=0), there)


@triton.jit  # type: ignore[untyped-decorator]
def _scatter(slots, memory, P: tl.constexpr, S: tl.constexpr, i, there):  # type: ignore[no-untyped-def]
    """to, from, place: the line from that place on."""
    values = _values(slots, memory, P, S + 10, i, there)
    at = _one(slots, memory, P, S + 17)
    _put(slots, memory, P, S + 3, at + i, values, there)


@triton.jit  # type: ignore[untyped-decorator]
def _accept(slots, memory, P: tl.constexpr, S: tl.constexpr, i, there):  # type: ignore[no-untyped-def]
    """to the matches, to the bonus, draft, target: how far the two agree."""
    draft = _values(slots, memory, P, S + 17, i, there)
    target = _values(slots, memory, P, S + 24, i, there)
    matches = tl.min(tl.where(there & (draft != target), i, P[S + 1]), 0)
    bonus = tl.load(_begin(slots, memory, P, S + 24) + matches)
    tl.store(_begin(slots, memory, P, S + 3), matches.to(tl.int64))
    tl.store(_begin(slots, memory, P, S + 10), bonus)


@triton.jit  # type: ignore[untyped-decorator]
def _total(slots, memory, P: tl.constexpr, S: tl.constexpr, i, there):  # type: ignore[no-untyped-def]
    """to, flags: how many of them hold."""
    flags = _values(slots, memory, P, S + 10, i, there)
    tl.store(_begin(slots, memory, P, S + 3), tl.sum(flags, 0))


@triton.jit  # type: ignore[untyped-decorator]
def _any(slots, memory, P: tl.constexpr, S: tl.constexpr, i, there):  # type: ignore[no-untyped-def]
    """to, flags: whether any of them holds."""
    flags = _values(slots, memory, P, S + 10, i, there)
    tl.store(_begin(slots, memory, P, S + 3), tl.max(flags, 0) != 0)


@triton.jit  # type: ignore[untyped-decorator]
def _ends(slots, memory, P: tl.constexpr, AT: tl.constexpr, tokens):  # type: ignore[no-untyped-def]
    """Return which tokens end the sequence, by the first ids of its line: as many as follows."""
    found = tokens != tokens
    at = _begin(slots, memory, P, AT)
    for number in range(_one(slots, memory, P, AT + 7)):
        found = found | (tokens == tl.load(at + number))
    return found


@triton.jit  # type: ignore[untyped-decorator]
def _unfinished(slots, memory, P: tl.constexpr, S: tl.constexpr, i, there):  # type: ignore[no-untyped-def]
    """to, tokens, masked, eos, how many: whether there is a mask, and no end before all of them."""
    tokens = _values(slots, memory, P, S + 10, i, there)
    masked = _values(slots, memory, P, S + 17, i, there)
    ends = _ends(slots, memory, P, S + 24, tokens)
    mask = tl.min(tl.where(there & (masked != 0), i, P[S + 1]), 0)
    end = tl.min(tl.where(there & ends, i, P[S + 1]), 0)
    tl.store(_begin(slots, memory, P, S + 3), (mask < P[S + 1]) & (end >= mask))


@triton.jit  # type: ignore[untyped-decorator]
def _after_end(slots, memory, P: tl.constexpr, S: tl.constexpr, i, there):  # type: ignore[no-untyped-def]
    """to tokens, to masked, tokens, masked, eos, how many: masks behind the first end are it."""
    tokens = _values(slots, memory, P, S + 17, i, there)
    masked = _values(slots, memory, P, S + 24, i, there) != 0
    ends = _ends(slots, memory, P, S + 31, tokens) & (masked == 0)
    end = tl.min(tl.where(there & ends, i, P[S + 1]), 0)
    token = tl.sum(tl.where(i == end, tokens, 0), 0)
    after = masked & (i > end)
    _put(slots, memory, P, S + 3, i, tl.where(after, token, tokens), there)
    _put(slots, memory, P, S + 10, i, masked & (after == 0), there)


@triton.jit  # type: ignore[untyped-decorator]
def _held(slots, memory, P: tl.constexpr, S: tl.constexpr, i, there):  # type: ignore[no-untyped-def]
    """Return the scores with the worst in place of rows that are not among those to choose of."""
    among = _values(slots, memory, P, S + 10, i, there)
    score = _values(slots, memory, P, S + 17, i, there)
    return tl.where(among != 0, score, float("inf") if P[S + 24] else float("-inf"))


@triton.jit  # type: ignore[untyped-decorator]
def _rank(slots, memory, P: tl.constexpr, S: tl.constexpr, i, there):  # type: ignore[no-untyped-def]
    """to, among, score, whether less is surer: how many rows are surer than each.

    Of equals the lower row is surer. What is no number is more than any.
    """
    own = _held(slots, memory, P, S, i, there)[:, None]
    row = i[:, None]
    rank = tl.zeros(i.shape, tl.int64)
    for first in range(0, P[S + 1], BLOCK):
        j = first + tl.arange(0, BLOCK)
        other = _held(slots, memory, P, S, j, j < P[S + 1])[None, :]
        is_own, is_other = own == own, other == other
        if P[S + 24]:
            surer = (other < own) | (is_other & (is_own == 0))
        else:
            surer = (other > own) | (is_own & (is_other == 0))
        equal = (other == own) | ((is_own == 0) & (is_other == 0))
        before = (surer | (equal & (j[None, :] < row))) & (j < P[S + 1])[None, :]
        rank += tl.sum(before.to(tl.int64), 1)
    _put(slots, memory, P, S + 3, i, rank, there)


@triton.jit  # type: ignore[untyped-decorator]
def _sum_before(slots, memory, P: tl.constexpr, S: tl.constexpr, i, there):  # type: ignore[no-untyped-def]
    """to, among, score, rank, room: what the scores of the surer rows add up to.

    It is the sum with the row's own score, less that score. Sums are taken in float64, in the order
    of ranks, and rounded at each.
    """
    among = _values(slots, memory, P, S + 10, i, there)
    score = tl.where(among != 0, _values(slots, memory, P, S + 17, i, there), 0.0)
    rank = _values(slots, memory, P, S + 24, i, there)
    room = _begin(slots, memory, P, S + 31)
    tl.store(room + rank, score, mask=there)
    tl.debug_barrier()
    total = tl.zeros((1,), tl.float64)
    sums = tl.zeros(i.shape, tl.float32)
    for number in range(P[S + 1]):
        total += tl.load(room + number).to(tl.float64)
        sums = tl.where(rank == number, total.to(tl.float32), sums)
    _put(slots, memory, P, S + 3, i, sums - score, there)


@triton.jit  # type: ignore[untyped-decorator]
def _lookup(slots, memory, P: tl.constexpr, S: tl.constexpr, i, there):  # type: ignore[no-untyped-def]
    """to, text, count, ngram: what followed the text's last tokens the last time they occurred.

    The text is the line's first `count` tokens, and nothing behind them is looked at. Of the
    places behind tokens that are the last ones, each of SCAN lanes keeps the one behind the most,
    the latest of equals.
    """
    text = _begin(slots, memory, P, S + 10)
    count = _one(slots, memory, P, S + 17).to(tl.int32)
    most = tl.zeros((SCAN,), tl.int32)
    latest = tl.zeros((SCAN,), tl.int32)
    for first in range(1, count, SCAN):
        end = first + tl.arange(0, SCAN)
        same = end < count
        matched = tl.zeros((SCAN,), tl.int32)
        for back in range(1, P[S + 24] + 1):
            same = same & (back <= end)
            wanted = tl.load(text + tl.maximum(count - back, 0))
            same = same & (tl.load(text + end - back, mask=same, other=0) == wanted)
            matched += same.to(tl.int32)
        better = (matched > 0) & (matched >= most)
        most = tl.where(better, matched, most)
        latest = tl.where(better, end, latest)
    best = tl.max(most, 0)
    place = tl.max(tl.where(most == best, latest, 0), 0)
    place = tl.where(best > 0, place, count)
    at = tl.maximum(tl.minimum(place + i, count - 1), 0)
    _put(slots, memory, P, S + 3, i, tl.load(text + at, mask=there, other=0), there)


@triton.jit  # type: ignore[untyped-decorator]
def _recall(slots, memory, P: tl.constexpr, S: tl.constexpr):  # type: ignore[no-untyped-def]
    """to, pool, after, room, entry, count: what follows a token in entries that begin with it.

    Of equal entries the first; behind them the other entries in order. Which begin so, each once,
    is written down first: the others' places follow from how many they are.
    """
    entries: tl.constexpr = P[S + 1]
    entry: tl.constexpr = P[S + 31]
    pool = _begin(slots, memory, P, S + 10)
    after = _one(slots, memory, P, S + 17)
    room = _begin(slots, memory, P, S + 24)
    total = tl.zeros((1,), tl.int64)
    for first in range(0, entries, ENTRIES):
        i = first + tl.arange(0, ENTRIES)
        there = i < entries
        begins = there & (tl.load(pool + i * entry, mask=there, other=0) == after)
        again = tl.zeros((ENTRIES,), tl.int32)
        if tl.max(begins.to(tl.int32), 0) > 0:
            for before in range(0, first + ENTRIES, BLOCK):
                j = before + tl.arange(0, BLOCK)
                equal = begins[:, None] & (j[None, :] < i[:, None])
                for part in range(entry):
                    one = tl.load(pool + i * entry + part, mask=there, other=0)
                    other = tl.load(pool + j * entry + part, mask=j < entries, other=0)
                    equal = equal & (one[:, None] == other[None, :])
                again = tl.maximum(again, tl.max(equal.to(tl.int32), 1))
        found = (begins & (again == 0)).to(tl.int64)
        tl.store(room + i, found, mask=there)
        total += tl.sum(found, 0)
    tl.debug_barrier()
    to = _begin(slots, memory, P, S + 3)
    known = tl.zeros((1,), tl.int64)
    for first in range(0, entries, ENTRIES):
        i = first + tl.arange(0, ENTRIES)
        there = i < entries
        found = tl.load(room + i, mask=there, other=0)
        so_far = known + tl.cumsum(found, 0)
        place = tl.where(found != 0, so_far - 1, total + i - so_far)
        known += tl.sum(found, 0)
        taken = there & (place < P[S + 32])
        for part in range(entry - 1):
            token = tl.load(pool + i * entry + part + 1, mask=taken, other=0)
            tl.store(to + place * (entry - 1) + part, token, mask=taken)


@triton.jit  # type: ignore[untyped-decorator]
def _branch(slots, memory, P: tl.constexpr, S: tl.constexpr, i, there):  # type: ignore[no-untyped-def]
    """to the branch, to the matches, draft, target, table, branches, the power of two above.

    The table's lines are the rows of each branch; a row's target is held against the draft in the
    branch's next row. Most matches first, then the lowest number: one number for both.
    """
    length: tl.constexpr = P[S + 1]
    width: tl.constexpr = P[S + 38]
    fit: tl.constexpr = TILE // P[S + 2] if P[S + 2] < TILE else 1
    many: tl.constexpr = fit if fit < P[S + 39] else P[S + 39]
    draft = _begin(slots, memory, P, S + 17)
    target = _begin(slots, memory, P, S + 24)
    table = _begin(slots, memory, P, S + 31)
    best = tl.zeros((1,), tl.int64)
    for first in range(0, width, many):
        branch = first + tl.arange(0, many)
        at = table + branch[:, None] * length + i[None, :]
        own = (branch < width)[:, None] & there[None, :]
        has_next = own & (i < length - 1)[None, :]
        wanted = tl.load(target + tl.load(at, mask=own, other=0), mask=has_next, other=0)
        drafted = tl.load(draft + tl.load(at + 1, mask=has_next, other=0), mask=has_next, other=0)
        agree = has_next & (wanted == drafted)
        matches = tl.min(tl.where(agree, length - 1, i[None, :]), 1)
        matches = tl.minimum(matches, length - 1)
        rank = tl.where(branch < width, matches * width + width - 1 - branch, 0)
        best = tl.maximum(best, tl.max(rank, 0).to(tl.int64))
    first = tl.arange(0, 1)
    tl.store(_begin(slots, memory, P, S + 3) + first, width - 1 - best % width)
    tl.store(_begin(slots, memory, P, S + 10) + first, best // width)


@triton.jit  # type: ignore[untyped-decorator]
def _noise(slots, memory, P: tl.constexpr, S: tl.constexpr, i, there):  # type: ignore[no-untyped-def]
    """to, positions, key of the sequence, seed, node's number, round: a random number for each."""
    position = _values(slots, memory, P, S + 10, i, there)
    sequence = _one(slots, memory, P, S + 17)
    seed = _one(slots, memory, P, S + 24)
    stream = _one(slots, memory, P, S + 31)
    iteration = _one(slots, memory, P, S + 38)
    found = row_noise(position, sequence, seed, stream, iteration)
    _put(slots, memory, P, S + 3, i, found, there)


@triton.jit  # type: ignore[untyped-decorator]
def _do(slots, memory, P: tl.constexpr, S: tl.constexpr):  # type: ignore[no-untyped-def]
    """Do the instruction at S: its op, how many values, the power of two above, its operands."""
    i = tl.arange(0, P[S + 2])
    there = i < P[S + 1]
    if P[S] == COPY:
        _copy(slots, memory, P, S, i, there)
    elif P[S] == WHERE:
        _where(slots, memory, P, S, i, there)
    elif P[S] == GATHER:
        _gather(slots, memory, P, S, i, there)
    elif P[S] == SPREAD:
        _spread(slots, memory, P, S, i, there)
    elif P[S] == CHOSEN:
        _chosen(slots, memory, P, S, i, there)
    elif P[S] == SCATTER:
        _scatter(slots, memory, P, S, i, there)
    elif P[S] == ACCEPT:
        _accept(slots, memory, P, S, i, there)
    elif P[S] == TOTAL:
        _total(slots, memory, P, S, i, there)
    elif P[S] == ANY:
        _any(slots, memory, P, S, i, there)
    elif P[S] == UNFINISHED:
        _unfinished(slots, memory, P, S, i, there)
    elif P[S] == AFTER_END:
        _after_end(slots, memory, P, S, i, there)
    elif P[S] == RANK:
        _rank(slots, memory, P, S, i, there)
    elif P[S] == SUM_BEFORE:
        _sum_before(slots, memory, P, S, i, there)
    elif P[S] == LOOKUP:
        _lookup(slots, memory, P, S, i, there)
    elif P[S] == RECALL:
        _recall(slots, memory, P, S)
    elif P[S] == BRANCH:
        _branch(slots, memory, P, S, i, there)
    elif P[S] == NOISE:
        _noise(slots, memory, P, S, i, there)
    else:
        _operator(slots, memory, P, S, i, there)
    tl.debug_barrier()


@triton.jit(do_not_specialize_on_alignment=["slots"])  # type: ignore[untyped-decorator]
def _between(slots, memory, P: tl.constexpr, STARTS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Do instructions, each of whole numbers from one of STARTS on. Grid: sequences."""
    for number in tl.static_range(len(STARTS)):
        _do(slots, memory, P, STARTS[number])


def flat(program: tuple[Any, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return a program as whole numbers, and where its instructions start.

    A place is seven of them: older versions of Triton fix tuples of numbers, and no others.
    """
    numbers: list[int] = []
    starts = []
    for op, *parts in program:
        starts.append(len(numbers))
        numbers.append(CODES[op])
        for part in parts:
            numbers += map(int, part if isinstance(part, tuple) else (part,))
    return tuple(numbers), tuple(starts)


@lru_cache(maxsize=1024)
def launchable(
    program: tuple[Any, ...], memory: tuple[torch.dtype, ...], target: Target
) -> Launchable:
    """Return the kernel of a program that reads and writes memory of these dtypes, in order."""
    numbers, starts = flat(program)
    is_wide = any(size >= WIDE for _, _, size, *_ in program)
    warps = 8 if any(op in SCANS for op, *_ in program) else 4 if is_wide else 1
    return Launchable(
        name="between",
        kernel=_between,
        signature={"slots": "*i64", "memory": tuple(f"*{NAMES[dtype]}" for dtype in memory)},
        constants={"P": numbers, "STARTS": starts},
        # It waits for all before it, which may have launched nothing that lets others begin.
        options=options_of(target, warps, 1, early=False),
        aligned=(),
    )


def between(
    program: tuple[Any, ...], memory: Sequence[Tensor], slots: Tensor, target: Target
) -> None:
    """Do a program for each of the sequences of `slots`, int64 [B].

    All memory begins at a multiple of 16 bytes.
    """
    kernel = launchable(program, tuple([each.dtype for each in memory]), target)
    kernel.launch((len(slots),), slots, tuple(memory))
