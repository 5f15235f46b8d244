"""What kernels for CPUs make of single numbers: other formats, exponentials."""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
import pytest
import torch
from torch import Tensor

from nldc.runtime.cpu.exponent import exp
from nldc.runtime.cpu.memory import load, put, store
from nldc.runtime.cpu.numbers import NUMBERS


@numba.njit
def _stored(source: int, out: int, count: int, number: int) -> None:
    for place in range(count):
        store(out, place, load(source, place, 0), number)


@numba.njit
def _loaded(source: int, out: int, count: int, number: int) -> None:
    for place in range(count):
        store(out, place, load(source, place, number), 0)


@numba.njit
def _raised(source: int, out: int, count: int) -> None:
    for place in range(count):
        put(out, place, exp(load(source, place, 0)))


def run(function: Any, x: Tensor, dtype: torch.dtype, *more: int) -> Tensor:
    out = torch.empty(x.shape, dtype=dtype)
    function(x.data_ptr(), out.data_ptr(), x.numel(), *more)
    return out


def same(found: Tensor, want: Tensor) -> bool:
    return torch.equal(found.nan_to_num(nan=12345.0), want.nan_to_num(nan=12345.0)) and torch.equal(
        found.isnan(), want.isnan()
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_numbers_of_16_bits_are_read_and_rounded_as_torch_does(dtype: torch.dtype) -> None:
    number = NUMBERS[dtype]
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    assert same(run(_loaded, every, torch.float32, number), every.float())
    wide = every.float()
    finite = wide[wide.isfinite()].double().sort().values
    between = ((finite[1:] + finite[:-1]) / 2).float()  # ties, which go to the even one
    beside = torch.cat((torch.nextafter(between, wide.new_tensor(math.inf)), between, -between))
    largest = torch.tensor([65519.9, 65520.0, 1e30, -1e30, math.inf, -math.inf, math.nan, 1e-40])
    for x in (wide, beside, largest, torch.randn(1000) * 2.0 ** torch.randint(-30, 17, (1000,))):
        assert same(run(_stored, x, dtype, number), x.to(dtype))


def test_an_exponential_is_off_by_a_few_units_in_the_last_place() -> None:
    x = torch.linspace(-86.9, 87.9, 200_001)
    found = run(_raised, x, torch.float32)
    want = x.double().exp()
    assert float(((found.double() - want) / want).abs().max()) < 3 * 2.0**-24
    beyond = run(_raised, torch.tensor([-1e9, -100.0, 0.0, 100.0, math.nan]), torch.float32)
    assert 0 <= beyond[:2].max() < 2e-38
    assert beyond[2] == 1
    assert beyond[3] > 1e38
    assert beyond[4].isnan()


def test_it_has_the_same_bits_at_any_place() -> None:
    x = torch.tensor(np.random.default_rng(0).normal(size=70).astype(np.float32) * 20)
    whole = run(_raised, x, torch.float32)
    for count in (1, 7, 16, 33):
        assert torch.equal(run(_raised, x[5 : 5 + count].clone(), torch.float32), whole[5:][:count])
