"""The product of rows with a weight: a row's result never depends on the rows beside it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F

from nldc.runtime.invariant import linear as module
from nldc.runtime.invariant.linear import Packed, Way, cancelling, formed, holds, linear, pack, ways

CPU = torch.device("cpu")
COUNTS = (2, 3, 4, 7, 8, 15, 16, 17, 32, 33, 100, 272, 600)
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
SHAPES = ((960, 576), (576, 1536), (4100, 64), (61, 40), (97, 101), (577, 1000), (64, 4096), (1, 8))


@pytest.fixture(params=[1, 2], ids=["one_thread", "two_threads"], autouse=True)
def _threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("out", "width"), SHAPES)
def test_a_row_is_bitwise_the_same_in_any_company(out: int, width: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight, some = cancelling(out, width, dtype, CPU)
    packed = pack(weight)
    x = torch.cat((torch.randn(400, width).to(dtype), some))
    first = len(x) - 25
    alone = torch.cat([linear(row, packed) for row in x[first:].split(1)])
    for count in COUNTS:
        for end in (len(x), len(x) - 5) if count < 100 else (len(x),):
            found, shared = linear(x[end - count : end], packed), min(count, 20)
            wanted = alone[end - shared - first : end - first]
            assert torch.equal(found[-shared:], wanted), (count, end)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("out", "width"), SHAPES)
def test_a_row_is_bitwise_the_same_wherever_it_lies(
    out: int, width: int, dtype: torch.dtype
) -> None:
    weight, rows = cancelling(out, width, dtype, CPU)
    packed = pack(weight)
    whole = linear(rows[:40], packed)
    room = rows.new_zeros(40 * (width + 1))
    for count in (1, 2, 16, 33):
        for first in (0, 1):
            own = rows[first : first + count]
            for by in (1, 3):
                moved = room[by : by + own.numel()].view(own.shape).copy_(own)
                assert torch.equal(linear(moved, packed), whole[first : first + count]), (count, by)
            apart = room[: count * (width + 1)].view(count, -1)[:, 1:].copy_(own)
            assert torch.equal(linear(apart, packed), whole[first : first + count]), count
            turned = own.t().contiguous().t()
            assert torch.equal(linear(turned, packed), whole[first : first + count]), count


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_packed_weight_gives_the_product(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(48, 96, dtype=dtype), torch.randn(5, 96, dtype=dtype)
    packed = pack(weight)
    assert isinstance(packed, Packed)
    assert torch.equal(packed.to_dense(), weight)
    for rows in (x, x[:1], x[:0], x[::2], x.t().contiguous().t()):
        torch.testing.assert_close(linear(rows, packed), F.linear(rows, weight))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_way_gives_the_product(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(48, 96, dtype=dtype), torch.randn(37, 96, dtype=dtype)
    for way in ways(dtype, CPU):
        for rows in (x, x[:1]):
            found = linear(rows, formed(weight, way))
            torch.testing.assert_close(found, F.linear(rows, weight))


def test_the_trial_sees_sums_in_another_order_even_behind_16_bits() -> None:
    def halves(x: torch.Tensor, weight: Packed) -> torch.Tensor:
        """A product that adds up few rows in two parts."""
        values = weight.data[:, : x.shape[1]].float()
        product = F.linear(x.float(), values)
        if len(x) == 2:
            left = F.linear(x[:, :50].float(), values[:, :50])
            product = left + F.linear(x[:, 50:].float(), values[:, 50:])
        return product.to(x.dtype)

    for dtype in (torch.float32, torch.bfloat16):
        weight, rows = cancelling(30, 101, dtype, CPU)
        plain = formed(weight, Way(tile=16))
        assert holds(plain, rows)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "linear", halves)
            assert not holds(plain, rows)


def test_the_trial_sees_that_a_product_looks_at_where_a_row_lies() -> None:
    def by_place(x: torch.Tensor, weight: Packed) -> torch.Tensor:
        """A product that adds up rows in two parts unless they begin at 16 bytes."""
        rows = []
        for row in x.split(1):
            if row.data_ptr() % 16 == 0:
                rows.append(F.linear(row, weight.data))
            else:
                left = F.linear(row[:, :50].clone(), weight.data[:, :50].contiguous())
                rows.append(left + F.linear(row[:, 50:].clone(), weight.data[:, 50:].contiguous()))
        return torch.cat(rows)

    for width, dtype in ((101, torch.float64), (104, torch.float64), (104, torch.float32)):
        weight, rows = cancelling(30, width, dtype, CPU)
        plain = formed(weight, Way())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "linear", by_place)
            assert not holds(plain, rows), (width, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_in_tiles_every_row_and_weight_lies_as_every_other(dtype: torch.dtype) -> None:
    def product(x: torch.Tensor, weight: Packed) -> torch.Tensor:
        places = {row.data_ptr() % 64 for each in (x, weight.data) for row in each.split(1)}
        assert places == {0}
        assert len(x) == 16
        return F.linear(x, weight.data)

    room = torch.randn(48 * 101 + 1).to(dtype)
    packed = formed(room[1:].view(48, 101), Way(tile=16))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_product", product)
        for rows in (1, 16, 37):
            x = torch.randn(rows * 101 + 3).to(dtype)[3:].view(rows, 101)
            found = linear(x, packed)
            torch.testing.assert_close(found, F.linear(x, room[1:].view(48, 101)))


def test_without_a_way_that_holds_there_is_a_warning() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "holds", lambda *_: False)
        with pytest.warns(UserWarning, match="may differ from AR"):
            module.choose.__wrapped__(3, 4, torch.float64, CPU, 1)


def test_what_a_shape_needs_is_tried_once() -> None:
    pack(torch.zeros(5, 6))
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setattr(module, "holds", lambda *_: 1 / 0)
        pack(torch.ones(5, 6))
