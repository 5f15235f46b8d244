"""A head that chooses takes the token that is chosen of its logits, and asks for no logits else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from handwritten import CAUSAL, Ar
from random_model import random_checkpoint
from torch import Tensor

from nldc.runtime.cache.kv_cache import KVCache
from nldc.runtime.model.backend import Choice
from nldc.runtime.model.torch_backend import TorchBackend
from nldc.runtime.rows.layout import Layout
from nldc.runtime.step.batch import Batch
from nldc.runtime.step.member import Member
from nldc.runtime.step.sampling import NO_NUMBER, Sampling
from nldc.runtime.step.thinking import ThinkingLimit
from nldc.runtime.step.values import Choosing, Hidden

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
}
UNLIKE = {
    "greedy and hot": [*members_of(1), *members_of(2, temperature=1.0)],
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
@pytest.mark.parametrize("name", [*ALIKE, *UNLIKE])
def test_a_head_that_chooses_is_the_head_and_then_the_choice(
    decoder: Ar, name: str, mask_token: Choosing
) -> None:
    with torch.inference_mode():
        batch, hidden, watched = forward(decoder, (ALIKE | UNLIKE)[name])
        want = batch.sample(batch.head(hidden), mask_token)
        assert torch.equal(batch.head_choose(hidden, mask_token), want)
    assert len(watched.choices) == (name in ALIKE)
    for choice in watched.choices:
        assert torch.equal(choice.positions, hidden.positions)
        assert choice.barred == (MASK if mask_token == "forbidden" else None)
        assert choice.temperature == batch.members[0].sampling.temperature


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
