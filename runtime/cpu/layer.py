"""A layer in stages, which threads compute together: each its part, and all wait for one another.

A stage is a few loops over rows; what one makes the next one reads, in float32. Values are rounded
to the model's numbers where they are kept: the states behind attention and behind the MLP, and the
keys and values in the cache.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from nldc.runtime.cpu.compiled import Entry, digest, entry, helper
from nldc.runtime.cpu.exponent import exp
from nldc.runtime.cpu.job import (
    ADD,
    ADD_NORM,
    ADDED,
    ADDED_STRIDE,
    ATTEND,
    ATTENDED,
    ATTENTION,
    BARRIER,
    COUNT,
    BLOCKS,
    COS,
    DATA,
    DIM,
    DOWN_WEIGHT,
    EPS,
    EXPAND,
    FACTOR,
    FACTOR_OF,
    FIRST,
    FORM,
    GATE,
    GATE_WEIGHT,
    GATED,
    GROUP,
    GROUPS,
    HEADS,
    HIDDEN,
    INPUT_NORM,
    KERNEL,
    KEYS,
    KV_HEADS,
    LAST,
    LAYER,
    LENGTH,
    MLP,
    MLP_STRIDE,
    NORM,
    NUMBER,
    OUTPUT,
    OUTPUT_WEIGHT,
    PADDED,
    PAGES,
    POST_NORM,
    PROJECT,
    QKV,
    QKV_STRIDE,
    QKV_WEIGHT,
    REDUCE,
    ROOM,
    ROOM_BYTES,
    ROWS,
    SEQUENCE_WORDS,
    SEQUENCES,
    SEQUENCES_AT,
    SIN,
    STATES,
    STATES_OUT,
    TURN,
    UP,
    UP_WEIGHT,
    VALUES,
    WHO,
    WORDS,
    X,
)
from nldc.runtime.cpu.memory import (
    ask,
    call_attention,
    call_product,
    float_of,
    get,
    load,
    put,
    rounded,
    store,
    wait,
    word,
)
from nldc.runtime.cpu.product import prepare
from nldc.runtime.cpu.vectors import BYTES
from nldc.runtime.invariant.line_tiles import KEY_TILE

SIZES = np.array(BYTES)
ONE, NONE = np.float32(1.0), np.float32(0.0)
TILE = 64
"""Rows that a thread prepares for a product at a time."""


@helper
def add(job, states, row):  # type: ignore[no-untyped-def]
    """Write the sum of a row of `states` and of what is added to it, rounded."""
    number, hidden = word(job, NUMBER), word(job, HIDDEN)
    before = states + row * hidden * SIZES[number]
    after = word(job, STATES_OUT) + row * hidden * SIZES[number]
    added = word(job, ADDED) + row * word(job, ADDED_STRIDE)
    for place in range(hidden):
        store(after, place, load(before, place, number) + get(added, place), number)


@helper
def norm(job, states, weight, row):  # type: ignore[no-untyped-def]
    """Write a row of states over its root mean square, times a weight."""
    number, hidden = word(job, NUMBER), word(job, HIDDEN)
    states += row * hidden * SIZES[number]
    x = word(job, X) + 4 * row * hidden
    a = b = c = d = NONE
    for place in range(hidden):
        put(x, place, load(states, place, number))
    for four in range(hidden // 4):
        first, second = get(x, 4 * four), get(x, 4 * four + 1)
        third, fourth = get(x, 4 * four + 2), get(x, 4 * four + 3)
        a += first * first
        b += second * second
        c += third * third
        d += fourth * fourth
    for place in range(hidden // 4 * 4, hidden):
        a += get(x, place) * get(x, place)
    mean = ((a + b) + (c + d)) / np.float32(hidden)
    scale = ONE / np.sqrt(mean + float_of(word(job, EPS)))
    for place in range(hidden):
        put(x, place, get(x, place) * scale * get(weight, place))


@helper
def times_weight(job, place, x, x_stride, out, out_stride, me, team, room):  # type: ignore[no-untyped-def]
    """Write this thread's part of the products of all rows x with a weight of the layer."""
    weight = word(job, LAYER) + 8 * place
    rows = word(job, ROWS)
    groups, blocks = word(weight, GROUPS), word(weight, BLOCKS)
    padded, form = word(weight, PADDED), word(weight, FORM)
    first, last = blocks * me // team, blocks * (me + 1) // team
    stride = 4 * (groups * padded + groups)
    stride = (stride + 63) // 64 * 64
    sums = room + 4 * groups * padded
    for row in range(0, rows, TILE):
        count = min(TILE, rows - row)
        for each in range(count):
            prepare(
                x + (row + each) * x_stride,
                word(weight, GROUP),
                groups,
                padded,
                form,
                float_of(word(weight, FACTOR_OF)),
                room + each * stride,
                sums + each * stride,
            )
        call_product(
            word(weight, KERNEL),
            room,
            sums,
            stride,
            word(weight, DATA),
            out + row * out_stride,
            out_stride,
            groups,
            word(weight, WORDS),
            first,
            last,
            count,
        )


