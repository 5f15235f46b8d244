"""Sum, residual and norm: right for any rows and parts, and a row's bits are its own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from kernel_cases import BY_ROWS, EPSILON, TARGET, error, numbers

from nldc.runtime.kernels.low_rank import Delta
from nldc.runtime.kernels.summed import added, added_normed, normed

EPS = 1e-5


@pytest.mark.usefixtures("rooms")
@pytest.mark.parametrize(("rows", "dtype"), BY_ROWS)
def test_a_sum_and_its_norm_are_those_of_float64(rows: int, dtype: torch.dtype) -> None:
    count = 1 + rows % 4
    parts, states = numbers(count, rows, 83), numbers(rows, 83, dtype=dtype)
    gamma, before = numbers(83, dtype=dtype, seed=5), states.clone()
    total, norm = added_normed(parts, states, gamma, EPS, TARGET)
    assert torch.equal(states, before)
    wanted = states.double() + parts.double().sum(0)
    assert error(total, wanted) < EPSILON[dtype]
    exact = F.rms_norm(total.double(), (83,), gamma.double(), EPS)
    assert error(norm, exact) < 2 * EPSILON[dtype]


@pytest.mark.usefixtures("rooms")
def test_a_sum_may_take_the_place_of_the_states_and_need_no_norm() -> None:
    parts, states = numbers(2, 9, 40), numbers(9, 40)
    wanted = added(parts, states, TARGET)
    total = added(parts, states, TARGET, into=states)
    assert total is states
    assert torch.equal(states, wanted)


@pytest.mark.usefixtures("rooms")
def test_states_are_normed_without_a_product() -> None:
    states, gamma = numbers(5, 64), numbers(64)
    found = normed(states, gamma, EPS, TARGET)
    assert error(found, F.rms_norm(states.double(), (64,), gamma.double(), EPS)) < 2**-20


@pytest.mark.usefixtures("rooms")
def test_an_adapter_is_added_on_its_rows_only() -> None:
    parts, states, gamma, delta = (
        numbers(2, 70, 40), numbers(70, 40), numbers(40), numbers(70, 40, seed=3),
    )  # fmt: skip
    marks = (torch.arange(70) % 3 == 0).to(torch.int8)
    delta[marks == 0] = torch.nan
    found = added_normed(parts, states, gamma, EPS, TARGET, Delta(delta, marks))
    plain = added_normed(parts, states, gamma, EPS, TARGET)
    for got, without in zip(found, plain, strict=True):
        assert torch.equal(got[marks == 0], without[marks == 0])
        assert (got[marks == 1] != without[marks == 1]).any(1).all()
    wanted = states.double() + parts.double().sum(0) + delta
    assert error(found[0][marks == 1], wanted[marks == 1]) < 2**-20


def test_parts_are_added_in_their_order() -> None:
    parts = torch.tensor([2.0**30, 1.0, -(2.0**30)]).view(3, 1, 1).expand(3, 2, 16).contiguous()
    total = added(parts, torch.zeros(2, 16), TARGET)
    assert (total == 0).all()  # (2**30 + 1) - 2**30 in float32
    total = added(parts[[0, 2, 1]].contiguous(), torch.zeros(2, 16), TARGET)
    assert (total == 1).all()


def test_a_row_has_the_same_bits_in_any_company() -> None:
    parts, states, gamma = numbers(4, 129, 61), numbers(129, 61), numbers(61)
    whole = added_normed(parts, states, gamma, EPS, TARGET)
    for first, count in ((0, 1), (5, 7), (60, 69)):
        own = slice(first, first + count)
        some = added_normed(
            parts[:, own].contiguous(), states[own].contiguous(), gamma, EPS, TARGET
        )
        for got, of_all in zip(some, whole, strict=True):
            assert torch.equal(got, of_all[own])
