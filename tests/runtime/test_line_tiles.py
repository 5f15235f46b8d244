"""Products of attention: sizes that agree bit for bit, and how lines are cut into them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from nldc.runtime.invariant import line_tiles
from nldc.runtime.invariant.line_tiles import AT_ONCE, BY_HAND, LEAST, Cut, cut, line_cut, products

CPU = torch.device("cpu")


@pytest.mark.parametrize("sizes", [(64, 32, 16), (32, 16), (64, 16), (16,)])
def test_every_line_has_a_place_and_few_are_to_spare(sizes: tuple[int, ...]) -> None:
    for lines in range(1, 400):
        found = cut(lines, sizes)
        assert set(found) <= set(sizes)
        assert lines <= sum(found) < lines + 32
    assert cut(3, sizes) == (16,)
    assert cut(3, (64,)) == (64,)
    assert cut(130, (64,)) == (64, 64, 64)


def test_few_products_are_made_of_many_lines() -> None:
    assert cut(48, (64, 32, 16)) == (64,)
    assert cut(40, (64, 32, 16)) == (64,)
    assert cut(33, (64, 32, 16)) == (64,)
    assert cut(216, (64, 32, 16)) == (64, 64, 64, 32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dim", [8, 18, 64])
def test_the_sizes_that_are_used_agree_with_the_least(dim: int, dtype: torch.dtype) -> None:
    sizes = line_cut(2, dim, dtype, CPU, torch.get_num_threads()).sizes
    assert sizes[-1] == LEAST
    generator = torch.Generator().manual_seed(1)
    lines, keys = (torch.randn(6, n, dim, generator=generator).to(dtype) for n in (64, 64))

    def in_products_of(size: int) -> Tensor:
        """Lines are computed where they lie together, as attention has them."""
        parts = [part.contiguous() for part in torch.split(lines, size, 1)]
        return torch.cat([torch.bmm(part, keys.mT) for part in parts], 1)

    for size in sizes:
        assert torch.equal(in_products_of(size), in_products_of(LEAST)), size


@pytest.fixture
def _forgotten() -> Iterator[None]:
    line_cut.cache_clear()
    yield
    line_cut.cache_clear()


def forwards(left: Tensor, right: Tensor) -> Tensor:
    """Products whose lines know nothing of one another, whatever the machine's library does."""
    return products(left, right, BY_HAND)


def backwards(left: Tensor, right: Tensor) -> Tensor:
    return forwards(left.flip(2), right.flip(1))


@pytest.mark.usefixtures("_forgotten")
def test_a_size_whose_sums_are_taken_in_another_order_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def products(left: Tensor, right: Tensor, _: int) -> Tensor:
        return backwards(left, right) if left.shape[1] == 64 else forwards(left, right)

    monkeypatch.setattr(line_tiles, "products", products)
    assert line_cut(1, 48, torch.float32, CPU, 1) == Cut((32, 16))


@pytest.mark.usefixtures("_forgotten")
@pytest.mark.parametrize(
    "turns",
    [
        lambda left, _: left.shape[0] in (12, 15),  # another way for some numbers of products
        lambda left, right: right.is_contiguous() and left.shape[0] == 2,  # of values only
        lambda left, right: not right.is_contiguous() and left.shape[0] == 3,  # of keys only
    ],
)
def test_where_products_depend_on_their_number_every_batch_has_the_same(
    turns: Callable[[Tensor, Tensor], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    def some(left: Tensor, right: Tensor, at_once: int) -> Tensor:
        turned = not at_once and turns(left, right)
        return backwards(left, right) if turned else forwards(left, right)

    monkeypatch.setattr(line_tiles, "products", some)
    assert line_cut(2, 48, torch.float32, CPU, 1) == Cut((64, 32, 16), at_once=AT_ONCE * 2)


@pytest.mark.usefixtures("_forgotten")
def test_where_bits_depend_on_a_line_s_place_no_library_computes_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def products(left: Tensor, right: Tensor, _: int) -> Tensor:
        found = forwards(left, right)
        found[:, 3] = backwards(left, right)[:, 3]
        return found

    monkeypatch.setattr(line_tiles, "products", products)
    assert line_cut(1, 48, torch.float32, CPU, 1) == Cut((LEAST,), at_once=BY_HAND)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_products_by_hand_are_products_whose_lines_know_nothing_of_others(
    dtype: torch.dtype,
) -> None:
    torch.manual_seed(0)
    left, right = torch.randn(5, 16, 10).to(dtype), torch.randn(5, 10, 64).to(dtype)
    found = products(left, right, BY_HAND)
    torch.testing.assert_close(found, torch.bmm(left, right))
    assert torch.equal(products(left.roll(3, 1), right, BY_HAND).roll(-3, 1), found)
    assert torch.equal(products(left[2:3, 4:5], right[2:3], BY_HAND), found[2:3, 4:5])


@pytest.mark.parametrize("count", [1, 3, 4, 5, 8, 11])
@pytest.mark.parametrize("as_keys", [True, False])
def test_batches_of_one_size_give_the_product_and_have_that_size(
    count: int, as_keys: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    left, right = torch.randn(count, 5, 6), torch.randn(count, 6, 7)
    right = right.mT.contiguous().mT if as_keys else right
    want, found = torch.bmm(left, right), []

    def bmm(a: Tensor, b: Tensor, **out: Tensor) -> Tensor:
        found.append((a.shape, b.shape, b.stride()))
        return plain(a, b, **out)

    plain = torch.bmm
    monkeypatch.setattr(torch, "bmm", bmm)
    torch.testing.assert_close(products(left, right, 4), want)
    assert set(found) == {((4, 5, 6), (4, 6, 7), right.stride())}


@pytest.mark.parametrize("dim", [48, 64, 128])
def test_keys_are_tried_as_a_view_and_values_as_they_lie_whatever_the_dimension(dim: int) -> None:
    keys, values = (
        right for _, right, _ in line_tiles._Trial(2, dim, torch.float32, CPU, 0, LEAST).cases
    )
    assert not keys.is_contiguous()
    assert values.is_contiguous()


def test_a_trial_has_digits_to_spare_in_float64() -> None:
    left, _, _ = line_tiles._Trial(2, 48, torch.float64, CPU, 0, LEAST).cases[0]
    assert not torch.equal(left, left.float().double())


def test_matrices_may_lie_apart_where_batches_are_filled_up() -> None:
    """As of keys and values in every second page."""
    left, pages = torch.randn(2, 16, 20), torch.randn(4, 64, 20)
    apart, together = pages[::2], pages[::2].contiguous()
    want = products(left, together.mT, 8)
    assert torch.equal(products(left, apart.mT, 8), want)
    weights = torch.randn(2, 16, 64)
    assert torch.equal(products(weights, apart, 8), products(weights, together, 8))