@helper
def turn(job, row, head, room):  # type: ignore[no-untyped-def]
    """Turn a head of a row; a query is scaled, a key and a value go to the cache."""
    heads, kv_heads, dim = word(job, HEADS), word(job, KV_HEADS), word(job, DIM)
    number = word(job, NUMBER)
    at = word(job, QKV) + row * word(job, QKV_STRIDE) + 4 * head * dim
    each = word(job, ROWS) // word(job, SEQUENCES)
    sequence = word(job, SEQUENCES_AT) + row // each * 8 * SEQUENCE_WORDS
    place = word(sequence, LENGTH) + row % each
    page = word(word(sequence, PAGES), place // KEY_TILE)
    if head < heads + kv_heads:
        cos, sin = word(job, COS) + 4 * row * dim, word(job, SIN) + 4 * row * dim
        half = dim // 2
        for feature in range(dim):
            other = feature - half if feature >= half else feature + dim - half
            value = get(at, feature) * get(cos, feature) + get(at, other) * get(sin, feature)
            put(room, feature, value)
    if head < heads:
        factor = get(word(job, FACTOR), row)
        for feature in range(dim):
            put(at, feature, get(room, feature) * factor)
        return
    is_key = head < heads + kv_heads
    own = head - heads if is_key else head - heads - kv_heads
    source = room if is_key else at
    kept = word(job, KEYS) if is_key else word(job, VALUES)
    kept += ((page * kv_heads + own) * KEY_TILE + place % KEY_TILE) * dim * SIZES[number]
    for feature in range(dim):
        store(kept, feature, get(source, feature), number)


@helper
def gated(gate, up, count):  # type: ignore[no-untyped-def]
    """Make silu(gate) * up of float32 values, in place of the gate's."""
    for place in range(count):
        value = get(gate, place)
        put(gate, place, value / (ONE + exp(-value)) * get(up, place))


@helper
def stage(job, number, me, team, room):  # type: ignore[no-untyped-def]
    """Compute this thread's part of a stage."""
    rows, layer = word(job, ROWS), word(job, LAYER)
    hidden, mlp = word(job, HIDDEN), word(job, MLP)
    first, last = rows * me // team, rows * (me + 1) // team
    x, added = word(job, X), word(job, ADDED)
    if number == NORM:
        for row in range(first, last):
            norm(job, word(job, STATES), word(layer, INPUT_NORM), row)
    elif number == PROJECT:
        qkv, stride = word(job, QKV), word(job, QKV_STRIDE)
        times_weight(job, QKV_WEIGHT, x, 4 * hidden, qkv, stride, me, team, room)
    elif number == TURN:
        heads = word(job, HEADS) + 2 * word(job, KV_HEADS)
        for item in range(rows * heads * me // team, rows * heads * (me + 1) // team):
            turn(job, item // heads, item % heads, room)
    elif number == ATTEND:
        call_attention(word(job, ATTENTION), job, me, team, room)
    elif number == OUTPUT:
        width = 4 * word(job, HEADS) * word(job, DIM)
        stride = word(job, ADDED_STRIDE)
        times_weight(job, OUTPUT_WEIGHT, word(job, ATTENDED), width, added, stride, me, team, room)
    elif number == ADD_NORM:
        for row in range(first, last):
            add(job, word(job, STATES), row)
            norm(job, word(job, STATES_OUT), word(layer, POST_NORM), row)
    elif number == EXPAND:
        gate, up, stride = word(job, GATE), word(job, UP), word(job, MLP_STRIDE)
        times_weight(job, GATE_WEIGHT, x, 4 * hidden, gate, stride, me, team, room)
        times_weight(job, UP_WEIGHT, x, 4 * hidden, up, stride, me, team, room)
    elif number == GATED:
        gate, up, stride = word(job, GATE), word(job, UP), word(job, MLP_STRIDE)
        for item in range(rows * team * me // team, rows * team * (me + 1) // team):
            row, part = item // team, item % team
            begin, end = mlp * part // team, mlp * (part + 1) // team
            offset = row * stride + 4 * begin
            gated(gate + offset, up + offset, end - begin)
    elif number == REDUCE:
        stride = word(job, MLP_STRIDE)
        gate = word(job, GATE)
        width = word(job, ADDED_STRIDE)
        times_weight(job, DOWN_WEIGHT, gate, stride, added, width, me, team, room)
    else:
        for row in range(first, last):
            add(job, word(job, STATES_OUT), row)


def _alone(source: str) -> Any:
    """Return what computes the stages of a job in the thread that calls it."""

    def alone(job):  # type: ignore[no-untyped-def]
        source  # what was compiled for another source is not taken
        for number in range(word(job, FIRST), word(job, LAST)):
            stage(job, number, 0, 1, word(job, ROOM))

    return alone


def _together(source: str) -> Any:
    """Return what each thread of a team computes of the stages of a job."""

    def together(job):  # type: ignore[no-untyped-def]
        source  # what was compiled for another source is not taken
        me, team = ask(word(job, WHO)), ask(word(job, COUNT))
        room = word(job, ROOM) + me * word(job, ROOM_BYTES)
        for number in range(word(job, FIRST), word(job, LAST)):
            if number > word(job, FIRST):
                wait(word(job, BARRIER))
            stage(job, number, me, team, room)

    return together


@cache
def alone() -> Entry:
    """Return the compiled layer for one thread."""
    return entry(_alone(digest()), 1)


@cache
def together() -> Entry:
    """Return the compiled layer for a team's thread."""
    return entry(_together(digest()), 1)
