"""The head: its logits, and of them the very token that torch's choice takes."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from kernel_cases import (
    BY_ROWS,
    DTYPES,
    EPSILON,
    TARGET,
    dense,
    error,
    exact,
    matrix,
    numbers,
)

from nldc.runtime.kernels.asked import Asked
from nldc.runtime.kernels.head import head, head_tile
from nldc.runtime.kernels.noise import Noise
from nldc.runtime.kernels.product import Matrix
from nldc.runtime.step import sampling

LOGITS, TOKEN = Asked(logits=True), Asked(token=True)
NOISY, MEASURES = Asked(token=True, noisy=True), Asked(measures=True)


@pytest.mark.usefixtures("rooms")
@pytest.mark.parametrize(("rows", "dtype"), BY_ROWS)
def test_logits_and_greedy_tokens_are_torchs(rows: int, dtype: torch.dtype) -> None:
    x, weight = numbers(rows, 50, dtype=dtype), matrix(131, 50, dtype, gap=2)
    logits = head(x, weight, LOGITS, TARGET).logits
    assert logits is not None
    assert error(logits, exact(x, weight)) < EPSILON[dtype]
    found = head(x, weight, TOKEN, TARGET)
    assert found.logits is None
    assert found.tokens is not None
    assert torch.equal(found.tokens, logits.argmax(-1))
    found = head(x, weight, replace(TOKEN, logits=True), TARGET, barred=int(found.tokens[0]))
    assert found.logits is not None
    assert torch.equal(found.logits, logits)
    left = logits.clone()
    left[:, logits[0].argmax()] = -math.inf
    assert found.tokens is not None
    assert torch.equal(found.tokens, left.argmax(-1))


def test_of_equal_logits_the_lowest_id_wins_within_tiles_and_between_them() -> None:
    x, weight = torch.ones(3, 16), torch.zeros(700, 16)
    for best in ([3, 4], [600, 5], [699, 640], [63, 64], [511, 512]):
        data = weight.clone()
        data[best] = 1.0
        found = head(x, Matrix(data, 700, 16), TOKEN, TARGET)
        assert found.tokens is not None
        assert found.tokens.tolist() == [min(best)] * 3


def test_logits_are_equal_where_rounding_makes_them_so() -> None:
    x = torch.ones(2, 2, dtype=torch.bfloat16)
    data = torch.tensor([[1.0, 0.0], [256.0, 0.5], [256.0, 0.75]], dtype=torch.bfloat16)
    found = head(x, Matrix(data, 3, 2), replace(TOKEN, logits=True), TARGET)
    assert found.logits is not None
    assert found.logits[0].tolist() == [1.0, 256.0, 256.0]
    assert found.tokens is not None
    assert found.tokens.tolist() == [1, 1]


def test_rows_without_numbers_or_without_a_choice_say_so() -> None:
    x = torch.tensor([[1.0], [math.nan], [math.inf], [-math.inf]])
    weight = Matrix(torch.ones(90, 1), 90, 1)
    wanted = torch.tensor([0, sampling.NO_NUMBER, sampling.NO_NUMBER, sampling.NOTHING_ALLOWED])
    found = head(x, weight, TOKEN, TARGET).tokens
    assert found is not None
    assert torch.equal(found, wanted)
    found = head(x[:2], Matrix(torch.ones(1, 1), 1, 1), TOKEN, TARGET, barred=0).tokens
    assert found is not None
    assert found.tolist() == [sampling.NOTHING_ALLOWED] * 2


@pytest.mark.usefixtures("rooms")
@pytest.mark.parametrize("temperature", [0.7, 1.3, 1e-6])
def test_sampled_tokens_are_those_of_the_keyed_noise(temperature: float) -> None:
    dtype = DTYPES[int(temperature) % 3]
    batch, own = 3, 7
    x, weight = numbers(batch * own, 40, dtype=dtype) / 4, matrix(300, 40, dtype)
    positions = numbers(batch, own).mul(1e6).abs().long()
    facts = torch.tensor([[0, 9, -1], [7, 9, 2**62], [2**40 + 1, 9, 5]])
    keys, _, seeds = facts.unbind(1)  # columns, as a lineup has them
    heat = torch.full((batch,), temperature, dtype=torch.float64)
    noise = Noise(positions.view(-1), keys, seeds, heat)
    found = head(x, weight, replace(NOISY, logits=True), TARGET, noise, barred=9)
    assert found.logits is not None
    assert found.tokens is not None
    logits = found.logits.view(batch, own, -1)
    logits[..., 9] = -math.inf
    rules = sampling.Sampling(temperature)
    wanted = sampling.draw(logits, positions, keys, rules, seeds.unsqueeze(1))
    assert torch.equal(found.tokens.view(batch, own), wanted)
    assert len(set(found.tokens.tolist())) > 5


@pytest.mark.usefixtures("rooms")
@pytest.mark.parametrize("uncounted", [None, 4])
def test_measures_are_those_of_the_softmax(uncounted: int | None) -> None:
    x, weight = numbers(72, 48, dtype=torch.bfloat16) / 4, matrix(190, 48, torch.bfloat16)
    found = head(x, weight, replace(MEASURES, logits=True), TARGET, uncounted=uncounted)
    assert found.tokens is None
    assert found.picked is None
    assert found.logits is not None
    logits = found.logits.double()
    if uncounted is not None:
        logits[:, uncounted] = -math.inf
    log_p = logits.log_softmax(-1)
    best = logits.topk(2).values
    entropy = -(log_p.exp() * log_p.clamp_min(-1e9)).sum(-1)
    for got, wanted in (
        (found.best, best[:, 0]),
        (found.second, best[:, 1]),
        (found.logsumexp, logits.logsumexp(-1)),
        (found.entropy, entropy),
        (found.margin, log_p.exp().topk(2).values.diff().neg()[:, 0]),
    ):
        assert got is not None
        assert error(got, wanted) < 2**-18


@pytest.mark.usefixtures("rooms", "one_by_one")
@pytest.mark.parametrize("noisy", [False, True])
def test_the_logit_of_the_chosen_token_goes_with_the_measures(noisy: bool) -> None:
    """The token is chosen without one token, and measured without another."""
    dtype = DTYPES[noisy]
    x, weight = numbers(9, 40, dtype=dtype) / 4, matrix(150, 40, dtype)
    facts = torch.tensor([[3], [4], [5]])
    noise = Noise(torch.arange(9), *facts[:2].expand(2, 3), torch.full((3,), 2.0).double())
    barred, uncounted = 17, int(head(x, weight, TOKEN, TARGET, barred=17).tokens[0])  # type: ignore[index]
    asked = Asked(token=True, noisy=noisy, measures=True, logits=True)
    found = head(x, weight, asked, TARGET, noise if noisy else None, barred, uncounted=uncounted)
    tokens = head(x, weight, NOISY if noisy else TOKEN, TARGET, noise if noisy else None, barred)
    assert found.tokens is not None
    assert tokens.tokens is not None
    assert torch.equal(found.tokens, tokens.tokens)
    assert found.logits is not None
    counted = found.logits.float()
    counted[:, uncounted] = -math.inf
    assert found.picked is not None
    assert torch.equal(found.picked, counted.gather(1, found.tokens.unsqueeze(1))[:, 0])
    assert noisy or found.picked[0] == -math.inf
    alone = head(x, weight, MEASURES, TARGET, uncounted=uncounted)
    for name in ("best", "second", "logsumexp", "entropy", "margin"):
        assert torch.equal(getattr(found, name), getattr(alone, name)), name


@pytest.mark.usefixtures("rooms")
@pytest.mark.parametrize(("rows", "dtype"), [(1, DTYPES[0]), (67, DTYPES[1]), (5, DTYPES[2])])
def test_the_logit_of_a_given_token_is_found_wherever_it_lies(
    rows: int, dtype: torch.dtype
) -> None:
    x, weight = numbers(rows, 24, dtype=dtype) / 4, matrix(131, 24, dtype)
    wide = torch.arange(2 * rows + 1) * 13 % 131
    given = wide[1::2]  # with gaps
    asked = Asked(measures=True, given=True, logits=True)
    found = head(x, weight, asked, TARGET, given=given)
    assert found.tokens is None
    assert found.logits is not None
    assert found.picked is not None
    assert torch.equal(found.picked, found.logits.float().gather(1, given.unsqueeze(1))[:, 0])
    chosen = head(x, weight, replace(asked, token=True), TARGET, given=given)
    assert chosen.picked is not None
    assert torch.equal(chosen.picked, found.picked)


def test_rows_without_numbers_have_no_measures() -> None:
    x = torch.tensor([[1.0], [math.nan], [math.inf], [-math.inf]])
    weight = Matrix(torch.ones(90, 1), 90, 1)
    found = head(x, weight, Asked(token=True, measures=True), TARGET)
    for each in (found.probability, found.logsumexp, found.entropy, found.margin):
        assert each is not None
        assert each.isnan().tolist() == [False, True, True, True]
    assert found.picked is not None
    assert found.picked.isnan().tolist() == [False, True, True, False]


def test_a_tile_in_which_nothing_is_allowed_spoils_no_measure() -> None:
    x = torch.ones(1, 1)
    data = torch.full((200, 1), -math.inf)
    data[130:132, 0] = torch.tensor([0.0, 1.0])
    found = head(x, Matrix(data, 200, 1), MEASURES, TARGET)
    for got, wanted in (
        (found.best, 1.0),
        (found.second, 0.0),
        (found.logsumexp, math.log1p(math.e)),
    ):
        assert got is not None
        assert math.isclose(float(got), wanted, rel_tol=1e-6)
    assert found.entropy is not None
    p = 1 / (1 + math.e)
    assert math.isclose(
        float(found.entropy), -p * math.log(p) - (1 - p) * math.log(1 - p), rel_tol=1e-5
    )


@pytest.mark.usefixtures("one_by_one")
def test_measures_of_a_row_have_the_same_bits_in_any_company() -> None:
    x, weight = numbers(72, 48), matrix(190, 48, torch.float32)
    whole = head(x, weight, MEASURES, TARGET)
    some = head(x[9:11], weight, MEASURES, TARGET)
    for name in ("best", "second", "logsumexp", "entropy"):
        assert torch.equal(getattr(some, name), getattr(whole, name)[9:11]), name


def test_a_tile_that_is_measured_has_one_width_whatever_the_rows() -> None:
    shape = matrix(190, 48, torch.float32).shape
    widths = {head_tile(rows, shape, TARGET, MEASURES).features for rows in range(1, 300)}
    assert len(widths) == 1


def test_dense_weights_are_what_is_multiplied() -> None:
    weight = matrix(5, 6, torch.float32, gap=4)
    assert weight.data.shape == (5, 10)
    assert dense(weight).isfinite().all()
