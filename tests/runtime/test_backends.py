"""A head that chooses takes the token that is chosen of its logits, and asks for no logits else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from drawn import drawn
from handwritten import CAUSAL, Ar
from random_model import random_checkpoint
from torch import Tensor

from nldc.runtime.cache.kv_cache import KVCache
from nldc.runtime.model.backend import Choice, Chooser
from nldc.runtime.model.scores import Scores
from nldc.runtime.model.torch_backend import TorchBackend
from nldc.runtime.rows.layout import Layout
from nldc.runtime.step.batch import Batch
from nldc.runtime.step.choose import choice_of, sample
from nldc.runtime.step.member import Member
from nldc.runtime.step.sampling import NO_NUMBER, Sampling
from nldc.runtime.step.thinking import ThinkingLimit
from nldc.runtime.step.values import Choosing, Counting, Hidden

MASK = 100


def members_of(count: int, **options: Any) -> list[Member]:
    return [Member(0, key, Sampling(**options)) for key in range(count)]


def halved(logits: Tensor, _positions: Tensor) -> Tensor:
    return logits / 2


ALIKE = {
    "greedy": members_of(3),
    "hot": members_of(3, temperature=1.3, seed=5),
    "hot, seeds of their own": [
        Member(0, key, Sampling(0.9, top_k=40, top_p=0.95, min_p=0.01, seed=2**64 - 1 - key))
        for key in range(3)
    ],
    "alone": members_of(1, temperature=0.7),
    "greedy and hot": [*members_of(1), *members_of(2, temperature=1.0)],
    "each by filters of its own": [
        *members_of(1, temperature=0.8, top_k=3),
        *members_of(2, top_k=2),
        *members_of(1, temperature=1.2, top_p=0.4),
        *members_of(1, temperature=2.0, min_p=0.1, top_k=10**12),
        *members_of(1, temperature=0.5, top_k=20, top_p=0.7, min_p=0.02),
        *members_of(1, temperature=0.9),
    ],
}
SEEN = {
    "with a processor": members_of(2, processors=(halved,)),
    "with a thinking budget": [
        Member(0, 0, Sampling(), thinking=ThinkingLimit(2, 30), thought=0, prompt_length=1)
    ],
}


class Watched(TorchBackend):
    """Torch's backend; remembers the choices that it made itself."""

    def __init__(self, other: TorchBackend) -> None:
        super().__init__(other.backbone)
        self.choices: list[Choice] = []

    def head_choose(self, states: Tensor, choice: Choice) -> Tensor:
        self.choices.append(choice)
        return super().head_choose(states, choice)

    def head_choose_scored(
        self, states: Tensor, choice: Choice | Chooser, scores: Scores
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        if isinstance(choice, Choice):
            self.choices.append(choice)
        return super().head_choose_scored(states, choice, scores)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Ar:
    folder = random_checkpoint(tmp_path_factory.mktemp("model"), seed=2)
    return Ar.from_checkpoint(folder, dtype="float32", device="cpu")


def forward(decoder: Ar, members: list[Member]) -> tuple[Batch, Hidden, Watched]:
    """Return a batch of such members, the states of nine rows of each, and its backend."""
    model = decoder.model
    watched = Watched(model.backend)
    backbone = model.backbone
    cache = KVCache(decoder.config, backbone.dtype, backbone.device)
    placed = [Member(**{**vars(each), "slot": cache.acquire(64)}) for each in members]
    batch = Batch(type(model)(watched, {}, model.plan), cache, placed)
    tokens = torch.arange(9 * len(members)).view(len(members), 9) * 7 % 260
    return batch, batch.forward(tokens, Layout.causal(9), CAUSAL), watched


@pytest.mark.parametrize("mask_token", ["allowed", "forbidden"])
@pytest.mark.parametrize("name", [*ALIKE, *SEEN])
def test_a_head_that_chooses_is_the_head_and_then_the_choice(
    decoder: Ar, name: str, mask_token: Choosing
) -> None:
    with torch.inference_mode():
        batch, hidden, watched = forward(decoder, (ALIKE | SEEN)[name])
        want = batch.sample(batch.head(hidden), mask_token)
        assert torch.equal(batch.head_choose(hidden, mask_token), want)
    assert len(watched.choices) == (name in ALIKE)
    for choice in watched.choices:
        assert torch.equal(choice.positions, hidden.positions)
        assert choice.barred == (MASK if mask_token == "forbidden" else None)
        samplings = [member.sampling for member in batch.members]
        assert (choice.drawing is None) == (not any(each.temperature for each in samplings))
        assert choice.filters == any(each.filters for each in samplings)


@pytest.mark.parametrize("temperature", [None, 0.0, 0.6, "each"])
@pytest.mark.parametrize("mask_token", ["allowed", "forbidden"])
@pytest.mark.parametrize("name", ALIKE)
def test_the_numbers_of_a_choice_say_what_it_takes(
    decoder: Ar, name: str, mask_token: Choosing, temperature: float | str | None
) -> None:
    with torch.inference_mode():
        batch, hidden, _ = forward(decoder, ALIKE[name])
        logits = batch.head(hidden)
        at: Any = temperature
        if temperature == "each":
            at = torch.arange(batch.size, dtype=torch.float64).unsqueeze(1) / 2
        choice = choice_of(batch.lineup.rules, logits, mask_token, at)
        assert choice is not None
        wanted = sample(batch.lineup.rules, {}, logits, mask_token, at)
        assert torch.equal(choice.of(logits.values), wanted)
        assert torch.equal(drawn(logits.values, choice), wanted)


def test_a_budget_that_is_spent_leaves_one_token_to_whoever_chooses(decoder: Ar) -> None:
    with torch.inference_mode():
        batch, hidden, _ = forward(decoder, SEEN["with a thinking budget"])
        logits = batch.head(hidden)
        assert logits.due is not None
        assert logits.due.any()
        chosen = batch.sample(logits)
        assert torch.equal(chosen, sample(batch.lineup.rules, {}, logits))
        assert (chosen[logits.due] == 30).all()
        assert not batch.by_groups


@pytest.mark.parametrize("counting", ["counted", "ignored"])
@pytest.mark.parametrize("name", [*ALIKE, *SEEN])
def test_scores_beside_a_choice_are_those_of_the_head(
    decoder: Ar, name: str, counting: Counting
) -> None:
    mask_token: Choosing = "forbidden" if counting == "ignored" else "allowed"
    with torch.inference_mode():
        batch, hidden, watched = forward(decoder, (ALIKE | SEEN)[name])
        logits = batch.head(hidden)
        chosen = batch.sample(logits, mask_token)
        given = torch.full_like(chosen, 7).index_fill(1, torch.tensor([2]), -1)
        for tokens in (None, given):
            found = batch.head_choose_scored(
                hidden, "margin", "probability", "entropy",
                tokens=tokens, mask_token=mask_token, mask_token_scored=counting,
            )  # fmt: skip
            own = chosen if tokens is None else tokens
            wanted = (
                chosen,
                batch.margin(logits, mask_token=counting),
                batch.probability(logits, own, mask_token=counting),
                batch.entropy(logits, mask_token=counting),
            )
            for got, want in zip(found, wanted, strict=True):
                assert torch.equal(got, want)
    assert len(watched.choices) == 2 * (name in ALIKE)


def test_log_probabilities_are_the_logarithms_of_probabilities(decoder: Ar) -> None:
    with torch.inference_mode():
        batch, hidden, watched = forward(decoder, ALIKE["alone"])
        tokens = torch.arange(9) * 17
        found = watched.scored(hidden.states[0], tokens)
        log_p = batch.head(hidden).values[0].double().log_softmax(-1)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), log_p[torch.arange(9), tokens], rtol=0, atol=1e-5)


def test_a_forbidden_mask_and_rows_without_numbers_are_chosen_alike(decoder: Ar) -> None:
    with torch.inference_mode():
        batch, hidden, watched = forward(decoder, ALIKE["greedy"])
        watched.head = (
            lambda states: torch.where(  # type: ignore[method-assign]
                torch.arange(260) == MASK, 1.0, states[:, :1] * 0
            )
        )
        hidden.states[1, 4] = torch.nan
        found = batch.head_choose(hidden)
        barred = batch.head_choose(hidden, "forbidden")
    is_mask = torch.full((3, 9), MASK)
    is_mask[1, 4] = NO_NUMBER
    assert torch.equal(found, is_mask)
    assert torch.equal(barred, is_mask.where(is_mask < 0, 0))


def test_no_rows_have_no_choices(decoder: Ar) -> None:
    with torch.inference_mode():
        batch, hidden, _ = forward(decoder, ALIKE["greedy"])
        assert batch.head_choose(hidden.take(slice(0, 0))).shape == (3, 0)
