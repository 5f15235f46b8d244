"""A layer in stages, which threads compute together: each its part, and all wait for one another.

A stage is a few loops over rows; what one makes the next one reads, in float32. Values are rounded
to the model's numbers where they are kept: the states behind attention and behind the MLP, and the
keys and values in the cache.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from nldc.runtime.cpu import job as at
from nldc.runtime.cpu.compiled import Entry, digest, entry, helper
from nldc.runtime.cpu.exponent import exp
from nldc.runtime.cpu.memory import (
    ask,
    call_attention,
    call_product,
    float_of,
    get,
    load,
    put,
    store,
    wait,
    word,
)
from nldc.runtime.cpu.numbers import BYTES
from nldc.runtime.cpu.product import prepare
from nldc.runtime.invariant.line_tiles import KEY_TILE

SIZES = np.array(BYTES)
ONE, NONE = np.float32(1.0), np.float32(0.0)
TILE = 64
"""Rows that a thread prepares for a product at a time."""


@helper
def add(job: int, states: int, row: int) -> None:
    """Write the sum of a row of `states` and of what is added to it, rounded."""
    number, hidden = word(job, at.NUMBER), word(job, at.HIDDEN)
    before = states + row * hidden * SIZES[number]
    after = word(job, at.STATES_OUT) + row * hidden * SIZES[number]
    added = word(job, at.ADDED) + row * word(job, at.ADDED_STRIDE)
    for place in range(hidden):
        store(after, place, load(before, place, number) + get(added, place), number)


@helper
def norm(job: int, states: int, weight: int, row: int) -> None:
    """Write a row of states over its root mean square, times a weight."""
    number, hidden = word(job, at.NUMBER), word(job, at.HIDDEN)
    states += row * hidden * SIZES[number]
    x = word(job, at.X) + 4 * row * hidden
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
    scale = ONE / np.sqrt(mean + float_of(word(job, at.EPS)))
    for place in range(hidden):
        put(x, place, get(x, place) * scale * get(weight, place))


@helper
def times_weight(
    job: int, place: int, x: int, x_stride: int, out: int, out_stride: int, me: int, team: int,
    room: int,
) -> None:  # fmt: skip
    """Write this thread's part of the products of all rows x with a weight of the layer."""
    weight = word(job, at.LAYER) + 8 * place
    rows = word(job, at.ROWS)
    groups, blocks = word(weight, at.GROUPS), word(weight, at.BLOCKS)
    padded = word(weight, at.PADDED)
    first, last = blocks * me // team, blocks * (me + 1) // team
    stride = word(weight, at.STRIDE)
    sums = room + 4 * groups * padded
    for row in range(0, rows, TILE):
        count = min(TILE, rows - row)
        for each in range(count):
            prepare(
                x + (row + each) * x_stride,
                word(weight, at.GROUP),
                groups,
                padded,
                word(weight, at.SCALES),
                room + each * stride,
                sums + each * stride,
            )
        call_product(
            word(weight, at.KERNEL),
            room,
            sums,
            stride,
            word(weight, at.DATA),
            out + row * out_stride,
            out_stride,
            groups,
            word(weight, at.WORDS),
            first,
            last,
            count,
        )


