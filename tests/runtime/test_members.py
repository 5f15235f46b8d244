"""Sequences of one batch, each with options of its own: every one gets what it gets alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from company import Company, Decoded
from random_model import decoders_on, random_checkpoint
from torch import Tensor

from nldc import api
from nldc.runtime.decoder import Decoder
from nldc.runtime.errors import PromptError
from nldc.runtime.step.member import Member
from nldc.runtime.step.processors import sees_tokens
from nldc.runtime.step.sampling import NOTHING_ALLOWED, Sampling
from nldc.runtime.step.thinking import ThinkingLimit

STRATEGIES = sorted(api.library())
FAST = ("ar", "linear_ss", "block_diffusion", "prompt_lookup")


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Decoder]:
    root = tmp_path_factory.mktemp("members")
    model = random_checkpoint(root / "model", seed=4)
    return decoders_on(model, root, dtype="float32")


def never_five(logits: Tensor, _positions: Tensor) -> Tensor:
    return logits.masked_fill(torch.arange(logits.shape[-1]) == 5, -torch.inf)


@sees_tokens
def no_repeat(logits: Tensor, positions: Tensor, tokens: Tensor) -> Tensor:
    last = tokens.gather(2, (positions - 1).unsqueeze(-1))
    ids = torch.arange(logits.shape[-1])
    return logits.masked_fill(ids == last, -torch.inf)


PROMPTS = ([5, 9, 20, 9], [1], [7, 3, 7, 3, 7, 3], [5, 9, 20, 9], [8, 8, 2], [30, 4], [5, 9, 20, 9])
MEMBERS = (
    Member(0, 3),
    Member(0, 3, Sampling(1.3, seed=5)),
    Member(0, 0, Sampling(0.7, top_k=9, top_p=0.9, seed=2**64 - 3), eos=(7, 3)),
    Member(0, 3, Sampling(1.3, seed=6, min_p=0.02), thinking=ThinkingLimit(3, 30), thought=3),
    Member(0, 9, Sampling(processors=(never_five,)), eos=(11,)),
    Member(0, 1, Sampling(1.3, seed=9, processors=(no_repeat,)), thinking=ThinkingLimit(2, 6, 4),
           thought=1),
    Member(0, 4, Sampling(processors=(no_repeat, never_five)), eos=(1, 2, 3, 4, 5)),
)  # fmt: skip


def found(decoded: list[Decoded]) -> list[tuple[list[int], int]]:
    return [(one.tokens, one.nfe) for one in decoded]


@pytest.mark.parametrize("name", STRATEGIES)
def test_each_sequence_gets_the_tokens_and_forwards_that_it_gets_alone(
    load: Callable[[str], Decoder], name: str
) -> None:
    decoder = load(name)
    alone = [
        Company(decoder).decode([prompt], [member])[0]
        for prompt, member in zip(PROMPTS, MEMBERS, strict=True)
    ]
    together = Company(decoder).decode(PROMPTS, MEMBERS)
    assert [one.tokens for one in together] == [one.tokens for one in alone]
    if name != "concurrency_router":  # which counts the sequences of its batch
        assert found(together) == found(alone)
    assert len({tuple(one.tokens) for one in alone}) > 4


def broken(logits: Tensor, positions: Tensor) -> Tensor:
    if bool((positions >= 8).any()):
        raise KeyError("no such place")
    return logits


def narrow(logits: Tensor, positions: Tensor) -> Tensor:
    return logits[..., :3] if bool((positions >= 8).any()) else logits


def of_one(error: str) -> Any:
    """A processor that is right for some sequences, and fails for those that say 20."""

    @sees_tokens
    def process(logits: Tensor, _positions: Tensor, tokens: Tensor) -> Tensor:
        assert not bool((tokens[:, :, 2] == 20).any()), error
        return logits

    return process


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize(("processor", "message"), [
    (broken, "`broken` fails: KeyError: 'no such place'"),
    (narrow, r"`narrow` returned a tensor \[1, \d+, 3\]"),
])  # fmt: skip
def test_a_processor_that_fails_ends_its_own_sequence_alone(
    load: Callable[[str], Decoder], name: str, processor: Any, message: str
) -> None:
    decoder = load(name)
    guilty = Member(0, 2, Sampling(0.8, processors=(processor,)))
    alone = Company(decoder).decode(PROMPTS, MEMBERS)
    members = [*MEMBERS[:3], guilty, *MEMBERS[3:]]
    prompts = [*PROMPTS[:3], [1, 2, 3], *PROMPTS[3:]]
    together = Company(decoder).decode(prompts, members)
    (failed,) = [one for one in together if one.error is not None]
    assert failed is together[3]
    assert isinstance(failed.error, PromptError)
    with pytest.raises(PromptError, match=message):
        raise failed.error
    assert found([one for one in together if one is not failed]) == found(alone)


def test_of_sequences_with_one_processor_only_those_fail_for_which_it_fails(
    load: Callable[[str], Decoder],
) -> None:
    sampling = Sampling(processors=(of_one("twenty"),))
    members = [Member(0, key, sampling) for key in range(3)]
    decoder = load("linear_ss")
    together = Company(decoder).decode([[1, 2], [5, 9, 20], [3]], members)
    assert [one.error is None for one in together] == [True, False, True]
    assert "AssertionError: twenty" in str(together[1].error)
    free = [replace(member, sampling=Sampling()) for member in members]
    want = Company(decoder).decode([[1, 2], [5, 9, 20], [3]], free)
    assert together[0].tokens == want[0].tokens
    assert together[2].tokens == want[2].tokens


def test_a_processor_that_allows_nothing_gives_the_code_and_hurts_no_other(
    load: Callable[[str], Decoder],
) -> None:
    def shut(logits: Tensor, positions: Tensor) -> Tensor:
        return logits.masked_fill((positions == 6).unsqueeze(-1), -torch.inf)

    decoder = load("linear_ss")
    members = [Member(0, 0), Member(0, 1, Sampling(processors=(shut,))), Member(0, 2)]
    prompts = [[1, 2], [5, 9, 20], [3]]
    together = Company(decoder).decode(prompts, members)
    want = Company(decoder).decode([prompts[0], prompts[2]], [members[0], members[2]])
    assert found([together[0], together[2]]) == found(want)
    assert together[1].tokens[3] == NOTHING_ALLOWED
    assert together[1].error is None
