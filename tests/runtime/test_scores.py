"""Scores of a row: over which tokens, and before or after the sampling options."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from handwritten import CHECKPOINTS, Ar
from torch import Tensor

from nldc.runtime.cache.kv_cache import KVCache
from nldc.runtime.model.scores import Scores
from nldc.runtime.model.torch_backend import TorchBackend
from nldc.runtime.step.batch import Batch
from nldc.runtime.step.lineup import Lineup
from nldc.runtime.step.member import Member
from nldc.runtime.step.sampling import Sampling
from nldc.runtime.step.sequences import Sequences
from nldc.runtime.step.thinking import ThinkingLimit
from nldc.runtime.step.values import Logits

MASK = 1
LOGITS = Logits(torch.tensor([[[2.0, 3.0, 1.0, 0.0]]]), torch.tensor([[7]]))
DRAWN = Sampling(temperature=0.5, top_k=2)


def batch_of(sampling: Sampling) -> Sequences:
    return Sequences(Lineup.of([Member(0, 0, sampling)], MASK, torch.device("cpu")))


def softmax(*logits: float) -> list[float]:
    weights = [math.exp(logit) for logit in logits]
    return [weight / sum(weights) for weight in weights]


def token(number: int) -> Tensor:
    return torch.tensor([[number]])


@pytest.mark.parametrize(
    ("of", "mask_token", "expected"),
    [
        ("raw", "counted", softmax(2, 3, 1, 0)[0]),
        ("raw", "ignored", softmax(2, 1, 0)[0]),
        ("filtered", "counted", softmax(2, 3)[0]),
        ("filtered", "ignored", softmax(2, 1)[0]),
        ("processed", "counted", softmax(4, 6)[0]),
        ("processed", "ignored", softmax(4, 2)[0]),
    ],
)
def test_the_probability_of_a_token_is_over_what_counts(
    of: str, mask_token: str, expected: float
) -> None:
    found = batch_of(DRAWN).probability(LOGITS, token(0), of=of, mask_token=mask_token)  # type: ignore[arg-type]
    assert found.item() == pytest.approx(expected)


def test_at_temperature_0_a_score_is_of_the_logits_whatever_the_filters() -> None:
    batch = batch_of(Sampling(top_k=2))
    for of in ("filtered", "processed"):
        found = batch.probability(LOGITS, token(0), of=of)  # type: ignore[arg-type]
        assert found.item() == pytest.approx(softmax(2, 3, 1, 0)[0])


def test_entropy_and_margin_leave_out_what_does_not_count() -> None:
    batch = batch_of(DRAWN)
    p, q = softmax(4, 2)
    entropy = batch.entropy(LOGITS, of="processed", mask_token="ignored")
    assert entropy.item() == pytest.approx(-p * math.log(p) - q * math.log(q))
    margin = batch.margin(LOGITS, of="processed", mask_token="ignored")
    assert margin.item() == pytest.approx(p - q)


def test_an_ignored_mask_token_has_no_probability() -> None:
    found = batch_of(Sampling()).probability(LOGITS, token(MASK), mask_token="ignored")
    assert found.item() == 0.0


def test_processors_come_before_the_filters_and_not_at_all_in_a_raw_score() -> None:
    def forbid_first(logits: Tensor, positions: Tensor) -> Tensor:
        assert positions.tolist() == [[7]]
        return logits.index_fill(-1, torch.tensor([0]), -math.inf)

    batch = batch_of(Sampling(temperature=0.5, top_k=2, processors=(forbid_first,)))
    raw = batch.probability(LOGITS, token(2), of="raw")
    assert raw.item() == pytest.approx(softmax(2, 3, 1, 0)[2])
    left = batch.probability(LOGITS, token(2), of="filtered")
    assert left.item() == pytest.approx(softmax(3, 1)[1])


def test_a_forbidden_mask_token_is_never_chosen() -> None:
    for sampling in (Sampling(), Sampling(temperature=5.0, seed=2)):
        batch = batch_of(sampling)
        many = Logits(LOGITS.values.expand(1, 64, 4), torch.arange(64).unsqueeze(0))
        assert MASK in batch.sample(many)
        assert MASK not in batch.sample(many, mask_token="forbidden")


class OfItsOwn(TorchBackend):
    """A backend whose scores have bits of their own, as kernels' sums have."""

    def measured(self, values: Tensor, scores: Scores) -> tuple[Tensor, ...]:
        """See `Backend`."""
        return tuple(each * (1 - 2**-20) for each in super().measured(values, scores))


@pytest.mark.parametrize("of", ["raw", "filtered", "processed"])
def test_a_score_has_the_same_bits_whoever_is_beside_its_sequence(of: Any) -> None:
    decoder = Ar.from_checkpoint(CHECKPOINTS[0], dtype="float32", device="cpu", backend="torch")
    model = replace(decoder.model, backend=OfItsOwn(decoder.model.backbone))
    backbone = model.backbone
    values = torch.randn(4, 3, backbone.config.vocab_size)
    positions = torch.arange(12).view(4, 3)
    limits = [None, None, ThinkingLimit(tokens=4, end=7), None]
    due = torch.tensor([[False] * 3, [False] * 3, [False, True, False], [False] * 3])
    samplings = (
        Sampling(),
        Sampling(0.7, top_k=5),
        Sampling(),
        Sampling(processors=(lambda logits, _: logits * 2,)),
    )

    def scores(*numbers: int) -> Tensor:
        index = torch.tensor(numbers)
        cache = KVCache(decoder.config, backbone.dtype, backbone.device)
        members = [
            Member(cache.acquire(64), each, samplings[each], thinking=limits[each])
            for each in numbers
        ]
        batch = Batch(model, cache, members)
        own = due[index] if 2 in numbers else None  # one has a thinking budget
        logits = Logits(values[index], positions[index], own)
        tokens = torch.arange(3).expand(len(numbers), 3)
        return torch.stack(
            [
                batch.probability(logits, tokens, of=of),
                batch.entropy(logits, of=of),
                batch.margin(logits, of=of),
            ]
        )

    alone = [scores(number) for number in range(4)]
    for numbers in ((0, 1, 2, 3), (3, 0), (0, 2), (1, 0), (2, 1)):
        together = scores(*numbers)
        for place, number in enumerate(numbers):
            assert torch.equal(together[:, place], alone[number][:, 0]), (numbers, number)