@helper
def turn(job: int, row: int, head: int, room: int) -> None:
    """Turn a head of a row; a query is scaled, a key and a value go to the cache."""
    heads, kv_heads, dim = word(job, at.HEADS), word(job, at.KV_HEADS), word(job, at.DIM)
    number = word(job, at.NUMBER)
    values = word(job, at.QKV) + row * word(job, at.QKV_STRIDE) + 4 * head * dim
    each = word(job, at.ROWS) // word(job, at.SEQUENCES)
    sequence = word(job, at.SEQUENCES_AT) + row // each * 8 * at.SEQUENCE_WORDS
    place = word(sequence, at.LENGTH) + row % each
    page = word(word(sequence, at.PAGES), place // KEY_TILE)
    if head < heads + kv_heads:
        cos, sin = word(job, at.COS) + 4 * row * dim, word(job, at.SIN) + 4 * row * dim
        half = dim // 2
        for feature in range(dim):
            other = feature - half if feature >= half else feature + dim - half
            value = get(values, feature) * get(cos, feature) + get(values, other) * get(
                sin, feature
            )
            put(room, feature, value)
    if head < heads:
        factor = get(word(job, at.FACTOR), row)
        for feature in range(dim):
            put(values, feature, get(room, feature) * factor)
        return
    is_key = head < heads + kv_heads
    own = head - heads if is_key else head - heads - kv_heads
    source = room if is_key else values
    kept = word(job, at.KEYS) if is_key else word(job, at.VALUES)
    kept += ((page * kv_heads + own) * KEY_TILE + place % KEY_TILE) * dim * SIZES[number]
    for feature in range(dim):
        store(kept, feature, get(source, feature), number)


@helper
def gated(gate: int, up: int, count: int) -> None:
    """Make silu(gate) * up of float32 values, in place of the gate's."""
    for place in range(count):
        value = get(gate, place)
        put(gate, place, value / (ONE + exp(-value)) * get(up, place))


@helper
def stage(job: int, number: int, me: int, team: int, room: int) -> None:
    """Compute this thread's part of a stage."""
    rows, layer = word(job, at.ROWS), word(job, at.LAYER)
    hidden, mlp = word(job, at.HIDDEN), word(job, at.MLP)
    first, last = rows * me // team, rows * (me + 1) // team
    x, added = word(job, at.X), word(job, at.ADDED)
    if number == at.NORM:
        for row in range(first, last):
            norm(job, word(job, at.STATES), word(layer, at.INPUT_NORM), row)
    elif number == at.PROJECT:
        qkv, stride = word(job, at.QKV), word(job, at.QKV_STRIDE)
        times_weight(job, at.QKV_WEIGHT, x, 4 * hidden, qkv, stride, me, team, room)
    elif number == at.TURN:
        heads = word(job, at.HEADS) + 2 * word(job, at.KV_HEADS)
        for item in range(rows * heads * me // team, rows * heads * (me + 1) // team):
            turn(job, item // heads, item % heads, room)
    elif number == at.ATTEND:
        call_attention(word(job, at.ATTENTION), job, me, team, room)
    elif number == at.OUTPUT:
        width = 4 * word(job, at.HEADS) * word(job, at.DIM)
        stride = word(job, at.ADDED_STRIDE)
        times_weight(
            job, at.OUTPUT_WEIGHT, word(job, at.ATTENDED), width, added, stride, me, team, room
        )
    elif number == at.ADD_NORM:
        for row in range(first, last):
            add(job, word(job, at.STATES), row)
            norm(job, word(job, at.STATES_OUT), word(layer, at.POST_NORM), row)
    elif number == at.EXPAND:
        gate, up, stride = word(job, at.GATE), word(job, at.UP), word(job, at.MLP_STRIDE)
        times_weight(job, at.GATE_WEIGHT, x, 4 * hidden, gate, stride, me, team, room)
        times_weight(job, at.UP_WEIGHT, x, 4 * hidden, up, stride, me, team, room)
    elif number == at.GATED:
        gate, up, stride = word(job, at.GATE), word(job, at.UP), word(job, at.MLP_STRIDE)
        for item in range(rows * team * me // team, rows * team * (me + 1) // team):
            row, part = item // team, item % team
            begin, end = mlp * part // team, mlp * (part + 1) // team
            offset = row * stride + 4 * begin
            gated(gate + offset, up + offset, end - begin)
    elif number == at.REDUCE:
        stride = word(job, at.MLP_STRIDE)
        gate = word(job, at.GATE)
        width = word(job, at.ADDED_STRIDE)
        times_weight(job, at.DOWN_WEIGHT, gate, stride, added, width, me, team, room)
    else:
        for row in range(first, last):
            add(job, word(job, at.STATES_OUT), row)


def _layer(source: str) -> Any:
    """Return what each thread computes of the stages of a job."""

    def layer(job: int) -> None:
        _ = source  # what was compiled for another source is not taken
        me, team, is_alone = 0, 1, word(job, at.WHO) == 0
        if not is_alone:
            me, team = ask(word(job, at.WHO)), ask(word(job, at.COUNT))
        room = word(job, at.ROOM) + me * word(job, at.ROOM_BYTES)
        for number in range(word(job, at.FIRST), word(job, at.LAST)):
            if not is_alone and number > word(job, at.FIRST):
                wait(word(job, at.BARRIER))
            stage(job, number, me, team, room)

    return layer


@cache
def layer() -> Entry:
    """Return the compiled stages, which a thread computes alone or each of a team."""
    return entry(_layer(digest()), 1)
