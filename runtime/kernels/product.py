"""Products of rows with a weight matrix, `x @ weight.T`, in which a row's bits are its own.

What a value of the result is depends on two things alone: the order in which its terms are added,
and where the sum is cut into segments whose sums are added afterwards. Both follow from the shape
of the weight (`segments_of`): terms are added in their order, a block of `block_of` after another,
and so are the segments. How many rows and features a program takes (`tile_of`) is then free, and
chosen by the number of rows: few programs would leave most of a device idle, so for few rows each
segment is a program, which leaves its sum in memory for the kernel behind it (`summed`, `rotary`);
for many rows a program adds the segments itself.

The weight is the left operand of each product: a tensor core has at least as many rows of that as a
program has features, and the few rows of a step are its columns. Weights stay as loading leaves
them, [out, width] with rows of whole cache lines.
"""

# ruff: noqa: N803  (Triton names compile-time values in capitals)

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from nldc.runtime.invariant.interleaved import Interleaved
from nldc.runtime.kernels.blocks import row_block, weight_block
from nldc.runtime.kernels.launchable import TYPES, Launchable, Target, options_of, power_above
from nldc.runtime.kernels.numbers import PLAIN, Numbers, number_sums

UNITS = 256
"""Segments are cut until there are so many programs of `UNIT` features: about two a processor."""
UNIT = 64
LEAST_SEGMENT = 512
"""Terms of a segment: below, what a program takes to begin and to end counts for more."""
MOST_SEGMENTS = 8
FULL = 128
"""Programs that keep a device busy."""
FEW = 128
"""Up to so many rows each segment is a program."""


@dataclass(frozen=True, eq=False)
class Matrix:
    """A weight [out, width] in memory that has `stride` values from row to row.

    `whole`: its sums are never cut. Of one that is `quantised`, `data` are the words.
    """

    data: Tensor
    out: int
    width: int
    whole: bool = False
    quantised: Interleaved | None = None

    @staticmethod
    def of_numbers(weight: Interleaved) -> Matrix:
        """Return a quantised weight, where it lies."""
        return Matrix(weight.words, *weight.shape, quantised=weight)

    @cached_property
    def shape(self) -> Shape:
        """What kernels have to know of it at compile time."""
        kind, numbers = self.data.dtype, None
        if self.quantised is not None:
            kind, numbers = self.quantised.dtype, Numbers.of(self.quantised)
        return Shape(self.out, self.width, self.data.stride(0), kind, self.whole, numbers)

    @property
    def memory(self) -> tuple[Tensor, Tensor, Tensor]:
        """What a kernel reads of it: values, scales, offsets; the values again where none are."""
        if self.quantised is None:
            return self.data, self.data, self.data
        offset = self.quantised.offset
        return self.data, self.quantised.scale, self.data if offset is None else offset


