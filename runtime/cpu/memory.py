"""Memory by its address, as helpers read and write it, and the few numbers that they compute.

Addresses are int64 and count bytes; indices count values.
"""

# ruff: noqa: ARG001  (numba tells an instruction its context, and of what type its arguments are)

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from nldc.runtime.cpu.compiled import helper, written
from nldc.runtime.cpu.numbers import BFLOAT16, FLOAT32

FLOAT, INT = types.float32, types.int64


def _reading(kind: Any, raw: Any) -> Any:
    def read(context: Any, address: Any, index: Any) -> Any:
        def write(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
            place = builder.inttoptr(arguments[0], raw.as_pointer())
            value = builder.load(builder.gep(place, [arguments[1]]))
            is_short = isinstance(raw, ir.IntType) and raw.width < 64
            return builder.zext(value, ir.IntType(64)) if is_short else value

        return kind(INT, INT), write

    return written(read)


def _writing(kind: Any, raw: Any) -> Any:
    def put(context: Any, address: Any, index: Any, value: Any) -> Any:
        def write(code: Any, builder: Any, _: Any, arguments: Any) -> Any:
            place = builder.inttoptr(arguments[0], raw.as_pointer())
            value = arguments[2]
            if isinstance(raw, ir.IntType) and raw.width < 64:
                value = builder.trunc(value, raw)
            builder.store(value, builder.gep(place, [arguments[1]]))
            return code.get_dummy_value()

        return types.void(INT, INT, kind), write

    return written(put)


word, put_word = _reading(INT, ir.IntType(64)), _writing(INT, ir.IntType(64))
byte = _reading(INT, ir.IntType(8))
get, put = _reading(FLOAT, ir.FloatType()), _writing(FLOAT, ir.FloatType())
short, put_short = _reading(INT, ir.IntType(16)), _writing(INT, ir.IntType(16))


@written
def fma(context: Any, a: Any, b: Any, c: Any) -> Any:
    """Return a * b + c, rounded once."""

    def write(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        return builder.fma(*arguments)

    return FLOAT(FLOAT, FLOAT, FLOAT), write


@written
def bits_of(context: Any, value: Any) -> Any:
    """Return the bits of a float32 as a whole number from 0."""

    def write(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        bits = builder.bitcast(arguments[0], ir.IntType(32))
        return builder.zext(bits, ir.IntType(64))

    return INT(FLOAT), write


@written
def float_of(context: Any, bits: Any) -> Any:
    """Return the float32 of these bits."""

    def write(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        bits = builder.trunc(arguments[0], ir.IntType(32))
        return builder.bitcast(bits, ir.FloatType())

    return FLOAT(INT), write


@written
def call_product(
    context: Any, address: Any, x: Any, sums: Any, stride: Any, data: Any, out: Any,
    out_stride: Any, groups: Any, words: Any, first: Any, last: Any, rows: Any,
) -> Any:  # fmt: skip
    """Call an entry of `product` by its address."""

    def write(code: Any, builder: Any, _: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * (len(arguments) - 1))
        builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), arguments[1:])
        return code.get_dummy_value()

    return types.void(*([INT] * 12)), write


@written
def call_attention(context: Any, address: Any, job: Any, me: Any, team: Any, room: Any) -> Any:
    """Call the entry of `attention` by its address."""

    def write(code: Any, builder: Any, _: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * (len(arguments) - 1))
        builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), arguments[1:])
        return code.get_dummy_value()

    return types.void(*([INT] * 5)), write


@written
def wait(context: Any, address: Any) -> Any:
    """Call a function of no arguments."""

    def write(code: Any, builder: Any, _: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [])
        builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), [])
        return code.get_dummy_value()

    return types.void(INT), write


@written
def ask(context: Any, address: Any) -> Any:
    """Call a function of no arguments that returns an int."""

    def write(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(ir.IntType(32), [])
        found = builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), [])
        return builder.sext(found, ir.IntType(64))

    return INT(INT), write


@helper
def to_bfloat16(value: float) -> int:
    """Return the bits of the nearest bfloat16, of two the even one."""
    bits = bits_of(value)
    rounded: int = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return rounded if value == value else 0x7FC0


@helper
def from_bfloat16(bits: int) -> float:
    """Return the float32 of the bits of a bfloat16."""
    value: float = float_of(bits << 16)
    return value


@helper
def to_float16(value: float) -> int:
    """Return the bits of the nearest float16, of two the even one."""
    bits = bits_of(value)
    sign, size = (bits >> 16) & 0x8000, bits & 0x7FFFFFFF
    normal = (size - (112 << 23) + 0xFFF + ((size >> 13) & 1)) >> 13
    # below the least normal number, one addition rounds to the digits that are left
    small = bits_of(float_of(size) + np.float32(0.5)) - 0x3F000000
    found = small if size < 0x38800000 else normal
    found = 0x7C00 if size >= 0x477FF000 else found
    result: int = sign | (found if value == value else 0x7E00)
    return result


@helper
def from_float16(bits: int) -> float:
    """Return the float32 of the bits of a float16."""
    size = bits & 0x7FFF
    value = bits_of(float_of(size << 13) * np.float32(2.0**112))
    value = value if size < 0x7C00 else (0x7F800000 | (size & 0x3FF) << 13)
    result: float = float_of(value | (bits & 0x8000) << 16)
    return result


@helper
def load(address: int, index: int, number: int) -> float:
    """Return a value that lies there as float32, bfloat16 or float16."""
    if number == FLOAT32:
        value: float = get(address, index)
        return value
    if number == BFLOAT16:
        return from_bfloat16(short(address, index))
    return from_float16(short(address, index))


@helper
def store(address: int, index: int, value: float, number: int) -> None:
    """Write a value as float32, bfloat16 or float16."""
    if number == FLOAT32:
        put(address, index, value)
    elif number == BFLOAT16:
        put_short(address, index, to_bfloat16(value))
    else:
        put_short(address, index, to_float16(value))
