"""The library's products: taken where they have the kernels' bits, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from kernel_cases import TARGET, dense, matrix, numbers, whole
from torch import Tensor

from nldc.runtime.kernels import library
from nldc.runtime.kernels import product as product_module
from nldc.runtime.kernels.gated import gated
from nldc.runtime.kernels.library import Products
from nldc.runtime.kernels.low_rank import Delta
from nldc.runtime.kernels.product import Matrix, product

HALF = torch.bfloat16
Sums = Callable[[Tensor, Matrix, int], Tensor]
pytestmark = pytest.mark.usefixtures("one_by_one")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let few rows and short sums be worth a library's call."""
    monkeypatch.setattr(library, "LEAST_ROWS", 5)
    monkeypatch.setattr(library, "LEAST_SPAN", 32)
    monkeypatch.setattr(product_module, "LEAST_SEGMENT", 64)


def in_order(asked: list[int], *, reverse: bool = False) -> Sums:
    """Return a library that adds terms in their order, or in reverse; `asked` gets its rows."""

    def sums(x: Tensor, weight: Matrix, span: int) -> Tensor:
        asked.append(len(x))
        wide, data = x.float(), dense(weight).float()
        total = torch.zeros(len(x), weight.out)
        for first in range(0, weight.width, span):
            part = torch.zeros_like(total)
            terms = range(first, min(first + span, weight.width))
            for term in reversed(terms) if reverse else terms:
                part += wide[:, term : term + 1] * data[:, term]
            total += part
        return total

    return sums


def test_a_product_is_the_librarys_where_it_has_the_kernels_bits() -> None:
    weight, asked = matrix(20, 272, HALF, gap=3), list[int]()
    assert weight.shape.segments == 4
    products = Products(TARGET, in_order(asked))
    for rows in (21, 30, 32):
        x = numbers(rows, 272, dtype=HALF)
        found = products.product(x, weight)
        assert found.shape == (1, rows, 20)
        assert torch.equal(found[0], whole(product(x, weight, TARGET)))
    assert asked == [32, 32, 32, 32]  # a trial, and three products, all of as many rows


def test_a_gated_product_is_the_librarys_and_has_its_adapter() -> None:
    gate, up, asked = matrix(24, 48, HALF), matrix(24, 48, HALF, seed=2), list[int]()
    products = Products(TARGET, in_order(asked))
    x, delta = numbers(19, 48, dtype=HALF), numbers(19, 48)
    marks = (torch.arange(19) % 3 == 0).to(torch.int8)
    for beside in (None, Delta(delta, marks)):
        found = products.gated(x, gate, up, beside)
        assert torch.equal(found, gated(x, gate, up, TARGET, beside))
    assert asked == [32] * 7


def test_a_library_that_adds_otherwise_is_tried_once_and_left() -> None:
    weight, up, asked = matrix(20, 272, HALF), matrix(20, 272, HALF, seed=3), list[int]()
    products = Products(TARGET, in_order(asked, reverse=True))
    x = numbers(20, 272, dtype=HALF)
    for _ in range(2):
        assert torch.equal(products.product(x, weight), product(x, weight, TARGET))
        assert torch.equal(products.gated(x, weight, up), gated(x, weight, up, TARGET))
    assert asked == [32, 32]  # once for the product, once for gate and up


@pytest.mark.parametrize(("rows", "width", "dtype"), [(4, 96, HALF), (9, 30, HALF), (9, 96, None)])
def test_what_is_small_or_wide_is_never_asked_of_it(
    rows: int, width: int, dtype: torch.dtype | None
) -> None:
    asked = list[int]()
    kind = dtype or torch.float32
    x, weight = numbers(rows, width, dtype=kind), matrix(10, width, kind)
    products = Products(TARGET, in_order(asked))
    assert torch.equal(products.product(x, weight), product(x, weight, TARGET))
    products.gated(x, weight, weight)
    assert asked == []
    assert Products.on(TARGET)._library is None
