"""Products of attention: sizes that agree bit for bit, and how lines are cut into them."""

from __future__ import annotations

import pytest
import torch

from nldc.runtime import line_tiles
from nldc.runtime.line_tiles import LEAST, cut

CPU = torch.device("cpu")


@pytest.mark.parametrize("sizes", [(64, 32, 16), (32, 16), (64, 16), (16,)])
def test_every_line_has_a_place_and_few_are_to_spare(sizes: tuple[int, ...]) -> None:
    for lines in range(1, 400):
        found = cut(lines, sizes)
        assert set(found) <= set(sizes)
        assert lines <= sum(found) < lines + 32
    assert cut(3, sizes) == (16,)


def test_few_products_are_made_of_many_lines() -> None:
    assert cut(48, (64, 32, 16)) == (64,)
    assert cut(40, (64, 32, 16)) == (64,)
    assert cut(33, (64, 32, 16)) == (64,)
    assert cut(216, (64, 32, 16)) == (64, 64, 64, 32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dim", [8, 18, 64])
def test_the_sizes_that_are_used_agree_with_the_least(dim: int, dtype: torch.dtype) -> None:
    sizes = line_tiles.line_tiles(dim, dtype, CPU, torch.get_num_threads())
    assert sizes[-1] == LEAST
    generator = torch.Generator().manual_seed(1)
    lines, keys = (torch.randn(6, n, dim, generator=generator).to(dtype) for n in (64, 64))
    least = torch.cat([torch.bmm(p, keys.mT) for p in torch.split(lines, LEAST, 1)], 1)
    for size in sizes:
        found = torch.cat([torch.bmm(p, keys.mT) for p in torch.split(lines, size, 1)], 1)
        assert torch.equal(found, least), size


def test_a_size_whose_sums_are_taken_in_another_order_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = torch.bmm

    def bmm(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        if left.shape[1] != 64:
            return plain(left, right)
        return plain(left.flip(2), right.flip(1))

    monkeypatch.setattr(torch, "bmm", bmm)
    line_tiles.line_tiles.cache_clear()
    try:
        assert line_tiles.line_tiles(48, torch.float32, CPU, 1) == (32, 16)
    finally:
        line_tiles.line_tiles.cache_clear()
