"""Products with weights of 8 and 4 bits: right for any rows, of the same bits in any tile."""

from __future__ import annotations

from dataclasses import replace
from itertools import cycle
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from kernel_cases import EPSILON, ROWS, TARGET, error, numbers, whole
from torch import Tensor

from nldc.runtime.invariant.interleaved import Interleaved, interleaved, lanes_of
from nldc.runtime.invariant.quantised import FLOAT8, Quantised, packed, packed_floats
from nldc.runtime.invariant.quantised_ways import cancelling
from nldc.runtime.kernels import product as kernels
from nldc.runtime.kernels.asked import Asked
from nldc.runtime.kernels.gated import gated
from nldc.runtime.kernels.head import head
from nldc.runtime.kernels.launchable import Target
from nldc.runtime.kernels.library import Products
from nldc.runtime.kernels.low_rank import Delta
from nldc.runtime.kernels.numbers import Numbers, unpacking, unpacking_floats
from nldc.runtime.kernels.product import FEW, Matrix, Shape, Tile, product, tile_of

BF16, FP16 = torch.bfloat16, torch.float16
GROUPS = (0, 16, 32, 64, 128, 192)
FLOATS = "floats"
Shift = bool | str
KINDS: list[tuple[int, int, Shift]] = [
    *((bits, group, shift) for bits in (8, 4) for group in GROUPS for shift in (False, True)),
    *((8, group, FLOATS) for group in GROUPS),
]
"""Bits, group (0: all of a row) and whether there is a shift, or what has none: `FLOATS`."""


def quantised(
    out: int, width: int, bits: int, group: int, *, shifted: Shift, dtype: torch.dtype = BF16,
    seed: int = 1,
) -> Quantised:  # fmt: skip
    generator = torch.Generator().manual_seed(seed + out + width + bits)
    low = 1 << (bits - 1)
    values = torch.randint(-low, low, (out, width), generator=generator).to(torch.int8)
    groups = width // group if group else 1
    scale = (torch.rand(out, groups, generator=generator) / low + 0.1 / low).to(BF16)
    if shifted == FLOATS:
        values[values & 0x7F == 0x7F] = 0  # or it is no number
        words = packed_floats(values.view(FLOAT8))
        return Quantised(words, scale / 4, None, bits, (out, width), dtype, floating=True)
    zero = torch.randint(0, 2 * low, (out, groups), generator=generator)
    shift = -zero.float() * scale.float() if shifted else None
    return Quantised(packed(values, bits), scale, shift, bits, (out, width), dtype)


def formed(weight: Quantised) -> Interleaved:
    lanes = lanes_of(weight)
    assert lanes is not None
    return interleaved(weight, lanes)


def worth(weight: Quantised) -> Tensor:
    """Return what a weight is worth, in float64; a shift as the kernels' form rounds it."""
    return replace(formed(weight), dtype=torch.float64).to_dense()


@pytest.mark.parametrize(("bits", "group", "shifted"), KINDS)
def test_interleaved_weights_are_worth_what_they_were(
    bits: int, group: int, shifted: Shift
) -> None:
    for width in (384,) if group else (1, 63, 130, 384):
        weight = quantised(5, width, bits, group, shifted=shifted)
        dense = formed(weight).to_dense()
        assert error(dense, weight.to_dense().double()) < 2**-7
        if shifted is not True:
            assert torch.equal(dense, weight.to_dense())
        assert formed(weight).words.nbytes < weight.packed.nbytes + 5 * 256


@pytest.mark.usefixtures("rooms")
@pytest.mark.parametrize(
    ("bits", "group", "shifted", "rows"),
    [(*kind, rows) for kind, rows in zip(KINDS, cycle(ROWS), strict=False)],
)
def test_a_product_is_that_of_float64(bits: int, group: int, shifted: Shift, rows: int) -> None:
    width = 576 if group else 1100
    dtype = (BF16, FP16)[rows % 2]
    weight = quantised(45, width // (group or 1) * (group or 1), bits, group, shifted=shifted,
                       dtype=dtype)  # fmt: skip
    x = numbers(rows, weight.shape[1], dtype=dtype)
    found = product(x, Matrix.of_numbers(formed(weight)), TARGET)
    assert len(found) == (2 if rows <= FEW and not group else 1)
    assert error(found.sum(0), x.double() @ worth(weight).T) < 2**-19


