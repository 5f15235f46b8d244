"""LLVM's instructions on vectors, which every processor has a way to compute.

A vector's lanes are values of their own: an instruction does the same to each, rounded once. What
is added across lanes is added in the order that is written here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llvmlite import ir

from nldc.runtime.cpu.numbers import FLOAT16, FLOAT32

F32, I16, I32, I64 = ir.FloatType(), ir.IntType(16), ir.IntType(32), ir.IntType(64)


class Vectors:
    """Writes instructions on vectors of `lanes` values."""

    def __init__(self, builder: Any, lanes: int = 16) -> None:
        self.builder = builder
        self.lanes = lanes
        self.zero = self.const(F32, 0.0)

    def of(self, kind: Any) -> Any:
        """Return the type of vectors of that type."""
        return ir.VectorType(kind, self.lanes)

    def const(self, kind: Any, value: float) -> Any:
        """Return a vector of one constant."""
        return ir.Constant(self.of(kind), [value] * self.lanes)

    def whole(self, value: int) -> Any:
        """Return a constant."""
        return ir.Constant(I64, value)

    def at(self, address: Any, *offsets: Any) -> Any:
        """Return an address that lies bytes behind another one."""
        for offset in offsets:
            address = self.builder.add(
                address, self.whole(offset) if isinstance(offset, int) else offset
            )
        return address

    def times(self, value: Any, factor: int) -> Any:
        """Return a value times a constant."""
        return self.builder.mul(value, self.whole(factor))

    def pointer(self, address: Any, kind: Any) -> Any:
        """Return an address as a pointer."""
        return self.builder.inttoptr(address, kind.as_pointer())

    def load(self, address: Any, kind: Any, align: int = 2) -> Any:
        """Read a vector."""
        found = self.builder.load(self.pointer(address, self.of(kind)))
        found.align = align
        return found

    def store(self, value: Any, address: Any) -> None:
        """Write a vector of values of 4 bytes."""
        self.builder.store(value, self.pointer(address, value.type)).align = 4

    def load_one(self, address: Any) -> Any:
        """Read one float32."""
        found = self.builder.load(self.pointer(address, F32))
        found.align = 4
        return found

    def prefetch(self, address: Any) -> None:
        """Ask for a line of memory that will be read."""
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer(), I32, I32, I32])
        found = self._declared("llvm.prefetch.p0", kind)
        flags = [ir.Constant(I32, flag) for flag in (0, 3, 1)]  # to read, into all caches, data
        self.builder.call(found, [self.pointer(address, ir.IntType(8)), *flags])

    def prefetch_all(self, address: Any, size: int) -> None:
        """Ask for so many bytes, or for the lines that they begin in."""
        for offset in range(0, size, 64):
            self.prefetch(self.at(address, offset))

    def _declared(self, name: str, kind: Any) -> Any:
        module = self.builder.module
        return module.globals.get(name) or ir.Function(module, kind, name)

    def spread(self, value: Any) -> Any:
        """Return a vector of one value."""
        nothing = ir.Constant(self.of(value.type), ir.Undefined)
        first = self.builder.insert_element(nothing, value, ir.Constant(I32, 0))
        return self.builder.shuffle_vector(first, nothing, self.const(I32, 0))

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        """Return a * b + c, rounded once."""
        kind = ir.FunctionType(a.type, [a.type] * 3)
        return self.builder.call(self._declared(f"llvm.fma.v{self.lanes}f32", kind), [a, b, c])

    def larger(self, a: Any, b: Any) -> Any:
        """Return the larger of two, b if one is no number."""
        return self.builder.select(self.builder.fcmp_ordered(">", a, b), a, b)

    def bits(self, value: Any) -> Any:
        """Return floats as whole numbers."""
        return self.builder.bitcast(value, self.of(I32))

    def floats(self, value: Any) -> Any:
        """Return the floats of these bits."""
        return self.builder.bitcast(value, self.of(F32))

    def half(self, value: Any) -> Any:
        """Return the float32 of finite float16, whose bits are int32."""
        write = self.builder
        size = write.shl(write.and_(value, self.const(I32, 0x7FFF)), self.const(I32, 13))
        sized = write.fmul(self.floats(size), self.const(F32, 2.0**112))
        sign = write.shl(write.and_(value, self.const(I32, 0x8000)), self.const(I32, 16))
        return self.floats(write.or_(self.bits(sized), sign))

    def _any_half(self, value: Any) -> Any:
        """Return the float32 of any float16, whose bits are int32."""
        write, found = self.builder, self.bits(self.half(value))
        exponent = self.const(I32, 0x7C00)
        is_finite = write.icmp_signed("!=", write.and_(value, exponent), exponent)
        endless = write.or_(found, self.const(I32, 0x7F800000))
        return self.floats(write.select(is_finite, found, endless))

    def float8(self, value: Any) -> Any:
        """Return the float32 of floats of 8 bits (E4M3), the highest of an int32, but for NaN."""
        write = self.builder
        sign = write.and_(value, self.const(I32, 0x80000000))
        size = write.and_(write.lshr(value, self.const(I32, 4)), self.const(I32, 0x07F00000))
        return write.fmul(self.floats(write.or_(sign, size)), self.const(F32, 2.0**120))

    def read(self, address: Any, number: int) -> Any:
        """Read values that lie in memory as float32, bfloat16 or float16; none need be a number."""
        if number == FLOAT32:
            return self.load(address, F32, 4)
        raised = self.builder.zext(self.load(address, I16), self.of(I32))
        if number == FLOAT16:
            return self._any_half(raised)
        return self.floats(self.builder.shl(raised, self.const(I32, 16)))

    def sum(self, vector: Any) -> Any:
        """Return the sum of a vector's lanes, half upon half."""
        half = self.lanes
        while half > 1:
            half //= 2
            lanes = [lane + half if lane < half else lane for lane in range(self.lanes)]
            mask = ir.Constant(ir.VectorType(I32, self.lanes), lanes)
            nothing = ir.Constant(vector.type, ir.Undefined)
            vector = self.builder.fadd(vector, self.builder.shuffle_vector(vector, nothing, mask))
        return self.builder.extract_element(vector, ir.Constant(I32, 0))

    def sum_of_each(self, vectors: Callable[[int], Sequence[Any]]) -> list[Any]:
        """Return vectors whose lane i is the sum of all lanes of what `vectors(i)` returns, each.

        Lanes are added half upon half, in the same order for every i.
        """
        return self._summed(vectors, 0, 1)

    def _summed(self, vectors: Callable[[int], Sequence[Any]], first: int, run: int) -> list[Any]:
        """Return the sums of vectors `first`, `first + run`, and so on, with `run` lanes left."""
        if run == self.lanes:
            return list(vectors(first))
        low = self._summed(vectors, first, 2 * run)
        high = self._summed(vectors, first + run, 2 * run)
        starts = range(0, self.lanes, 2 * run)
        left = [
            begin + start + lane
            for start in starts
            for begin in (0, self.lanes)
            for lane in range(run)
        ]
        masks = [
            ir.Constant(ir.VectorType(I32, self.lanes), [lane + more for lane in left])
            for more in (0, run)
        ]
        shuffle = self.builder.shuffle_vector
        return [
            self.builder.fadd(*(shuffle(a, b, mask) for mask in masks))
            for a, b in zip(low, high, strict=True)
        ]