@dataclass(frozen=True)
class Shape:
    """The shape of a weight, and `stride`, its values from row to row; `whole` as of `Matrix`.

    `dtype` is that of the rows. `numbers` says how a quantised weight lies; its stride is in words.
    """

    out: int
    width: int
    stride: int
    dtype: torch.dtype
    whole: bool = False
    numbers: Numbers | None = None

    @property
    def block(self) -> int:
        """How many terms are one step of a sum."""
        return block_of(self.dtype) if self.numbers is None else self.numbers.block

    @property
    def pointers(self) -> tuple[str, str, str]:
        """What `Matrix.memory` points to, as Triton names it."""
        if self.numbers is None:
            number = f"*{TYPES[self.dtype]}"
            return number, number, number
        offset = self.numbers.offset
        offset_type = "*i16" if offset is None else f"*{TYPES[offset]}"
        return "*i16", f"*{TYPES[self.numbers.scale]}", offset_type

    @property
    def name(self) -> str:
        """What a report calls it."""
        bits = "" if self.numbers is None else f" {self.numbers}"
        return f"{self.out}x{self.width}{bits}"

    @property
    def segments(self) -> int:
        """Into how many segments its sums are cut."""
        return 1 if self.whole else segments_of(self.out, self.width)

    @property
    def span(self) -> int:
        """How many terms a segment has, but for the last."""
        blocks = -(-self.width // self.block)
        return -(-blocks // self.segments) * self.block


@dataclass(frozen=True)
class Tile:
    """What a program takes: `rows` and `more` rows, two powers of two (or `more` 0), and features.

    `apart`: each segment is a program of its own.
    """

    rows: int
    more: int
    features: int
    warps: int
    stages: int
    apart: bool

    @property
    def height(self) -> int:
        """How many rows a program takes in all."""
        return self.rows + self.more


def block_of(dtype: torch.dtype) -> int:
    """Return how many terms are one step of a sum: 128 bytes."""
    return 32 if dtype == torch.float32 else 64


def segments_of(out: int, width: int) -> int:
    """Return into how many segments the sums of a weight [out, width] are cut.

    A function of the shape, never of the rows: the cuts are part of what a row's bits are.
    """
    segments = 1
    while (
        segments < MOST_SEGMENTS
        and -(-out // UNIT) * segments < UNITS
        and width >= 2 * segments * LEAST_SEGMENT
    ):
        segments *= 2
    return segments


@lru_cache(maxsize=4096)
def tile_of(rows: int, shape: Shape, target: Target, *, weights: int = 1) -> Tile:
    """Return what a program takes of so many rows; `weights` are read side by side.

    Any choice gives the same bits. This one follows what was quickest on an H200 for the products
    of the 8B model (benchmarks/README.md): it keeps all processors busy, computes few rows in vain,
    and reads ahead as far as lets all programs be there at once.
    """
    if shape.numbers is not None and not target.upcast:
        return _tile_of_numbers(rows, shape, target, weights)
    wide = shape.dtype == torch.float32
    cut = shape.segments if weights == 1 else 1
    few, more = _rows_of_tile(rows, shape, target, weights)
    parts = cut if rows <= FEW or few == 256 else 1
    if target.upcast:  # a program costs milliseconds there
        return Tile(few, more, min(512, power_above(shape.out, 16)), 4, 1, parts > 1)
    row_tiles = -(-rows // (few + more))
    fits = target.dependent or not more  # sums of mma take more registers than those of wgmma
    features, warps = 64, 8 if wide else 4
    if few == 16 and weights == 1 and -(-shape.out // UNIT) * parts < UNITS // 4:
        features = 16 if wide else 32  # a small weight is spread over more programs
    elif wide:
        features = 32 if few > 16 else 64
    elif weights > 1:
        warps = 8 if few == 16 or rows > FEW else 4
        features = 128 if -(-shape.out // 128) * row_tiles >= 4 * FULL else 64
    elif few == 256:
        features, warps = 128, 8
    elif (few == 16 or (rows > FEW and fits)) and -(-shape.out // 128) * parts * row_tiles >= FULL:
        features, warps = 128, 4 if parts > 1 else 8
    stage = (features * weights + few + more) * shape.block * shape.dtype.itemsize
    beside = -(-(-(-shape.out // features) * parts * row_tiles) // FULL)  # of one processor
    if few >= 64 and (beside > 3 or warps == 8):
        beside = 1  # they come one after another
    deep = 5 if few < 64 and features < 128 else 4
    return Tile(few, more, features, warps, _stages(target, stage, beside, deep), parts > 1)


def _stages(target: Target, stage: int, beside: int, deep: int) -> int:
    """Return how many stages of so many bytes a program reads ahead, up to `deep`.

    They leave room for as many others as there are `beside` each other on a processor, up to three.
    """
    room = (target.shared_kib - 3) * 1024 // stage
    return max(2, min(deep, room, max(3, room // min(3, beside))))


def _tile_of_numbers(rows: int, shape: Shape, target: Target, weights: int) -> Tile:
    """Return what a program takes of so many rows with a quantised weight.

    Features come in 64 to a group of four warps: a tensor core then takes numbers from registers
    as they were dequantised there, each by one warp. Sums of a group lie beside the totals, and so
    do those of another weight.
    """
    assert shape.numbers is not None
    grouped, roomy = shape.numbers.group > 0, target.dependent  # sums of wgmma take fewer registers
    shifted = grouped and shape.numbers.offset is not None
    most = 128 if weights == 1 and not grouped and roomy else 64
    tight = shifted or (grouped and shape.numbers.bits == 4)
    if shifted and (weights > 1 or rows > FEW):
        most = 32 if roomy else 16
    elif tight and (weights > 1 or not roomy):
        most = 32
    few = next((size for size in (16, 32, 64) if rows <= size), most)
    few, more = min(few, most), 0
    if most > 64 and 64 < rows <= 64 + 16:
        few, more = 64, 16
    parts = shape.segments if weights == 1 and rows <= FEW else 1
    row_tiles = -(-rows // (few + more))
    features, warps = 64, 4
    if few > 32 and not grouped and -(-shape.out // 128) * parts * row_tiles >= FULL // 2:
        features, warps = 128, 8
    if tight and not roomy and rows > FEW and few > 16:
        warps = 8  # where segments come one after another, more is kept in registers
    if shifted and target.blackwell and few == 32:
        warps = 8  # or a compiler spills, to have more programs at once
    words = shape.numbers.lanes * 2
    stage = features * weights * words + (few + more) * shape.block * shape.dtype.itemsize
    beside = -(-(-(-shape.out // features) * parts * row_tiles) // FULL)  # of one processor
    deep = (6 if shape.numbers.lanes < 64 else 5) if few < 64 else 4
    return Tile(few, more, features, warps, _stages(target, stage, beside, deep), parts > 1)


def _rows_of_tile(rows: int, shape: Shape, target: Target, weights: int) -> tuple[int, int]:
    """Return how many rows a program takes, as two powers of two, of which the other may be 0."""
    few = next((size for size in (16, 32, 64) if rows <= size), 64)
    if shape.dtype == torch.float32:  # a tile lies in registers, and so do sums of segments
        return min(few, 32 if weights > 1 or rows > FEW else 64), 0
    if rows <= 64:
        return few, 0
    if rows <= 64 + 32:  # a quadratic step of eight drafts has 72 rows
        return 64, 16 if rows <= 64 + 16 else 32
    if target.dependent and 256 < rows <= 256 + 16:  # one of sixteen drafts 272
        alone = -(-shape.out // 128) * shape.segments <= FULL  # all programs are there at once
        if weights > 1 or (shape.segments > 1 and alone):
            return 256, 16
    over = rows - rows // 128 * 128
    roomy = weights == 1 or target.dependent  # registers: accumulators of wgmma take fewer
    return 128, 16 if roomy and rows < 3 * 128 and 0 < over <= rows // 128 * 16 else 0


@triton.jit  # type: ignore[untyped-decorator]
def segment_sums(  # type: ignore[no-untyped-def]
    x_ptr, w_ptr, row, other_row, out, first, last,
    WIDTH: tl.constexpr, STRIDE: tl.constexpr, BLOCK: tl.constexpr, MORE: tl.constexpr,
    ONCE: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Return the sums of the terms `first` to `last`, [N, R] and [N, MORE], in their order."""
    total = tl.zeros((out.shape[0], row.shape[0]), tl.float32)
    other = tl.zeros((out.shape[0], other_row.shape[0]), tl.float32)
    for start in tl.range(first, last, BLOCK):
        column = start + tl.arange(0, BLOCK)
        weight = weight_block(w_ptr, out, column, WIDTH, STRIDE, BLOCK, ONCE, UPCAST)
        x = row_block(x_ptr, row, column, WIDTH, BLOCK, UPCAST)
        total = tl.dot(weight, x, total, input_precision="ieee", out_dtype=tl.float32)
        if MORE > 0:
            x = row_block(x_ptr, other_row, column, WIDTH, BLOCK, UPCAST)
            other = tl.dot(weight, x, other, input_precision="ieee", out_dtype=tl.float32)
    return total, other


@triton.jit  # type: ignore[untyped-decorator]
def sums_of(  # type: ignore[no-untyped-def]
    x_ptr, w_ptr, scale_ptr, offset_ptr, row, other_row, out, first, last,
    OUT: tl.constexpr, WIDTH: tl.constexpr, STRIDE: tl.constexpr, BLOCK: tl.constexpr,
    MORE: tl.constexpr, ONCE: tl.constexpr, UPCAST: tl.constexpr, BITS: tl.constexpr,
    FLOATING: tl.constexpr, LANES: tl.constexpr, GROUP: tl.constexpr, CHAIN: tl.constexpr,
    SHIFTED: tl.constexpr, PTX: tl.constexpr,
):  # fmt: skip
    """Return what `segment_sums` does, of a weight that is quantised if it has no 16 BITS."""
    if BITS == 16:
        total, other = segment_sums(
            x_ptr, w_ptr, row, other_row, out, first, last,
            WIDTH, STRIDE, BLOCK, MORE, ONCE, UPCAST,
        )  # fmt: skip
    else:
        total, other, _, _ = number_sums(
            x_ptr, w_ptr, scale_ptr, offset_ptr, w_ptr, scale_ptr, offset_ptr, row, other_row, out,
            first, last, OUT, WIDTH, STRIDE, BLOCK, MORE, ONCE, UPCAST,
            BITS, FLOATING, LANES, GROUP, CHAIN, SHIFTED, PTX, False,
        )  # fmt: skip
    return total, other


@triton.jit  # type: ignore[untyped-decorator]
def rows_of_tile(left, ROWS: tl.constexpr, MORE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return the numbers of a tile's rows, [ROWS] and [MORE], and which of its `left` rows to read.

    The latter repeat the last one.
    """
    row = tl.arange(0, ROWS)
    other_row = ROWS + tl.arange(0, MORE if MORE > 0 else 16)
    return row, other_row, tl.minimum(row, left - 1), tl.minimum(other_row, left - 1)


@triton.jit  # type: ignore[untyped-decorator]
def store_rows(out_ptr, values, row, out, rows, OUT: tl.constexpr):  # type: ignore[no-untyped-def]
    """Store [N, R] as rows [., OUT]."""
    place = out_ptr + row[None, :].to(tl.int64) * OUT + out[:, None]
    held = (row < rows)[None, :] & (out < OUT)[:, None]
    tl.store(place, values.to(out_ptr.dtype.element_ty), mask=held)


@triton.jit  # type: ignore[untyped-decorator]
def sum_of_parts(  # type: ignore[no-untyped-def]
    part_ptr, place, held, distance, PARTS: tl.constexpr
):
    """Return the sum of PARTS values each, `distance` apart, in order."""
    total = tl.zeros(place.shape, tl.float32)
    for part in tl.static_range(PARTS):
        total += tl.load(part_ptr + part * distance + place, mask=held, other=0.0)
    return total


@triton.jit(do_not_specialize=["rows"])  # type: ignore[untyped-decorator]
def product_kernel(  # type: ignore[no-untyped-def]
    x_ptr, w_ptr, scale_ptr, offset_ptr, out_ptr, rows,
    OUT: tl.constexpr, WIDTH: tl.constexpr, STRIDE: tl.constexpr, SEGMENTS: tl.constexpr,
    SPAN: tl.constexpr, APART: tl.constexpr, ROWS: tl.constexpr, MORE: tl.constexpr,
    FEATURES: tl.constexpr, BLOCK: tl.constexpr, ONCE: tl.constexpr, UPCAST: tl.constexpr,
    BITS: tl.constexpr, FLOATING: tl.constexpr, LANES: tl.constexpr,
    GROUP: tl.constexpr, CHAIN: tl.constexpr, SHIFTED: tl.constexpr, PTX: tl.constexpr,
    DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Write `x @ w.T` for x [rows, WIDTH] and w [OUT, WIDTH].

    `out_ptr` [rows, OUT], or with APART [SEGMENTS, rows, OUT] with a segment's sums in each.
    Grid: tiles of features * tiles of rows, these side by side; APART: SEGMENTS.
    """
    row_tiles = tl.cdiv(rows, ROWS + MORE)
    first_row = (tl.program_id(0) % row_tiles) * (ROWS + MORE)
    first_out = (tl.program_id(0) // row_tiles) * FEATURES
    out = tl.arange(0, FEATURES)
    held = tl.minimum(out, OUT - 1 - first_out)  # rows beyond the last repeat it
    w_ptr += first_out.to(tl.int64) * STRIDE
    scale_ptr += first_out
    offset_ptr += first_out
    segment = tl.program_id(1)
    if DEPENDENT:
        gdc_wait()
    row, other_row, x_row, x_other = rows_of_tile(rows - first_row, ROWS, MORE)
    x_ptr += first_row.to(tl.int64) * WIDTH
    if APART or SEGMENTS == 1:
        first = segment * SPAN
        total, other = sums_of(
            x_ptr, w_ptr, scale_ptr, offset_ptr, x_row, x_other, held, first,
            tl.minimum(first + SPAN, WIDTH),
            OUT, WIDTH, STRIDE, BLOCK, MORE, ONCE, UPCAST,
            BITS, FLOATING, LANES, GROUP, CHAIN, SHIFTED, PTX,
        )  # fmt: skip
        if APART:
            out_ptr += segment.to(tl.int64) * rows * OUT
    else:
        total = tl.zeros((FEATURES, ROWS), tl.float32)
        other = tl.zeros((FEATURES, other_row.shape[0]), tl.float32)
        for number in tl.range(0, SEGMENTS, num_stages=1):
            first = number * SPAN
            part, beside = sums_of(
                x_ptr, w_ptr, scale_ptr, offset_ptr, x_row, x_other, held, first,
                tl.minimum(first + SPAN, WIDTH),
                OUT, WIDTH, STRIDE, BLOCK, MORE, ONCE, UPCAST,
                BITS, FLOATING, LANES, GROUP, CHAIN, SHIFTED, PTX,
            )  # fmt: skip
            total += part
            if MORE > 0:
                other += beside
    if DEPENDENT:
        gdc_launch_dependents()
    store_rows(out_ptr, total, first_row + row, first_out + out, rows, OUT)
    if MORE > 0:
        store_rows(out_ptr, other, first_row + other_row, first_out + out, rows, OUT)


def tile_constants(shape: Shape, tile: Tile, target: Target, *, once: bool) -> dict[str, Any]:
    """Return what a product in tiles has to know at compile time, whatever it does with its sums.

    `once`: one program has all the rows.
    """
    return {
        "OUT": shape.out,
        "WIDTH": shape.width,
        "STRIDE": shape.stride,
        "ROWS": tile.rows,
        "MORE": tile.more,
        "FEATURES": tile.features,
        "BLOCK": shape.block,
        "ONCE": once,
        "UPCAST": target.upcast,
        **(PLAIN if shape.numbers is None else shape.numbers.constants(target)),
        "DEPENDENT": target.dependent,
    }


@lru_cache(maxsize=4096)
def launchable(shape: Shape, tile: Tile, target: Target, *, once: bool) -> Launchable:
    """Return the product of a shape of weights in tiles; `once`: one program has all the rows."""
    constants = {
        **tile_constants(shape, tile, target, once=once),
        "SEGMENTS": shape.segments,
        "SPAN": shape.span,
        "APART": tile.apart,
    }
    names = ("w_ptr", "scale_ptr", "offset_ptr")
    pointers = {
        "x_ptr": f"*{TYPES[shape.dtype]}",
        **dict(zip(names, shape.pointers, strict=True)),
        "out_ptr": "*fp32",
    }
    return Launchable(
        f"product {shape.name} rows {tile.height}",
        product_kernel,
        {**pointers, "rows": "i32"},
        constants,
        options_of(target, tile.warps, tile.stages),
        tuple(pointers),
    )


def product(x: Tensor, weight: Matrix, target: Target, tile: Tile | None = None) -> Tensor:
    """Return float32 [parts, rows, out], whose sum over the parts, in order, is `x @ weight.T`.

    `x` [rows, width] without gaps. There is one part where a program adds the segments, else a part
    for each.
    """
    rows, shape = x.shape[0], weight.shape
    tile = tile or tile_of(rows, shape, target)
    parts = shape.segments if tile.apart else 1
    found = torch.empty((parts, rows, shape.out), dtype=torch.float32, device=x.device)
    row_tiles = -(-rows // tile.height)
    grid = (row_tiles * -(-shape.out // tile.features), parts)
    launchable(shape, tile, target, once=row_tiles == 1).launch(
        grid, x.contiguous(), *weight.memory, found, rows
    )
    return found