@pytest.mark.usefixtures("rooms")
@pytest.mark.parametrize(("bits", "group", "shifted"), KINDS)
def test_a_gated_product_and_a_head_are_those_of_float64(
    bits: int, group: int, shifted: Shift
) -> None:
    gate, up = (
        quantised(37, 192 if group else 70, bits, group, shifted=shifted, seed=seed)
        for seed in (1, 2)
    )
    if group == 128:
        gate, up = (quantised(37, 384, bits, group, shifted=shifted, seed=seed) for seed in (1, 2))
    x = numbers(5, gate.shape[1], dtype=BF16) / 8
    made = [Matrix.of_numbers(formed(each)) for each in (gate, up)]
    first, second = (x.double() @ worth(each).T for each in (gate, up))
    assert error(gated(x, *made, TARGET), F.silu(first) * second) < 2 * EPSILON[BF16]
    found = head(x, made[0], Asked(logits=True, token=True), TARGET)
    assert found.logits is not None
    assert found.tokens is not None
    assert error(found.logits, first) < EPSILON[BF16]
    assert torch.equal(found.tokens, found.logits.argmax(-1))


@pytest.mark.usefixtures("rooms")
@pytest.mark.parametrize(
    ("bits", "group", "shifted"),
    [(8, 0, True), (4, 32, True), (8, 64, False), (8, 0, FLOATS), (8, 64, FLOATS)],
)
def test_more_rows_than_a_tile_and_words_between_rows(
    bits: int, group: int, shifted: Shift
) -> None:
    """In a tile of two heights, behind others, of words that lie apart."""
    weight = formed(quantised(45, 320, bits, group, shifted=shifted))
    wide = torch.full((45, weight.words.shape[1] + 16), -1, dtype=torch.int16)
    wide[:, : weight.words.shape[1]] = weight.words
    apart = replace(weight, words=wide[:, : weight.words.shape[1]])
    x = numbers(90, 320, dtype=BF16)
    tile = Tile(32, 16, 32, 4, 1, apart=False)
    found = product(x, Matrix.of_numbers(apart), TARGET, tile)[0]
    wanted = x.double() @ replace(weight, dtype=torch.float64).to_dense().T
    assert error(found, wanted) < 2**-19


TILES = (
    Tile(32, 16, 64, 4, 1, apart=True),
    Tile(16, 0, 64, 4, 1, apart=True),
    Tile(16, 0, 32, 4, 1, apart=False),
    Tile(16, 16, 64, 4, 1, apart=False),
)


@pytest.mark.usefixtures("one_by_one")
@pytest.mark.parametrize(
    ("bits", "group", "shifted"),
    [(8, 0, False), (8, 128, True), (4, 0, True), (4, 32, True), (8, 0, FLOATS), (8, 64, FLOATS)],
)
def test_a_row_has_the_same_bits_in_every_tile_and_company(
    monkeypatch: pytest.MonkeyPatch, bits: int, group: int, shifted: Shift
) -> None:
    monkeypatch.setattr(kernels, "LEAST_SEGMENT", 64)  # segments of a short sum
    width = 512
    weight, rows = cancelling(
        40, width, bits, width // (group or width), BF16, torch.device("cpu"),
        shifted=shifted is True, floating=shifted == FLOATS,
    )  # fmt: skip
    made, x = Matrix.of_numbers(formed(weight)), rows[:40]
    assert made.shape.segments > 1

    def bits_of(first: int, count: int, tile: Tile) -> Tensor:
        return whole(product(x[first : first + count], made, TARGET, tile))

    wanted = bits_of(0, 40, TILES[0])
    assert float((wanted != 0).float().mean()) > 0.5, "what is compared is rounding"
    for tile, first, count in zip(TILES[1:], (3, 31, 7), (1, 9, 31), strict=True):
        assert torch.equal(bits_of(first, count, tile), wanted[first : first + count]), tile
    both = gated(x, made, made, TARGET, tile=replace(TILES[3], features=32))
    for tile in (Tile(16, 0, 16, 4, 1, apart=False), Tile(32, 16, 64, 4, 1, apart=False)):
        assert torch.equal(gated(x[9:31], made, made, TARGET, tile=tile), both[9:31])


