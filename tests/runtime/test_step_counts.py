"""Counts that a step makes of scores, one a sequence."""

from __future__ import annotations

import math

import torch

from nldc.runtime.step import ops

SCORES = torch.tensor([[0.9, 0.5, 0.7, 0.1], [0.4, 0.9, 0.9, 0.9], [0.8, 0.8, math.nan, 0.8]])


def test_leading_rows_are_those_up_to_the_first_that_is_less_sure() -> None:
    assert ops.leading(SCORES, at_least=0.5).tolist() == [3, 0, 2]
    assert ops.leading(SCORES, at_least=0.5, low=1).tolist() == [3, 1, 2]


def test_of_an_entropy_less_is_surer() -> None:
    assert ops.leading(SCORES, at_most=0.8).tolist() == [0, 1, 2]
    assert ops.leading(SCORES, at_most=0.9).tolist() == [4, 4, 2]


def test_each_sequence_may_bring_a_bound_of_its_own() -> None:
    bounds = torch.tensor([[0.6], [0.3], [0.9]])
    assert ops.leading(SCORES, at_least=bounds).tolist() == [1, 4, 0]
    assert ops.leading(SCORES, at_most=bounds, low=2).tolist() == [2, 2, 2]
