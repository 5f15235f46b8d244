"""A mix of logits: torch's own sum, whatever lies where, and weights of each sequence."""

from __future__ import annotations

import math
from functools import partial
from itertools import product

import pytest
import torch
from kernel_cases import DTYPES, EPSILON, TARGET, Rooms, error, numbers
from torch import Tensor

from nldc.runtime.kernels import mixed as kernels
from nldc.runtime.kernels.mixed import mixed
from nldc.runtime.model import scores


def part_of(number: int, size: int, rows: int, vocabulary: int, dtype: torch.dtype) -> Tensor:
    """Return rows of many, of a length and at a place that differ from part to part."""
    whole = numbers(size, rows + number, vocabulary, seed=number).to(dtype) * 3
    return whole[:, number:]


def columns(size: int, count: int) -> list[Tensor]:
    """Return weights as a table of a request's parameters has them."""
    return [column.unsqueeze(1) for column in numbers(size, count, seed=9).unbind(1)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("size", "rows", "vocabulary"), [(1, 1, 5), (2, 3, 37), (3, 9, 4100)])
@pytest.mark.parametrize("parts", [1, 2, 3])
def test_a_mix_is_torchs(
    rooms: Rooms, parts: int, size: int, rows: int, vocabulary: int, dtype: torch.dtype
) -> None:
    logits = [part_of(number, size, rows, vocabulary, dtype) for number in range(parts)]
    own, shared = columns(size, parts), [0.3, 0.75, -1.2][:parts]
    for weights in product(*zip(own, shared, strict=True)):
        found = mixed(logits, weights, TARGET)
        rooms.check()
        wanted = scores.mixed(logits, weights)
        assert found.dtype == dtype
        if dtype == torch.bfloat16:  # the interpreter cuts off where it should round
            assert error(found, wanted.double()) < 2 * parts * EPSILON[dtype]
        else:
            assert torch.equal(found, wanted)


def test_a_part_without_weight_is_left_out() -> None:
    none = torch.full((2, 1, 7), -math.inf)
    some = part_of(1, 2, 1, 7, torch.float32)
    each = torch.tensor([[0.0], [1.0]])
    found = mixed([none, some], [each, 1 - each], TARGET)
    assert torch.equal(found[0], some[0])
    assert torch.equal(found[1], none[1])
    assert torch.equal(mixed([none, some], [0.0, 1.0], TARGET), some)


def test_what_is_left_out_has_no_sign() -> None:
    some = torch.tensor([[[-1.0, 1.0]]])
    for weight in (-0.0, torch.tensor([[-0.0]])):
        assert not mixed([some], [weight], TARGET).signbit().any()
        assert not scores.mixed([some], [weight]).signbit().any()


def test_numbers_stay_where_they_lie_however_many_there_are() -> None:
    """A graph that was captured reads them there."""
    some = part_of(1, 2, 1, 7, torch.float32)
    mixed([some], [0.125], TARGET)
    numbers = partial(kernels._numbers, dtype=torch.float32, device=some.device)
    first = numbers((0.125,))
    for number in range(2000):
        numbers((float(number),))
    assert numbers((0.125,)) is first


def test_no_number_stays_none() -> None:
    some = torch.tensor([[[math.nan, math.inf, -math.inf]]])
    found = mixed([some, some.flip(-1)], [0.5, 0.5], TARGET)
    assert found.isnan().tolist() == [[[True, False, True]]]


def test_of_no_rows_nothing_is_mixed() -> None:
    none = torch.zeros(0, 3, 40)
    assert mixed([none, none], [0.5, 0.5], TARGET).shape == none.shape
