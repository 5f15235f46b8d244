"""Sums of rows with weights of 8 and 4 bits, which are dequantised in registers.

A weight lies as `invariant.interleaved` says. Each of a block's parts is a product of its own, of
numbers around zero, which 16 bits hold exactly; a group's scale is applied to the group's sum and
not to the weights, in float32. What a shift adds is the sum of x over the group, taken by a product
with ones, times what the middle number is worth.

Whole numbers become floats without a conversion, of which a processor has few: their bits are put
behind the leading one of a power of two, two values to a register, and the power is subtracted.
Floats of 8 bits have theirs put where those of 16 have them, which is the float but for a power of
two: exponents begin elsewhere. A product with that power is exact, of subnormal numbers too.
"""

# ruff: noqa: N803, N806  (Triton names compile-time values in capitals)

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from nldc.runtime.invariant.interleaved import WORD, Interleaved
from nldc.runtime.kernels.blocks import read_of, row_block
from nldc.runtime.kernels.launchable import Target


@dataclass(frozen=True)
class Numbers:
    """How a quantised weight lies, see `Interleaved`; `scale` and `offset` are dtypes.

    `group` is 0 where all of a row has one scale; `offset` is None without a shift.
    """

    bits: int
    lanes: int
    group: int
    scale: torch.dtype
    offset: torch.dtype | None
    floating: bool = False

    def __str__(self) -> str:
        group = f" group {self.group}" if self.group else ""
        kind = "fp" if self.floating else "int"
        return f"{kind}{self.bits}{group}" + " shifted" * (self.offset is not None)

    @staticmethod
    def of(weight: Interleaved) -> Numbers:
        """Return how a weight lies."""
        offset = None if weight.offset is None else weight.offset.dtype
        own = weight.scale.dtype, offset, weight.floating
        return Numbers(weight.bits, weight.lanes, weight.group, *own)

    @property
    def block(self) -> int:
        """How many columns are one step of a sum."""
        return self.lanes * WORD // self.bits

    @property
    def chain(self) -> int:
        """How many parts that follow one another surely lie in the same group: 1, 2 or 4."""
        parts = WORD // self.bits
        if not self.group:
            return parts
        return next(
            size for size in (4, 2, 1) if size <= parts and self.group % (size * self.lanes) == 0
        )

    def constants(self, target: Target) -> dict[str, Any]:
        """Return what a kernel has to know of it at compile time."""
        return {
            "BITS": self.bits,
            "FLOATING": self.floating,
            "LANES": self.lanes,
            "GROUP": self.group,
            "CHAIN": self.chain,
            "SHIFTED": self.offset is not None,
            "PTX": target.arch is not None and not target.upcast,
        }


PLAIN = {
    "BITS": WORD,
    "FLOATING": False,
    "LANES": 0,
    "GROUP": 0,
    "CHAIN": 0,
    "SHIFTED": False,
    "PTX": False,
}
"""The same, of a weight that is not quantised."""


@triton.constexpr_function  # type: ignore[untyped-decorator]
def unpacking_floats(part: int, number: str) -> str:
    """Return the instructions that bring a part of two words, floats of 8 bits, to two of 16."""
    if number == "bf16":
        # times 2 ** 120; bf16 has no product alone before 9.0, and to add -0 changes nothing
        moved = "shr.b32 a, $1, 4;" if part else "shl.b32 a, $1, 4;"
        mask, times = "0x07F007F0", "mov.b32 b, 0x7B807B80; mov.b32 c, 0x80008000;"
        times += " fma.rn.bf16x2 $0, a, b, c;"
    else:
        moved = "shr.b32 a, $1, 1;" if part else "shl.b32 a, $1, 7;"
        mask, times = "0x3F803F80", "mov.b32 b, 0x5C005C00; mul.rn.f16x2 $0, a, b;"
    sign = "mov.b32 t, $1;" if part else "shl.b32 t, $1, 8;"
    return (
        "{ .reg .b32 t, a, b, c; "
        f"{moved} {sign} and.b32 a, a, {mask}; lop3.b32 a, t, 0x80008000, a, 0xEA; {times}"
        " }"
    )


