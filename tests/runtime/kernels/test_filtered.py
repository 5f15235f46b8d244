"""Top-k, top-p and min-p in one launch: the very token that torch draws of the same logits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from kernel_cases import DTYPES, TARGET, numbers
from torch import Tensor

from nldc.runtime.kernels import filtered as kernels
from nldc.runtime.kernels import noise
from nldc.runtime.kernels.filtered import Filters, filtered
from nldc.runtime.kernels.noise import Noise
from nldc.runtime.step import sampling
from nldc.runtime.step.choose import sample
from nldc.runtime.step.lineup import Lineup
from nldc.runtime.step.member import Member
from nldc.runtime.step.sampling import Sampling
from nldc.runtime.step.values import Logits

FILTERS = (
    Sampling(top_k=1),
    Sampling(top_k=3),
    Sampling(top_k=1000),
    Sampling(top_p=0.6),
    Sampling(top_p=0.999999),
    Sampling(min_p=0.2),
    Sampling(min_p=1.0),
    Sampling(top_k=7, top_p=0.8, min_p=0.05),
    Sampling(top_k=2, top_p=1e-9),
    Sampling(top_p=1.0, min_p=0.0),
)


def drawn(
    logits: Tensor, samplings: Sequence[Sampling], barred: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return the tokens of rows [B, n, V] that the kernel draws, and those that torch draws."""
    batch, own, _ = logits.shape
    numbers = ((0, -1), (7, 2**62), (2**40 + 1, 5))
    members = [
        Member(0, key, replace(each, seed=seed % 2**64))
        for (key, seed), each in zip(numbers[:batch], samplings[:batch], strict=True)
    ]
    rules = Lineup.of(members, 0, torch.device("cpu")).rules
    positions = torch.arange(batch * own).view(batch, own) * 1009
    drawing, seeds = rules.drawing, rules.seeds.squeeze(1)  # columns of a table
    keyed = Noise(positions.view(-1), rules.keys, seeds, drawing.temperature)
    filters = Filters(drawing.top_k, drawing.top_p, drawing.reach)
    found = filtered(logits, filters, keyed, TARGET, barred)
    left = logits.clone()
    if barred is not None:
        left[..., barred] = -math.inf
    wanted = sample(rules, {}, Logits(left, positions))
    return found.view(batch, own), wanted


def hot(filters: Sampling, temperature: float) -> list[Sampling]:
    return [replace(filters, temperature=temperature)] * 3


@pytest.mark.usefixtures("rooms")
@pytest.mark.parametrize("filters", FILTERS, ids=str)
def test_a_filtered_choice_is_torchs(filters: Sampling) -> None:
    number = FILTERS.index(filters)
    size, own = ((2100, 1), (37, 2))[number % 2]
    logits = (numbers(3, own, size) * 3).to(DTYPES[number % 3])
    logits[1] = logits[1].round()  # many are equal
    for temperature, barred in ((0.7, None), (1.9, int(logits[0, 0].argmax()))):
        found, wanted = drawn(logits, hot(filters, temperature), barred)
        assert torch.equal(found, wanted), temperature


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_of_every_size_and_sign_are_in_order(dtype: torch.dtype) -> None:
    """At a temperature at which the noise decides between all that stay."""
    values = torch.tensor([-0.0, 0.0, 6e4, -6e4, 1.0, -1.0, 3.0, 3.0, -3.0, 1e-7, -1e-7])
    logits = values.to(dtype).expand(1, 4, -1).contiguous()
    seen: set[int] = set()
    for top_k in (2, 5, 7):
        found, wanted = drawn(logits, hot(Sampling(top_k=top_k), 1e7))
        assert torch.equal(found, wanted), top_k
        seen.update(found.flatten().tolist())
    assert len(seen) > 2


@pytest.mark.parametrize("size", [37, 48])
def test_rows_of_many_are_those_that_are_meant(size: int) -> None:
    many = numbers(3, 4, size) * 3
    turned = many.transpose(0, 1)[:3]
    for logits in (many[:, 1:2], many[:, 1:3], many[:1, 3:], turned, many.mT.contiguous().mT):
        found, wanted = drawn(logits, hot(FILTERS[7], 1.3))
        assert torch.equal(found, wanted), logits.stride()


@pytest.mark.parametrize("filters", [FILTERS[0], FILTERS[1], FILTERS[8]], ids=str)
def test_logits_are_in_order_though_nothing_is_left_of_them_over_the_temperature(
    filters: Sampling,
) -> None:
    found, wanted = drawn(numbers(1, 20, 37) * 1e-30, hot(filters, 1e300))
    assert torch.equal(found, wanted)


def test_rows_without_numbers_or_without_a_choice_say_so() -> None:
    lines = [
        [1.0, 2.0, math.nan],
        [math.inf, 2.0, 1.0],
        [-math.inf] * 3,
        [-math.inf, 0.5, -math.inf],
        [math.nan] * 3,
    ]
    logits = torch.tensor(lines).unsqueeze(0)
    for filters in (FILTERS[7], FILTERS[9]):
        found, wanted = drawn(logits, hot(filters, 1.0))
        assert torch.equal(found, wanted), filters
        assert found[0].tolist() == [
            sampling.NO_NUMBER, sampling.NO_NUMBER, sampling.NOTHING_ALLOWED, 1, sampling.NO_NUMBER,
        ]  # fmt: skip


@pytest.mark.usefixtures("rooms")
@pytest.mark.parametrize("turn", [0, 1, 2])
def test_each_sequence_has_filters_of_its_own_or_is_greedy(turn: int) -> None:
    samplings = [
        Sampling(top_k=3),
        Sampling(1.5, top_k=4, min_p=0.01),
        Sampling(0.7, top_p=0.5),
        Sampling(1.1),
    ]
    logits = (numbers(3, 5, 300) * 3).to(DTYPES[turn])
    found, wanted = drawn(logits, [*samplings[turn:], *samplings[:turn]], barred=9)
    assert torch.equal(found, wanted)


def test_no_rows_have_no_choice() -> None:
    assert drawn(torch.zeros(3, 0, 50), hot(FILTERS[1], 1.0))[0].shape == (3, 0)


def test_numbers_are_those_of_torchs_sampling() -> None:
    assert kernels.UNIT == sampling.UNIT
    assert noise.LOWEST_TEMPERATURE.value == sampling.LOWEST_TEMPERATURE
    assert noise.NO_NUMBER == sampling.NO_NUMBER
    assert noise.NOTHING_ALLOWED == sampling.NOTHING_ALLOWED
