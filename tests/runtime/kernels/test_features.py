"""What a sampler reads of rows: the features that are defined, of logits of every kind."""

from __future__ import annotations

import math

import pytest
import torch
from kernel_cases import DTYPES, TARGET, Rooms
from random_sampler import drawn_block
from torch import Tensor

from nldc.runtime.kernels.features import features, wide
from nldc.runtime.reference import sampler as reference

MASK = 2


def wanted(logits: Tensor, tokens: Tensor, masked: Tensor, top: int) -> Tensor:
    """Return the features as they are defined, and the zeros behind them."""
    found = reference.features(logits, tokens, masked, MASK, top)
    return torch.nn.functional.pad(found, (0, wide(top) - found.shape[-1]))


@pytest.mark.parametrize("rows", [1, 3, 17, 32])
@pytest.mark.parametrize(("vocabulary", "top"), [(5, 7), (37, 1), (300, 8), (4100, 2), (2048, 33)])
def test_features_are_those_that_are_defined(
    rooms: Rooms, rows: int, vocabulary: int, top: int
) -> None:
    for batch, dtype in zip((1, 2, 3), DTYPES, strict=True):
        logits, tokens, masked = drawn_block(batch, rows, vocabulary)
        logits = logits.to(dtype)
        found = features(logits, tokens, masked, MASK, top, TARGET)
        rooms.check()
        torch.testing.assert_close(found, wanted(logits, tokens, masked, top), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_so_they_are_where_no_row_or_every_row_is_masked(share: float) -> None:
    logits, tokens, masked = drawn_block(2, 70, 40, share)
    assert masked.float().mean() == share
    found = features(logits, tokens, masked, MASK, 4, TARGET)
    torch.testing.assert_close(found, wanted(logits, tokens, masked, 4), rtol=2e-5, atol=2e-6)


def test_what_cannot_be_chosen_is_as_unlikely_as_anything_may_be() -> None:
    logits, tokens, masked = drawn_block(1, 4, 4100)
    logits[0, 0, 2048:] = -math.inf  # all of a block
    logits[0, 1, :-1] = -math.inf  # all but one
    logits[0, 2] = torch.linspace(-200, 0, 4100)
    logits[0, 3] = 0.0
    tokens[0] = torch.tensor([4000, 5, 0, -7])  # none that there is: the first
    found = features(logits, tokens, masked.zero_(), MASK, 3, TARGET)
    torch.testing.assert_close(found, wanted(logits, tokens, masked, 3), rtol=2e-5, atol=2e-6)
    assert found[0, 0, 7] == found[0, 2, 7] == reference.LEAST / 4
    assert found[0, 1, 3] == 0


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_logits_further_apart_than_any_number_have_features() -> None:
    logits, tokens, masked = drawn_block(1, 2, 4100)
    logits[:] = -torch.finfo(torch.float32).max
    logits[0, 0, 5] = logits[0, 1, 3000] = -logits[0, 0, 0]
    found = features(logits, tokens, masked, MASK, 3, TARGET)
    torch.testing.assert_close(found, wanted(logits, tokens, masked, 3), rtol=2e-5, atol=2e-6)


@pytest.mark.filterwarnings("ignore:(invalid value|divide by zero):RuntimeWarning")
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_rows_of_no_numbers_have_no_features_and_others_have_theirs(value: float) -> None:
    logits, tokens, masked = drawn_block(1, 3, 300)
    before = features(logits.clone(), tokens, masked, MASK, 4, TARGET)
    if value == -math.inf:
        logits[0, 1] = value
    else:
        logits[0, 1, 77] = value
    found = features(logits, tokens, masked, MASK, 4, TARGET)
    assert torch.equal(found[0, ::2], before[0, ::2])
    assert found[0, 1, :7].isnan().all()
    assert reference.features(logits, tokens, masked, MASK, 4)[0, 1, :7].isnan().all()
