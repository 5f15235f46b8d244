"""Logits that are there: the tokens that torch chooses of them, and a head's own measures."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import DTYPES, TARGET, Rooms, error, matrix, numbers
from torch import Tensor

from nldc.runtime.kernels.asked import Asked
from nldc.runtime.kernels.head import head
from nldc.runtime.kernels.noise import NOTHING_ALLOWED, Noise
from nldc.runtime.kernels.scanned import in_rows, scanned
from nldc.runtime.model.scores import Scores, scored
from nldc.runtime.step.sampling import Sampling, draw, draw_at

ODD = (math.nan, math.inf, -math.inf, 0.0, -0.0, 1.0, -1.0, torch.finfo(torch.float32).min)
TOKEN, NOISY = Asked(token=True), Asked(token=True, noisy=True)
MEASURES, GIVEN = Asked(measures=True), Asked(measures=True, given=True)


def lying(size: int, rows: int, vocabulary: int, dtype: torch.dtype) -> list[Tensor]:
    """Return the same logits alone, as some rows of many, and in an order of their own."""
    logits = (numbers(size, rows, vocabulary) * 3).to(dtype)
    among = torch.full((size, rows + 3, vocabulary), torch.nan, dtype=dtype)
    among[:, 2 : rows + 2] = logits
    turned = logits.transpose(0, 1).contiguous().transpose(0, 1)
    return [logits, among[:, 2 : rows + 2], turned]


@given(st.lists(st.sampled_from(ODD), min_size=1, max_size=40), st.integers(-1, 39))
@settings(max_examples=60, deadline=None)
def test_a_greedy_choice_is_torchs(line: list[float], barred: int) -> None:
    logits = torch.tensor([line, line[::-1], [-math.inf] * len(line)]).unsqueeze(1)
    left = logits.clone()
    if barred >= 0:
        left[..., barred : barred + 1] = -math.inf
    found = scanned(logits, TOKEN, TARGET, barred=barred if barred >= 0 else None).tokens
    places = torch.arange(3).unsqueeze(1)
    assert found is not None
    assert torch.equal(found.view(3, 1), draw(left, places, places, Sampling(), 0))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("size", "rows", "vocabulary"), [(1, 1, 16), (2, 5, 37), (3, 70, 600)])
def test_rows_are_found_wherever_they_lie(
    rooms: Rooms, size: int, rows: int, vocabulary: int, dtype: torch.dtype
) -> None:
    for logits in lying(size, rows, vocabulary, dtype):
        found = scanned(logits, TOKEN, TARGET).tokens
        rooms.check()
        assert found is not None
        assert torch.equal(found.view(size, rows), logits.float().argmax(-1))


def test_rows_of_many_are_read_where_they_lie() -> None:
    alone, among, turned = lying(2, 4, 10, torch.float32)
    assert in_rows(alone) is alone
    assert in_rows(among) is among
    assert in_rows(turned) is not turned
    one = among[:, :1]
    assert in_rows(one) is one


@pytest.mark.parametrize("dtype", DTYPES)
def test_each_sequence_is_drawn_at_its_own_temperature_or_greedily(dtype: torch.dtype) -> None:
    size, rows = 3, 6
    logits = lying(size, rows, 300, dtype)[1]
    positions = numbers(size, rows).mul(1e6).abs().long()
    facts = torch.tensor([[0, -1], [7, 2**62], [2**40 + 1, 5]])
    keys, seeds = facts.unbind(1)  # columns, as a lineup has them
    heat = torch.tensor([[0.0], [0.7], [3.0]], dtype=torch.float64)
    noise = Noise(positions.view(-1), keys, seeds, heat.view(-1))
    found = scanned(logits, NOISY, TARGET, noise, barred=9).tokens
    left = logits.clone()
    left[..., 9] = -math.inf
    wanted = draw_at(left, positions, keys, Sampling(), seeds.unsqueeze(1), heat)
    assert found is not None
    assert torch.equal(found.view(size, rows), wanted)
    assert torch.equal(wanted[0], left[0].float().argmax(-1))


@pytest.mark.parametrize("uncounted", [None, 4])
@pytest.mark.parametrize("dtype", DTYPES)
def test_scores_are_those_of_the_softmax(
    rooms: Rooms, dtype: torch.dtype, uncounted: int | None
) -> None:
    size, rows, vocabulary = 2, 19, 190
    tokens = numbers(size, rows).mul(1e6).abs().long() % vocabulary
    tokens[0, 0] = -2  # counts as 0
    for logits in lying(size, rows, vocabulary, dtype):
        found = scanned(logits, GIVEN, TARGET, given=tokens.view(-1), uncounted=uncounted)
        rooms.check()
        asked = Scores(("probability", "entropy", "margin"), tokens, uncounted)
        wanted = scored(logits.double(), None, asked)
        got = (found.probability, found.entropy, found.margin)
        for one, other in zip(got, wanted, strict=True):
            assert one is not None
            assert error(one.view(size, rows), other) < 2**-18


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_logits_further_apart_than_any_number_have_scores() -> None:
    far = torch.finfo(torch.float32).max
    logits = torch.full((3, 1, 150), -far)
    logits[0, 0, 7] = far
    logits[1, 0, 100:] = far
    logits[2, 0, :] = far
    tokens = torch.tensor([[7], [100], [0]])
    found = scanned(logits, GIVEN, TARGET, given=tokens.view(-1))
    wanted = scored(logits.double(), None, Scores(("probability", "entropy", "margin"), tokens))
    for one, other in zip((found.probability, found.entropy, found.margin), wanted, strict=True):
        assert one is not None
        assert (one.view(3, 1) - other).abs().max() < 2**-18


def test_what_is_no_number_has_no_score() -> None:
    logits = torch.zeros(4, 1, 70)
    logits[1, 0, 66] = math.nan
    logits[2, 0, 3] = math.inf
    logits[3] = -math.inf
    found = scanned(logits, GIVEN, TARGET, given=torch.tensor([1, 1, 1, 1]))
    for one in (found.probability, found.entropy, found.margin):
        assert one is not None
        assert one.isnan().tolist() == [False, True, True, True]


@pytest.mark.parametrize("only", [0, 9, 130])
def test_a_score_of_no_choice_is_that_of_the_first_token_however_it_is_chosen(only: int) -> None:
    logits = torch.full((1, 2, 150), -math.inf)
    logits[..., only] = 2.0
    found = scanned(logits, Asked(token=True, measures=True), TARGET, barred=only)
    assert found.tokens is not None
    assert found.tokens.tolist() == [NOTHING_ALLOWED] * 2
    given = scanned(logits, GIVEN, TARGET, given=found.tokens)
    assert found.probability is not None
    assert given.probability is not None
    assert found.probability.tolist() == given.probability.tolist() == [float(only == 0)] * 2


@pytest.mark.usefixtures("one_by_one")
@pytest.mark.parametrize("rows", [1, 7, 65])
def test_measures_have_a_heads_bits(rows: int) -> None:
    x, weight = numbers(rows, 40, dtype=torch.bfloat16) / 4, matrix(150, 40, torch.bfloat16)
    given = numbers(rows).mul(1e6).abs().long() % 150
    own = head(x, weight, Asked(logits=True, measures=True, given=True), TARGET, given=given)
    assert own.logits is not None
    found = scanned(own.logits.unsqueeze(0), GIVEN, TARGET, given=given)
    for name in ("best", "second", "logsumexp", "entropy", "margin", "picked", "probability"):
        assert torch.equal(getattr(found, name), getattr(own, name)), name
    assert torch.equal(found.probability.log().isnan(), torch.zeros(rows, dtype=torch.bool))  # type: ignore[union-attr]


def test_a_row_has_its_own_scores_in_any_company() -> None:
    logits = lying(1, 80, 130, torch.float32)[0]
    whole = scanned(logits, MEASURES, TARGET).entropy
    assert whole is not None
    for rows in (slice(0, 1), slice(3, 20), slice(60, 80)):
        part = scanned(logits[:, rows], MEASURES, TARGET).entropy
        assert part is not None
        assert torch.equal(part, whole[rows])


def test_of_no_rows_nothing_is_found() -> None:
    found = scanned(torch.zeros(0, 3, 40), TOKEN, TARGET).tokens
    assert found is not None
    assert found.shape == (0,)
