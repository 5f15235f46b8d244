"""The likeliest tokens without a sort: the very ones that torch takes of the same logits."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import DTYPES, TARGET, Rooms, numbers

from nldc.runtime.kernels import candidates as kernels
from nldc.runtime.model import scores

ODD = (math.nan, math.inf, -math.inf, 0.0, -0.0, 1.0, -1.0, torch.finfo(torch.float32).min)


@pytest.mark.parametrize("count", [1, 2, 5, 64])
@pytest.mark.parametrize("size", [1, 16, 37, 2048, 4100])
def test_the_kernels_take_what_torch_takes(rooms: Rooms, size: int, count: int) -> None:
    for dtype in DTYPES:
        logits = (numbers(3, size) * 3).to(dtype)
        logits[1] = logits[1].round()  # many are equal
        logits[2] = -math.inf
        logits[2, size // 2 :: 7] = logits[0, 0]
        found = kernels.candidates(logits, count, TARGET)
        rooms.check()
        assert torch.equal(found, scores.candidates(logits, count))


@given(st.lists(st.sampled_from(ODD), min_size=1, max_size=40), st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_so_they_do_where_much_is_equal_or_no_number(line: list[float], count: int) -> None:
    logits = torch.tensor([line, line[::-1]])
    found = kernels.candidates(logits, count, TARGET)
    assert torch.equal(found, scores.candidates(logits, count))


def test_rows_of_many_are_those_that_are_meant() -> None:
    many = numbers(4, 3, 50)
    found = kernels.candidates(many[:, 1], 2, TARGET)
    assert torch.equal(found, scores.candidates(many[:, 1], 2))


def test_of_no_rows_nothing_is_taken() -> None:
    assert kernels.candidates(torch.zeros(0, 40), 3, TARGET).shape == (0, 3)
