"""The gated product: right for any rows, of the same bits in any tile, adapters where they are."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from kernel_cases import BY_ROWS, EPSILON, TARGET, error, exact, matrix, numbers

from nldc.runtime.invariant.linear import cancelling
from nldc.runtime.kernels.gated import gated
from nldc.runtime.kernels.low_rank import Delta
from nldc.runtime.kernels.product import Matrix, Tile


@pytest.mark.usefixtures("rooms")
@pytest.mark.parametrize(("rows", "dtype"), BY_ROWS)
def test_a_gated_product_is_that_of_float64(rows: int, dtype: torch.dtype) -> None:
    x = numbers(rows, 70, dtype=dtype) / 8
    gate, up = matrix(37, 70, dtype, gap=2), matrix(37, 70, dtype, gap=2, seed=2)
    found = gated(x, gate, up, TARGET)
    assert error(found, F.silu(exact(x, gate)) * exact(x, up)) < 2 * EPSILON[dtype]


@pytest.mark.usefixtures("rooms")
def test_an_adapter_is_added_before_the_activation_and_on_its_rows_only() -> None:
    x, gate, up = numbers(70, 40), matrix(24, 40, torch.float32), matrix(24, 40, torch.float32)
    delta = numbers(70, 48)
    marks = (torch.arange(70) % 3 == 0).to(torch.int8)
    delta[marks == 0] = torch.nan
    found, plain = gated(x, gate, up, TARGET, Delta(delta, marks)), gated(x, gate, up, TARGET)
    assert torch.equal(found[marks == 0], plain[marks == 0])
    own = marks == 1
    wanted = F.silu(exact(x, gate) + delta[:, :24]) * (exact(x, up) + delta[:, 24:])
    assert error(found[own], wanted[own]) < 2**-20


@pytest.mark.usefixtures("one_by_one")
def test_a_row_has_the_same_bits_in_every_tile() -> None:
    data, rows = cancelling(24, 96, torch.float32, torch.device("cpu"))
    gate, up, x = Matrix(data, 24, 96), Matrix(data.flip(0), 24, 96), 300 * rows[:72]
    wanted = gated(x, gate, up, TARGET, tile=Tile(64, 16, 32, 4, 1, apart=False))
    for tile in (Tile(16, 0, 16, 4, 1, apart=False), Tile(32, 16, 16, 4, 1, apart=False)):
        assert torch.equal(gated(x[9:48], gate, up, TARGET, tile=tile), wanted[9:48])


@pytest.mark.filterwarnings("ignore:overflow")  # of numpy's exponential
def test_a_gate_that_is_shut_or_wide_open_gives_no_nan() -> None:
    x = torch.tensor([[300.0], [-300.0]])
    one = Matrix(torch.ones(1, 1), 1, 1)
    found = gated(x, one, one, TARGET)
    assert found.tolist() == [[90000.0], [0.0]]