@triton.constexpr_function  # type: ignore[untyped-decorator]
def unpacking(part: int, bits: int, number: str) -> str:
    """Return the instructions that bring a part of two words to two numbers around zero."""
    shift = f"shr.b32 t, $1, {part * bits};" if part else "mov.b32 t, $1;"
    if number == "bf16" and bits == 8:
        # seven bits lie behind 128; the highest chooses of 256 and 128 what is taken away
        made = """
            lop3.b32 a, t, 0x007F007F, 0x43004300, 0xEA;
            lop3.b32 b, t, 0x00800080, 0x43804380, 0x6A;
            mov.b32 c, 0xBF80BF80;
            fma.rn.bf16x2 $0, b, c, a;
        """
    elif number == "bf16":
        made = """
            lop3.b32 a, t, 0x000F000F, 0x43004300, 0xEA;
            mov.b32 b, 0x3F803F80;
            mov.b32 c, 0xC308C308;
            fma.rn.bf16x2 $0, a, b, c;
        """
    else:
        mask, less = ("0x00FF00FF", "0xE480E480") if bits == 8 else ("0x000F000F", "0xE408E408")
        made = f"""
            lop3.b32 a, t, {mask}, 0x64006400, 0xEA;
            mov.b32 c, {less};
            add.rn.f16x2 $0, a, c;
        """
    return "{ .reg .b32 t, a, b, c; " + shift + made + "}"


@triton.jit  # type: ignore[untyped-decorator]
def part_of(  # type: ignore[no-untyped-def]
    word, part: tl.constexpr, BITS: tl.constexpr, FLOATING: tl.constexpr, NUMBER: tl.constexpr,
    UPCAST: tl.constexpr, PTX: tl.constexpr,
):  # fmt: skip
    """Return the numbers of a part, around zero, of int16 words [N, LANES]: of the same shape.

    PTX: by CUDA's instructions, two words at a time. FLOATING: the numbers are floats (E4M3).
    """
    if PTX and FLOATING:
        if tl.bfloat16 == NUMBER:
            number = tl.inline_asm_elementwise(
                unpacking_floats(part, "bf16"), "=r,r", [word], tl.bfloat16, is_pure=True, pack=2
            )
        else:
            number = tl.inline_asm_elementwise(
                unpacking_floats(part, "fp16"), "=r,r", [word], tl.float16, is_pure=True, pack=2
            )
    elif PTX:
        if tl.bfloat16 == NUMBER:
            number = tl.inline_asm_elementwise(
                unpacking(part, BITS, "bf16"), "=r,r", [word], tl.bfloat16, is_pure=True, pack=2
            )
        else:
            number = tl.inline_asm_elementwise(
                unpacking(part, BITS, "fp16"), "=r,r", [word], tl.float16, is_pure=True, pack=2
            )
    elif FLOATING:
        bits = word.to(tl.int32) >> (part * 8)
        # in a float16, which keeps subnormal numbers everywhere, 2 ** 8 times too small
        bits = ((bits & 0x80) << 8) | ((bits & 0x7F) << 7)
        number = bits.to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32) * 256.0
        if not UPCAST:
            number = number.to(NUMBER)
    else:
        raised = (word.to(tl.int32) >> (part * BITS)) & ((1 << BITS) - 1)
        number = (raised - (1 << (BITS - 1))).to(tl.float32)
        if not UPCAST:
            number = number.to(NUMBER)
    return number


