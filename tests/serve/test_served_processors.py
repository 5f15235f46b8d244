"""Biases and penalties do what they say, the same for every exact strategy."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from asking import TEXT, answer
from fastapi import FastAPI

from nldc.runtime import Decoder
from nldc.serve.processors import AtLeast, Bias, Penalties

EXACT = ("ar", "linear_ss", "quadratic_ss", "prompt_lookup")
POSITIONS = torch.tensor([[3, 4]])


def test_a_bias_is_added() -> None:
    found = Bias(((1, 2.0), (3, -1.0)))(torch.zeros(1, 2, 4), POSITIONS)
    assert found.tolist() == [[[0, 2, 0, -1]] * 2]


def test_no_end_stands_too_early() -> None:
    found = AtLeast((0, 2), 4)(torch.zeros(1, 2, 4), POSITIONS)
    low = float("-inf")
    assert found.tolist() == [[[low, 0, low, 0], [0, 0, 0, 0]]]


def test_what_came_is_less_likely() -> None:
    """The prompt is 1 0, the answer 2 2 and for the later row 3; the first row is before it."""
    tokens = torch.tensor([[[1, 0, 2, -1, -1], [1, 0, 2, 2, -1]]])
    logits = torch.tensor([[[4.0, -4.0, 4.0, 4.0]] * 2])
    counted = Penalties(0.5, 1.0, 1.0, begin=2)(logits, POSITIONS, tokens.clone())
    assert counted.tolist() == [[[4, -4, 2.5, 4], [4, -4, 2, 4]]]
    repeated = Penalties(0.0, 0.0, 2.0, begin=2)(logits, POSITIONS, tokens.clone())
    assert repeated.tolist() == [[[2, -8, 2, 4]] * 2]


def test_who_asks_the_same_shares_a_call() -> None:
    assert Penalties(1, 0, 1, 3) == Penalties(1, 0, 1, 3)
    assert len({Bias(((1, 2.0),)), Bias(((1, 2.0),))}) == 1


@pytest.mark.parametrize(
    "asked",
    [
        {"frequency_penalty": 1.5, "presence_penalty": 0.5},
        {"repetition_penalty": 1.3},
        {"logit_bias": {"291": -100, "202": 2}},
    ],
)
def test_exact_strategies_agree_under_penalties(app: FastAPI, asked: dict[str, Any]) -> None:
    body = {"prompt": "def f(self, self", "max_tokens": 20}
    plain = answer(app, TEXT, **body)["choices"][0]["text"]
    found = {
        answer(app, TEXT, **body, **asked, strategy=name)["choices"][0]["text"] for name in EXACT
    }
    assert len(found) == 1
    assert found != {plain}


def test_a_text_has_the_tokens_that_it_must_have(app: FastAPI, decoder: Decoder) -> None:
    tokens = decoder.generate(["def f("], max_new_tokens=12).tokens[0]
    body = {"prompt": "def f(", "max_tokens": 12, "stop_token_ids": tokens[1:2]}
    for least in (0, 6):
        found = answer(app, TEXT, **body, min_tokens=least)
        count = found["usage"]["completion_tokens"]
        assert count == 2 if not least else count >= least