def test_an_adapter_is_added_to_gates_of_numbers() -> None:
    gate, up = (quantised(24, 64, 4, 32, shifted=True, seed=seed) for seed in (1, 2))
    x, delta = numbers(20, 64, dtype=BF16), numbers(20, 48)
    marks = (torch.arange(20) % 3 == 0).to(torch.int8)
    made = [Matrix.of_numbers(formed(each)) for each in (gate, up)]
    found = gated(x, *made, TARGET, Delta(delta, marks))
    first, second = (x.double() @ worth(each).T for each in (gate, up))
    own = (marks == 1).unsqueeze(1)
    wanted = F.silu(first + delta[:, :24] * own) * (second + delta[:, 24:] * own)
    assert error(found, wanted) < 2 * EPSILON[BF16]


def test_gate_and_up_may_be_quantised_otherwise_and_the_library_is_not_asked() -> None:
    def asked(*_: object) -> Tensor:
        raise AssertionError("the library knows no numbers")

    gate, up = quantised(24, 2048, 4, 32, shifted=True), quantised(24, 2048, 8, 0, shifted=False)
    products = Products(TARGET, asked)
    x = numbers(200, 2048, dtype=BF16) / 45
    made = [Matrix.of_numbers(formed(each)) for each in (gate, up)]
    first, second = (x.double() @ worth(each).T for each in (gate, up))
    for one, other, wanted in (
        (made[0], made[1], F.silu(first) * second),
        (made[1], made[1], F.silu(second) * second),
    ):
        assert error(products.gated(x, one, other), wanted) < 2 * EPSILON[BF16]
    assert error(products.product(x, made[0]).sum(0), first) < 2**-18


def test_groups_that_no_part_divides_and_wide_rows_are_for_nobody() -> None:
    assert lanes_of(quantised(4, 80, 4, 40, shifted=False)) is None
    assert lanes_of(quantised(4, 80, 4, 16, shifted=False, dtype=torch.float32)) is None
    assert lanes_of(quantised(4, 96, 4, 48, shifted=False)) == 16
    assert lanes_of(quantised(4, 77, 4, 0, shifted=False)) == 64


