"""An adapter's products: right on its rows, nothing on the others, modules side by side."""

from __future__ import annotations

import pytest
import torch
from kernel_cases import DTYPES, EPSILON, TARGET, error, numbers
from torch import Tensor

from nldc.runtime.kernels.low_rank import LowRankProducts, low_rank

WIDTH = 90


def modules(dtype: torch.dtype, rank: int) -> tuple[list[tuple[int, Tensor, Tensor, float]], int]:
    """Return modules for columns 3 to 72 and 80 to 90 of 100."""
    return [
        (start, numbers(rank, WIDTH, dtype=dtype, seed=start), numbers(out, rank, dtype=dtype), by)
        for start, out, by in ((3, 69, 2.0), (80, 10, 0.5))
    ], 100


@pytest.mark.parametrize(("rows", "rank"), [(1, 5), (7, 16), (65, 33), (130, 100)])
def test_products_are_those_of_float64_on_the_rows_marked(rows: int, rank: int) -> None:
    dtype = DTYPES[rows % 3]
    own, columns = modules(dtype, rank)
    x, marks = numbers(rows, WIDTH, dtype=dtype), (torch.arange(rows) % 3 == 0).to(torch.int8)
    found = low_rank(x, LowRankProducts.of(own, columns), marks, TARGET).values
    wanted = torch.zeros(rows, columns, dtype=torch.float64)
    for start, down, up, scale in own:
        inner = x.double() @ down.double().T
        wanted[:, start : start + len(up)] = scale * inner @ up.double().T
    assert error(found[marks == 1], wanted[marks == 1]) < EPSILON[dtype]
    assert (found[marks == 0] == 0).all()


def test_modules_that_cover_all_columns_ask_for_no_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    own = [(0, numbers(4, 20), numbers(8, 4), 1.0), (8, numbers(4, 20), numbers(70, 4), 1.0)]
    products = LowRankProducts.of(own, 78)
    assert products.whole
    monkeypatch.setattr(torch, "zeros", None)
    marks = torch.ones(3, dtype=torch.int8)
    assert low_rank(numbers(3, 20), products, marks, TARGET).values.isfinite().all()
    assert not LowRankProducts.of(own[:1], 78).whole


@pytest.mark.usefixtures("one_by_one")
def test_a_row_has_the_same_bits_in_any_company() -> None:
    own, columns = modules(torch.bfloat16, 33)
    products = LowRankProducts.of(own, columns)
    x, marks = numbers(72, WIDTH, dtype=torch.bfloat16), torch.ones(72, dtype=torch.int8)
    whole = low_rank(x, products, marks, TARGET).values
    for first, count in ((0, 1), (40, 17)):
        rows = slice(first, first + count)
        some = low_rank(x[rows], products, marks[rows], TARGET)
        assert torch.equal(some.values, whole[rows])
