"""Weights in blocks of outputs are worth what they were, and lie where a processor likes them."""

from __future__ import annotations

import pytest
import torch
from quantised_weights import quantised

from nldc.runtime.invariant.blocked import LINE, PIECE, Arena
from nldc.runtime.invariant.linear import linear

SHAPES = [(64, 64, 32), (100, 60, 20), (203, 100, 100), (5, 36, 12), (130, 128, 64)]


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("out", "width", "group"), SHAPES)
def test_a_quantised_weight_is_worth_what_it_was(
    out: int, width: int, group: int, bits: int, shifted: bool, stored: torch.dtype
) -> None:
    weight = quantised(out, width, bits, group, shifted=shifted, stored=stored)
    made = Arena().blocked(weight)
    assert made.form == f"q{bits}" + "s" * shifted
    assert made.wide == (stored == torch.float32)
    dense = weight.to_dense()
    assert torch.allclose(made.to_dense(), dense, rtol=1e-6, atol=1e-7)
    x = torch.randn(3, width)
    assert torch.allclose(linear(x, made), x @ dense.T, atol=1e-5)


@pytest.mark.parametrize(("out", "width", "group"), SHAPES)
def test_floats_of_8_bits_stay_so(out: int, width: int, group: int) -> None:
    weight = quantised(out, width, 8, group, floating=True)
    made = Arena().blocked(weight)
    assert made.form == "f8"
    assert torch.equal(made.to_dense(), weight.to_dense())
    x = torch.randn(3, width)
    wanted = x.double() @ weight.to_dense().double().T
    assert float((linear(x, made) - wanted).abs().max() / wanted.abs().max()) < 2**-20


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(("out", "width"), [(64, 64), (130, 61), (1, 1)])
def test_a_plain_weight_is_what_it_was(out: int, width: int, dtype: torch.dtype) -> None:
    weight = torch.randn(out, width).to(dtype)
    assert torch.equal(Arena().blocked(weight).to_dense(), weight)


def test_scales_that_float16_holds_only_times_a_power_of_two_are_kept_so() -> None:
    weight = quantised(64, 64, 4, 32, shifted=True, stored=torch.bfloat16)
    small = weight.scale.float() * 2.0**-30, weight.shift.float() * 2.0**-30  # type: ignore[union-attr]
    weight = type(weight)(weight.packed, small[0], small[1], 4, (64, 64), torch.float32)
    made = Arena().blocked(weight)
    assert not made.wide
    assert made.power > 2.0**20
    assert torch.allclose(made.to_dense(), weight.to_dense(), rtol=1e-6, atol=0)


def test_scales_of_zero_are_no_trouble() -> None:
    weight = quantised(64, 64, 8, 32, stored=torch.bfloat16)
    weight.scale.zero_()
    made = Arena().blocked(weight)
    assert torch.equal(made.to_dense(), torch.zeros(64, 64))


def test_matrices_lie_behind_one_another_in_large_pieces() -> None:
    arena = Arena()
    first, second = (arena.blocked(torch.randn(64, 65)) for _ in range(2))
    assert second.data.data_ptr() == first.data.data_ptr() + first.data.numel()
    large = arena.take(PIECE + 1)
    for data in (first.data, second.data, large):
        assert data.data_ptr() % LINE == 0
    assert len(large) >= PIECE + 1
