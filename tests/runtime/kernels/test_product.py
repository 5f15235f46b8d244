"""Products: right for any rows, of the same bits in any tile, in an order that shapes fix."""

from __future__ import annotations

import pytest
import torch
from kernel_cases import BY_ROWS, TARGET, error, exact, matrix, numbers, whole

from nldc.runtime.invariant.linear import cancelling
from nldc.runtime.kernels import product as kernels
from nldc.runtime.kernels.launchable import Target
from nldc.runtime.kernels.product import (
    FEW,
    Matrix,
    Shape,
    Tile,
    product,
    segments_of,
    tile_of,
)

H100, A100, CONSUMER = Target(90), Target(80), Target(86)


@pytest.mark.usefixtures("rooms")
@pytest.mark.parametrize(("rows", "dtype"), BY_ROWS)
def test_a_product_is_that_of_float64(rows: int, dtype: torch.dtype) -> None:
    x, weight = numbers(rows, 97, dtype=dtype), matrix(45, 97, dtype, gap=3)
    found = product(x, weight, TARGET)
    assert found.dtype == torch.float32
    assert error(found[0], exact(x, weight)) < 2**-20  # sums are not rounded to 16 bits


@pytest.mark.usefixtures("rooms")
@pytest.mark.parametrize("rows", [3, 130])
def test_a_long_sum_comes_in_segments_or_whole(rows: int) -> None:
    x, weight = numbers(rows, 1100), matrix(33, 1100, torch.float32)
    found = product(x, weight, TARGET)
    assert len(found) == (2 if rows <= FEW else 1)
    assert error(found.sum(0), exact(x, weight)) < 2**-20


TILES = (
    Tile(32, 16, 64, 4, 1, apart=True),
    Tile(16, 0, 64, 4, 1, apart=True),
    Tile(16, 0, 32, 4, 1, apart=False),
    Tile(16, 16, 64, 4, 1, apart=False),
)


@pytest.mark.usefixtures("one_by_one")
def test_a_row_has_the_same_bits_in_every_tile_and_company(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kernels, "LEAST_SEGMENT", 64)  # four segments of a short sum
    data, rows = cancelling(40, 304, torch.float32, torch.device("cpu"))
    weight, x = Matrix(data, 40, 304), rows[:40]
    assert weight.shape.segments == 4

    def bits(first: int, count: int, tile: Tile) -> torch.Tensor:
        return whole(product(x[first : first + count], weight, TARGET, tile))

    wanted = bits(0, 40, TILES[0])
    assert not torch.equal(wanted, (x.double() @ data.double().T).float())
    for tile, first, count in zip(TILES[1:], (3, 31, 7), (1, 9, 31), strict=True):
        assert torch.equal(bits(first, count, tile), wanted[first : first + count]), tile


@pytest.mark.long
@pytest.mark.usefixtures("one_by_one")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bits_are_the_same_for_every_number_of_rows(dtype: torch.dtype) -> None:
    data, rows = cancelling(72, 2112, dtype, torch.device("cpu"))
    weight = Matrix(data, 72, 2112)
    x = rows.repeat(4, 1)[:1056]
    known: dict[int, torch.Tensor] = {}
    for count in (1, 2, 7, 16, 17, 33, 64, 65, 72, 81, 97, 128, 129, 272, 1056):
        for number, row in enumerate(whole(product(x[:count], weight, TARGET))):
            assert torch.equal(known.setdefault(number, row), row), (count, number)


def test_how_a_sum_is_cut_follows_from_the_shape_of_the_weight() -> None:
    assert segments_of(6144, 4096) == 4  # query, key and value of the 8B model
    assert segments_of(4096, 4096) == 4
    assert segments_of(4096, 14336) == 4
    assert segments_of(131072, 4096) == 1
    assert segments_of(64, 1023) == 1
    for width in (1100, 4096, 14336):
        for out in (64, 1000, 4096, 28672):
            shape = Shape(out, width, width, torch.bfloat16)
            assert shape.span * shape.segments >= width > shape.span * (shape.segments - 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("target", [H100, A100, CONSUMER])
def test_tiles_cover_what_they_are_chosen_for_and_fit_the_device(
    target: Target, dtype: torch.dtype
) -> None:
    for out, width in ((6144, 4096), (4096, 14336), (128, 4096), (5120, 16384)):
        shape = Shape(out, width, width, dtype)
        for weights in (1, 2):
            for rows in range(1, 1057):
                tile = tile_of(rows, shape, target, weights=weights)
                held = tile.stages * (tile.features * weights + tile.height) * 128
                assert held <= target.shared_kib * 1024
                if rows <= 64 and dtype != torch.float32:
                    assert tile.height >= rows
                    assert tile.height < max(2 * rows, 17)
