"""Products with weights in blocks: right, and a row's bits are its own in any company."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numba
import pytest
import torch
from quantised_weights import quantised
from torch import Tensor

from nldc.runtime.cpu import compiled
from nldc.runtime.cpu.product import prepare, product, scales_of
from nldc.runtime.invariant.blocked import OUTPUTS, Arena, Blocked
from nldc.runtime.invariant.linear import COUNTS
from nldc.runtime.invariant.quantised import FLOAT8, Quantised, packed_floats


@numba.njit
def _prepared(
    x: int, width: int, group: int, groups: int, padded: int, scales: int, out: int, stride: int,
    rows: int,
) -> None:  # fmt: skip
    for row in range(rows):
        to = out + row * stride
        prepare(x + row * 4 * width, group, groups, padded, scales, to, to + 4 * groups * padded)


def times(x: Tensor, weight: Blocked, *parts: int, finite: bool = True) -> Tensor:
    """Return rows x float32 [n, in] times a weight, its blocks in parts that end there."""
    rows, width = x.shape
    scales = scales_of(weight)
    room = torch.full((rows, weight.groups * (weight.padded + 1)), torch.nan)
    _prepared(
        x.data_ptr(),
        width,
        weight.group,
        weight.groups,
        weight.padded,
        scales.ctypes.data,
        room.data_ptr(),
        4 * room.shape[1],
        rows,
    )
    out = torch.full((rows, weight.blocks * OUTPUTS), torch.nan)
    call = product(weight.form, wide=weight.wide).call
    first = 0
    for last in (*parts, weight.blocks):
        call(
            room.data_ptr(), room.data_ptr() + 4 * weight.groups * weight.padded, 4 * room.shape[1],
            weight.data.data_ptr(), out.data_ptr(), 4 * out.shape[1], weight.groups, weight.words,
            first, last, rows,
        )  # fmt: skip
        first = last
    assert not finite or not out.isnan().any()
    return out[:, : weight.shape[0]]


def weights() -> list[tuple[str, Any]]:
    return [
        ("4 bits", quantised(130, 96, 4, 32)),
        ("4 bits, shifts", quantised(200, 64, 4, 32, shifted=True)),
        ("4 bits, groups of 12", quantised(70, 36, 4, 12, stored=torch.bfloat16)),
        ("8 bits", quantised(64, 96, 8, 32)),
        ("8 bits, shifts", quantised(3, 60, 8, 20, shifted=True)),
        ("8 bits, a scale a row", quantised(203, 101, 8, 101, stored=torch.float32)),
        ("floats of 8 bits", quantised(203, 101, 8, 101, floating=True)),
        ("floats of 8 bits, groups of 12", quantised(70, 36, 8, 12, floating=True)),
        *((str(dtype), torch.randn(65, 61).to(dtype)) for dtype in (torch.bfloat16, torch.float16)),
        ("float32", torch.randn(130, 67)),
    ]


@pytest.mark.parametrize(("name", "weight"), weights(), ids=[name for name, _ in weights()])
def test_a_product_is_right_and_a_row_has_the_same_bits_in_any_company(
    name: str, weight: Any
) -> None:
    blocked = Arena().blocked(weight)
    x = torch.randn(272, blocked.shape[1])
    x[5] *= 1e4
    whole = times(x, blocked)
    dense = weight if isinstance(weight, Tensor) else weight.to_dense()
    want = x.double() @ dense.double().T
    size = x.double().abs() @ dense.double().abs().T
    assert float(((whole - want).abs() / size).max()) < 1e-6, name
    for count in COUNTS:
        for start in {0, 1, 272 - count} if count < 272 else {0}:
            own = slice(start, start + count)
            assert torch.equal(times(x[own].clone(), blocked), whole[own]), (count, start)


@pytest.mark.parametrize("given", ["+avx2,+fma", "+avx512f,+avx2"])
def test_a_machine_has_the_room_that_its_features_say(
    given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numba.config, "CPU_FEATURES", given)
    compiled.has_room.cache_clear()
    assert compiled.has_room() == ("avx512f" in given)
    monkeypatch.undo()
    compiled.has_room.cache_clear()


def test_threads_may_share_the_outputs_as_they_like() -> None:
    blocked = Arena().blocked(quantised(300, 64, 4, 32))
    x = torch.randn(9, 64)
    assert torch.equal(times(x, blocked, 1, 4), times(x, blocked))


def test_rows_of_any_size_have_as_many_digits() -> None:
    """x is divided by powers of two on the way, and lost no digit if it is not next to nothing."""
    blocked = Arena().blocked(quantised(64, 64, 4, 32, shifted=True))
    x = torch.randn(4, 64)
    for power in (2.0**-60, 2.0**60):
        assert torch.equal(times(x * power, blocked), times(x, blocked) * power)


def test_every_float_of_8_bits_is_exact_at_every_place_of_a_word() -> None:
    codes = torch.arange(256, dtype=torch.uint8)
    codes = codes[codes & 0x7F != 0x7F]
    for place in range(4):
        numbers = torch.zeros(len(codes), 8, dtype=torch.uint8)
        numbers[:, place] = codes
        words = packed_floats(numbers.view(FLOAT8))
        scale, shape = torch.ones(len(codes), 1), (len(codes), 8)
        weight = Quantised(words, scale, None, 8, shape, torch.float32, floating=True)
        x = torch.zeros(1, 8)
        x[0, place] = 1
        assert torch.equal(times(x, Arena().blocked(weight))[0], codes.view(FLOAT8).float())


@pytest.mark.parametrize("size", [1e-38, 1e-30, 1e-6, 1e20, 1e30])
def test_scales_of_any_size_leave_rows_their_digits(size: float) -> None:
    weight = quantised(70, 64, 4, 32, shifted=True, stored=torch.bfloat16)
    assert weight.shift is not None
    scale, shift = ((each.float() * size).bfloat16() for each in (weight.scale, weight.shift))
    weight = replace(weight, scale=scale, shift=shift, dtype=torch.float64)
    x = torch.randn(3, 64)
    want = x.double() @ weight.to_dense().T
    found = times(x, Arena().blocked(weight))
    assert float((found - want).abs().max() / want.abs().max()) < 1e-5


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_and_scales_that_are_no_numbers_make_none(dtype: torch.dtype, value: float) -> None:
    plain = torch.randn(70, 64).to(dtype)
    plain[3, 5] = value
    weight = quantised(70, 64, 4, 32, stored=dtype)
    weight.scale[3, 0] = value
    x = torch.randn(9, 64)
    for each in (plain, weight):
        blocked = Arena().blocked(each)
        assert blocked.dtype == each.dtype
        found = times(x, blocked, finite=False)
        assert not torch.isfinite(found[:, 3]).any()
        assert torch.isfinite(found[:, [2, 4]]).all()