@triton.jit  # type: ignore[untyped-decorator]
def group_values(  # type: ignore[no-untyped-def]
    ptr, start, out, OUT: tl.constexpr, WIDTH: tl.constexpr, GROUP: tl.constexpr,
    STEP: tl.constexpr,
):  # fmt: skip
    """Return four times [N]: the values of the groups that columns `start` + i * STEP lie in."""
    last: tl.constexpr = WIDTH // GROUP - 1  # of columns beyond the last x has zeros
    a = tl.load(ptr + tl.minimum(start // GROUP, last) * OUT + out)
    b = tl.load(ptr + tl.minimum((start + STEP) // GROUP, last) * OUT + out)
    c = tl.load(ptr + tl.minimum((start + 2 * STEP) // GROUP, last) * OUT + out)
    d = tl.load(ptr + tl.minimum((start + 3 * STEP) // GROUP, last) * OUT + out)
    return a, b, c, d


@triton.jit  # type: ignore[untyped-decorator]
def scales_of(  # type: ignore[no-untyped-def]
    scale_ptr, offset_ptr, start, out, OUT: tl.constexpr, WIDTH: tl.constexpr,
    GROUP: tl.constexpr, STEP: tl.constexpr, SHIFTED: tl.constexpr,
):  # fmt: skip
    """Return the scales of groups, as `group_values` does, and their offsets if SHIFTED."""
    scales = group_values(scale_ptr, start, out, OUT, WIDTH, GROUP, STEP)
    offsets = scales
    if SHIFTED:
        offsets = group_values(offset_ptr, start, out, OUT, WIDTH, GROUP, STEP)
    return scales, offsets


@triton.jit  # type: ignore[untyped-decorator]
def row_scale(scale_ptr, offset_ptr, out, SHIFTED: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return the one scale of each row, float32 [N, 1], and its offset if SHIFTED."""
    scale = tl.load(scale_ptr + out).to(tl.float32)[:, None]
    offset = scale
    if SHIFTED:
        offset = tl.load(offset_ptr + out).to(tl.float32)[:, None]
    return scale, offset


@triton.jit  # type: ignore[untyped-decorator]
def chosen_of(values, index: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return one of four, as float32 [N, 1]."""
    if index == 0:
        found = values[0]
    elif index == 1:
        found = values[1]
    elif index == 2:
        found = values[2]
    else:
        found = values[3]
    return found.to(tl.float32)[:, None]


@triton.jit  # type: ignore[untyped-decorator]
def scaled(  # type: ignore[no-untyped-def]
    total, sums, ones, scale, offset, SHIFTED: tl.constexpr
):
    """Return total + sums * scale, and + ones * offset if SHIFTED."""
    total = tl.fma(sums, scale, total)
    if SHIFTED:
        total = tl.fma(ones, offset, total)
    return total


@triton.jit
def dotted(a, b, total):  # type: ignore[no-untyped-def]
    """Return total + a @ b."""
    return tl.dot(a, b, total, input_precision="ieee", out_dtype=tl.float32)


@triton.jit  # type: ignore[untyped-decorator]
def number_sums(  # type: ignore[no-untyped-def]
    x_ptr, w_ptr, scale_ptr, offset_ptr, up_ptr, up_scale_ptr, up_offset_ptr, row, other_row, out,
    first, last,
    OUT: tl.constexpr, WIDTH: tl.constexpr, STRIDE: tl.constexpr, BLOCK: tl.constexpr,
    MORE: tl.constexpr, ONCE: tl.constexpr, UPCAST: tl.constexpr, BITS: tl.constexpr,
    FLOATING: tl.constexpr, LANES: tl.constexpr, GROUP: tl.constexpr, CHAIN: tl.constexpr,
    SHIFTED: tl.constexpr, PTX: tl.constexpr, PAIRED: tl.constexpr,
):  # fmt: skip
    """Return the sums of the terms `first` to `last`, [N, R] and [N, MORE], in their order.

    PAIRED: and then those of a second weight, `up`; else zeros.
    """
    N: tl.constexpr = out.shape[0]
    R: tl.constexpr = row.shape[0]
    M: tl.constexpr = other_row.shape[0]
    PARTS: tl.constexpr = 16 // BITS
    NUMBER: tl.constexpr = x_ptr.dtype.element_ty
    total = tl.zeros((N, R), tl.float32)
    other = tl.zeros((N, M), tl.float32)
    up_total = tl.zeros((N, R), tl.float32)
    up_other = tl.zeros((N, M), tl.float32)
    # sums of numbers and of x, of a group or of all
    sums = tl.zeros((N, R), tl.float32)
    other_sums = tl.zeros((N, M), tl.float32)
    up_sums = tl.zeros((N, R), tl.float32)
    up_other_sums = tl.zeros((N, M), tl.float32)
    ones = tl.zeros((N, R), tl.float32)
    other_ones = tl.zeros((N, M), tl.float32)
    one = tl.full((N, LANES), 1.0, tl.float32 if UPCAST else NUMBER)
    lane = tl.arange(0, LANES)
    STEP: tl.constexpr = CHAIN * LANES
    if GROUP > 0:  # read a step ahead, for nothing else of a step waits for memory
        scales, offsets = scales_of(
            scale_ptr, offset_ptr, first, out, OUT, WIDTH, GROUP, STEP, SHIFTED
        )
        up_scales, up_offsets = scales, offsets
        if PAIRED:
            up_scales, up_offsets = scales_of(
                up_scale_ptr, up_offset_ptr, first, out, OUT, WIDTH, GROUP, STEP, SHIFTED
            )
    for start in tl.range(first, last, BLOCK):
        place = out[:, None] * STRIDE + (start // PARTS + lane)[None, :]
        word = read_of(w_ptr + place, ONCE)
        if PAIRED:
            up_word = read_of(up_ptr + place, ONCE)
        if GROUP > 0:
            own = scales
            own_offsets = offsets
            up_own = up_scales
            up_own_offsets = up_offsets
            then = start + BLOCK
            scales, offsets = scales_of(
                scale_ptr, offset_ptr, then, out, OUT, WIDTH, GROUP, STEP, SHIFTED
            )
            if PAIRED:
                up_scales, up_offsets = scales_of(
                    up_scale_ptr, up_offset_ptr, then, out, OUT, WIDTH, GROUP, STEP, SHIFTED
                )
        for part in tl.static_range(PARTS):
            column = start + part * LANES + lane
            weight = part_of(word, part, BITS, FLOATING, NUMBER, UPCAST, PTX)
            x = row_block(x_ptr, row, column, WIDTH, BLOCK, UPCAST)
            if GROUP > 0 and part % CHAIN == 0:
                sums = tl.zeros((N, R), tl.float32)
                up_sums = tl.zeros((N, R), tl.float32)
                ones = tl.zeros((N, R), tl.float32)
                other_sums = tl.zeros((N, M), tl.float32)
                up_other_sums = tl.zeros((N, M), tl.float32)
                other_ones = tl.zeros((N, M), tl.float32)
            sums = dotted(weight, x, sums)
            if SHIFTED:
                ones = dotted(one, x, ones)
            if PAIRED:
                up_weight = part_of(up_word, part, BITS, FLOATING, NUMBER, UPCAST, PTX)
                up_sums = dotted(up_weight, x, up_sums)
            if MORE > 0:
                x = row_block(x_ptr, other_row, column, WIDTH, BLOCK, UPCAST)
                other_sums = dotted(weight, x, other_sums)
                if SHIFTED:
                    other_ones = dotted(one, x, other_ones)
                if PAIRED:
                    up_other_sums = dotted(up_weight, x, up_other_sums)
            if GROUP > 0 and part % CHAIN == CHAIN - 1:
                scale = chosen_of(own, part // CHAIN)
                offset = chosen_of(own_offsets, part // CHAIN)
                total = scaled(total, sums, ones, scale, offset, SHIFTED)
                if MORE > 0:
                    other = scaled(other, other_sums, other_ones, scale, offset, SHIFTED)
                if PAIRED:
                    scale = chosen_of(up_own, part // CHAIN)
                    offset = chosen_of(up_own_offsets, part // CHAIN)
                    up_total = scaled(up_total, up_sums, ones, scale, offset, SHIFTED)
                    if MORE > 0:
                        up_other = scaled(
                            up_other, up_other_sums, other_ones, scale, offset, SHIFTED
                        )
    if GROUP == 0:
        scale, offset = row_scale(scale_ptr, offset_ptr, out, SHIFTED)
        total = scaled(total, sums, ones, scale, offset, SHIFTED)
        other = scaled(other, other_sums, other_ones, scale, offset, SHIFTED)
        if PAIRED:
            scale, offset = row_scale(up_scale_ptr, up_offset_ptr, out, SHIFTED)
            up_total = scaled(up_total, up_sums, ones, scale, offset, SHIFTED)
            up_other = scaled(up_other, up_other_sums, other_ones, scale, offset, SHIFTED)
    return total, other, up_total, up_other