@contextmanager
def loop(builder: Any, count: Any, carried: Sequence[Any]) -> Iterator[tuple[Any, list[Any], Any]]:
    """Write a loop: yield its number from 0, what is carried, and a list for what goes on.

    `count` is at least 1. Behind it, `results` of that list are what came of the last round.
    """
    before = builder.block
    inside, after = (builder.append_basic_block(name) for name in ("round", "after"))
    builder.branch(inside)
    builder.position_at_end(inside)
    number = builder.phi(I64)
    number.add_incoming(ir.Constant(I64, 0), before)
    held = []
    for value in carried:
        phi = builder.phi(value.type)
        phi.add_incoming(value, before)
        held.append(phi)
    going: list[Any] = []
    yield number, held, going
    following = builder.add(number, ir.Constant(I64, 1))
    end = builder.block
    number.add_incoming(following, end)
    for phi, value in zip(held, going, strict=True):
        phi.add_incoming(value, end)
    builder.cbranch(builder.icmp_signed("<", following, count), inside, after)
    builder.position_at_end(after)


def in_cases(builder: Any, value: Any, most: int, write: Callable[[int], None]) -> None:
    """Write `write(n)` for every n from 1 to `most`; that of `value` is what is done."""
    after = builder.append_basic_block("after")
    cases = [builder.append_basic_block(f"of_{number}") for number in range(1, most + 1)]
    chosen = builder.switch(value, cases[0])
    for number, case in enumerate(cases, 1):
        if number > 1:
            chosen.add_case(ir.Constant(I64, number), case)
        builder.position_at_end(case)
        write(number)
        builder.branch(after)
    builder.position_at_end(after)