@pytest.mark.parametrize("target", [Target(90), Target(80), Target(86)])
def test_tiles_cover_what_they_are_chosen_for_and_fit_the_device(target: Target) -> None:
    for bits, group, offset in (
        (8, 0, None),
        (8, 128, torch.float32),
        (4, 32, BF16),
        (4, 128, BF16),
    ):
        kind = Numbers(bits, min(64, group or 64), group, BF16, offset)
        for out, width in ((6144, 4096), (4096, 14336), (128, 4096)):
            shape = Shape(out, width, width * bits // 16, BF16, numbers=kind)
            assert shape.span * shape.segments >= width > shape.span * (shape.segments - 1)
            for weights in (1, 2):
                for rows in range(1, 300):
                    tile = tile_of(rows, shape, target, weights=weights)
                    words = tile.features * weights * kind.lanes * 2
                    stage = words + tile.height * shape.block * 2
                    assert tile.stages * stage <= target.shared_kib * 1024
                    assert tile.height < max(2 * rows, 17)


def lop3(a: Any, b: Any, c: Any, table: int) -> Any:
    """Return what CUDA's instruction for any function of three bits returns."""
    found = np.zeros_like(a)
    for case in range(8):
        if table >> case & 1:
            found |= (
                np.where(case & 4, a, ~a) & np.where(case & 2, b, ~b) & np.where(case & 1, c, ~c)
            )
    return found


def run_ptx(text: str, word: Any) -> Any:
    """Run the few instructions that unpack numbers, on uint32 words: uint32, two floats each."""
    values: dict[str, Any] = {"$1": word}

    def read(name: str) -> Any:
        return (
            np.full_like(word, int(name, 16 if "x" in name else 10))
            if name[0].isdigit()
            else values[name]
        )

    for line in text[text.index(";") + 1 : text.rindex("}")].split(";"):
        name, _, rest = line.strip().partition(" ")
        if not name:
            continue
        to, *given = [each.strip() for each in rest.split(",")]
        table = int(given.pop(), 16) if name == "lop3.b32" else 0
        read_of = [read(each) for each in given]
        if name == "mov.b32":
            values[to] = read_of[0]
        elif name == "shr.b32":
            values[to] = read_of[0] >> read_of[1]
        elif name == "shl.b32":
            values[to] = read_of[0] << read_of[1]
        elif name == "and.b32":
            values[to] = read_of[0] & read_of[1]
        elif name == "lop3.b32":
            values[to] = lop3(*read_of, table)
        else:
            kind = BF16 if "bf16" in name else FP16
            floats = [
                torch.from_numpy(each.view(np.int16).copy()).view(kind).double() for each in read_of
            ]
            if name == "add.rn.f16x2":
                found = floats[0] + floats[1]
            else:
                assert name in ("fma.rn.bf16x2", "mul.rn.f16x2")
                found = floats[0] * floats[1] + (floats[2] if name[:3] == "fma" else -0.0)
            assert torch.equal(found.to(kind).double(), found), "it is exact"
            values[to] = found.to(kind).view(torch.int16).numpy().view(np.uint32)
    return values["$0"]


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("dtype", [BF16, FP16])
def test_the_instructions_for_numbers_are_right_for_every_word(
    bits: int, dtype: torch.dtype
) -> None:
    """They run on a GPU only; here what they say is run, for each word beside another."""
    low = np.arange(1 << 16, dtype=np.uint32)
    word = low | (low * np.uint32(40503) + np.uint32(77) & np.uint32(0xFFFF)) << np.uint32(16)
    halves = word.view(np.uint16).astype(np.int32)
    name = "bf16" if dtype == BF16 else "fp16"
    for part in range(16 // bits):
        text = unpacking.fn(part, bits, name)
        found = torch.from_numpy(run_ptx(text, word).view(np.int16).copy()).view(dtype)
        wanted = (halves >> (part * bits) & ((1 << bits) - 1)) - (1 << (bits - 1))
        assert torch.equal(found.double(), torch.from_numpy(wanted).double()), part


@pytest.mark.parametrize("dtype", [BF16, FP16])
def test_the_instructions_for_floats_are_right_for_every_word(dtype: torch.dtype) -> None:
    """Signs of zero, subnormal ones and all; NaN is never asked for."""
    low = np.arange(1 << 16, dtype=np.uint32)
    word = low | (low * np.uint32(40503) + np.uint32(77) & np.uint32(0xFFFF)) << np.uint32(16)
    for part in range(2):
        text = unpacking_floats.fn(part, "bf16" if dtype == BF16 else "fp16")
        bits = torch.from_numpy((word.view(np.uint16) >> (8 * part)).astype(np.uint8))
        wanted = bits.view(FLOAT8).to(dtype)
        numbers = ~wanted.isnan()
        found = torch.from_numpy(run_ptx(text, word).view(np.int16).copy()).view(dtype)
        assert torch.equal(found.view(torch.int16)[numbers], wanted.view(torch.int16)[numbers])
        assert bool(numbers.float().mean() > 0.99)


@pytest.mark.usefixtures("rooms")
@pytest.mark.parametrize("dtype", [BF16, FP16])
@pytest.mark.parametrize("place", [0, 64])
def test_every_float_is_exact_in_the_kernel(dtype: torch.dtype, place: int) -> None:
    """One column is multiplied with 1, of a part in the low or the high byte of a word."""
    codes = torch.arange(256, dtype=torch.uint8)
    codes = codes[codes & 0x7F != 0x7F]
    numbers = torch.zeros(len(codes), 128, dtype=torch.uint8)
    numbers[:, place + 5] = codes
    weight = Quantised(
        packed_floats(numbers.view(FLOAT8)), torch.ones(len(codes), 1), None, 8,
        (len(codes), 128), dtype, floating=True,
    )  # fmt: skip
    x = torch.zeros(1, 128, dtype=dtype)
    x[0, place + 5] = 1
    wanted = codes.view(FLOAT8).float()
    assert torch.equal(weight.to_dense()[:, place + 5].float(), wanted)
    assert torch.equal(formed(weight).to_dense()[:, place + 5].float(), wanted)
    assert torch.equal(product(x, Matrix.of_numbers(formed(weight)), TARGET).sum(0)[0], wanted)
