"""Processors of logits: what they see, what they are asked, and what comes of their mistakes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from random_model import decoders_on, random_checkpoint
from torch import Tensor

from nldc import api
from nldc.runtime.decoder import Decoder
from nldc.runtime.errors import CheckpointError, PromptError
from nldc.runtime.step.processors import sees_tokens
from tests.library import exact

EXACT = exact()
DRAFTING = [name for name in EXACT if name != "ar"]
PROMPTS = [[5, 9, 20, 9], [1], [7, 3, 7, 3, 7, 3]]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Decoder]:
    root = tmp_path_factory.mktemp("processors")
    model = random_checkpoint(root / "model", seed=4)
    return decoders_on(model, root, dtype="float64")


@sees_tokens
def no_repeats(logits: Tensor, _positions: Tensor, tokens: Tensor) -> Tensor:
    """A repetition penalty at its hardest: the last five tokens may not come again."""
    size = logits.shape[-1]
    last = (_positions.unsqueeze(-1) - torch.arange(1, 6)).clamp_min(0)
    recent = tokens.gather(2, last.clamp_max(tokens.shape[2] - 1))
    counts = torch.zeros((*tokens.shape[:2], size + 1), dtype=torch.int64)
    counts.scatter_(2, recent.clamp_min(-1).remainder(size + 1), 1)
    return logits - 1000.0 * counts[..., :size]


@sees_tokens
def alternating(logits: Tensor, positions: Tensor, tokens: Tensor) -> Tensor:
    """A grammar: an odd token follows an even one, an even one an odd one."""
    before = tokens.gather(2, (positions - 1).unsqueeze(-1))
    ids = torch.arange(logits.shape[-1])
    wrong = (before % 2 == ids % 2) & (before >= 0)
    return logits.masked_fill(wrong, -torch.inf)


@pytest.mark.parametrize("name", DRAFTING)
@pytest.mark.parametrize("processor", [no_repeats, alternating])
def test_what_sees_the_text_decides_in_every_exact_strategy_as_in_ar(
    load: Callable[[str], Decoder], name: str, processor: Any
) -> None:
    for options in ({}, {"temperature": 1.3, "seed": 5}):
        given: dict[str, Any] = {"max_new_tokens": 14, "eos": (), "processors": [processor]}
        given |= options
        want = load("ar").generate(PROMPTS, **given)
        assert load(name).generate(PROMPTS, **given).tokens == want.tokens
        for prompt, tokens in zip(PROMPTS, want.tokens, strict=True):
            text = [*prompt, *tokens]
            for place in range(len(prompt), len(text)):
                if processor is alternating:
                    assert (text[place] - text[place - 1]) % 2 == 1
                else:
                    assert text[place] not in text[max(0, place - 5) : place]


def test_what_a_row_saw_is_the_text_before_it_and_nothing_behind(
    load: Callable[[str], Decoder],
) -> None:
    for name in EXACT:
        seen: list[tuple[list[int], int]] = []

        @sees_tokens
        def spy(logits: Tensor, positions: Tensor, tokens: Tensor) -> Tensor:
            for places, rows in zip(positions.tolist(), tokens.tolist(), strict=True):
                seen.extend((row, place) for place, row in zip(places, rows, strict=True))  # noqa: B023
            return logits

        prompt = PROMPTS[0]
        tokens = load(name).generate([prompt], max_new_tokens=9, eos=(), processors=spy).tokens[0]
        text = [*prompt, *tokens]
        exactly = {place for row, place in seen if row[:place] == text[:place]}
        assert exactly == set(range(len(prompt), len(text))), name
        for row, place in seen:
            assert row[: len(prompt)] == prompt
            assert set(row[place:]) <= {-1}


@pytest.mark.parametrize("name", [*EXACT, "block_diffusion"])
def test_no_processor_is_asked_about_a_place_behind_the_last(
    load: Callable[[str], Decoder], name: str
) -> None:
    count = 11
    size = load(name).config.vocab_size
    table = torch.randn(len(PROMPTS[0]) + count, size, generator=torch.Generator().manual_seed(0))

    def dictate(logits: Tensor, positions: Tensor) -> Tensor:
        assert int(positions.min()) >= len(PROMPTS[0])
        return logits + table[positions].to(logits.dtype)

    given: dict[str, Any] = {"max_new_tokens": count, "eos": (), "processors": [dictate]}
    found = load(name).generate([PROMPTS[0]], **given)
    assert len(found.tokens[0]) == count
    if name in EXACT:
        assert found.tokens == load("ar").generate([PROMPTS[0]], **given).tokens


def halved(logits: Tensor, _positions: Tensor) -> Tensor:
    return logits[..., :5]


def nothing(_logits: Tensor, _positions: Tensor) -> None:
    return None


@pytest.mark.parametrize(
    ("processor", "message"),
    [
        (halved, r"`halved` returned a tensor \[1, 1, 5\]"),
        (nothing, r"`nothing` returned NoneType"),
        (lambda x, _: x.to(torch.float16), r"returned a tensor .* of torch\.float16"),
        (lambda x, _: x > 0, r"returned a tensor .* of torch\.bool"),
        (lambda x, _: x[10**6], r"fails: IndexError"),
        (lambda x: x, r"fails: TypeError"),
        (3, r"the processor 3 cannot be called"),
    ],
)
def test_a_processor_that_is_none_is_an_error_in_words(
    load: Callable[[str], Decoder], processor: Any, message: str
) -> None:
    with pytest.raises(PromptError, match=message):
        load("ar").generate([PROMPTS[0]], processors=[processor])


@pytest.mark.parametrize("name", ["ar", "linear_ss", "quadratic_ss", "block_diffusion"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_processor_that_allows_nothing_ends_the_text_there(
    load: Callable[[str], Decoder], name: str, temperature: float
) -> None:
    def shut(logits: Tensor, positions: Tensor) -> Tensor:
        return logits.masked_fill((positions == 9).unsqueeze(-1), -torch.inf)

    given: dict[str, Any] = {"eos": (), "processors": [shut], "temperature": temperature}
    with pytest.raises(PromptError, match="allow no token at all for prompt 0, token 5"):
        load(name).generate([PROMPTS[0]], max_new_tokens=12, **given)
    if name in EXACT:
        found = load(name).generate([PROMPTS[0]], max_new_tokens=5, **given)
        assert found.tokens == load("ar").generate([PROMPTS[0]], max_new_tokens=5, **given).tokens


def test_a_processor_may_change_what_it_is_given(load: Callable[[str], Decoder]) -> None:
    def in_place(logits: Tensor, _positions: Tensor) -> Tensor:
        return logits.neg_()

    def fresh(logits: Tensor, _positions: Tensor) -> Tensor:
        return -logits

    for name in ("linear_ss", "block_diffusion"):
        want = load(name).generate(PROMPTS, max_new_tokens=8, processors=fresh).tokens
        assert load(name).generate(PROMPTS, max_new_tokens=8, processors=in_place).tokens == want


def test_what_a_processor_does_to_its_positions_is_no_other_s_business(
    load: Callable[[str], Decoder],
) -> None:
    def moves(logits: Tensor, positions: Tensor) -> Tensor:
        positions -= 2
        if 4 in positions and len(logits) > 1:
            raise ValueError("not together")
        logits[positions % 3 == 0, 5] += 50
        return logits

    decoder = load("ar")
    want = [
        decoder.generate([prompt], max_new_tokens=8, eos=(), processors=moves).tokens[0]
        for prompt in PROMPTS
    ]
    assert decoder.generate(PROMPTS, max_new_tokens=8, eos=(), processors=moves).tokens == want


def weights_that_overflow(folder: Path, token: int) -> Path:
    """Make one token's embedding far too large for float16."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors["encoder.embed_tokens.weight"][token] *= 2e5
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("name", ["ar", "linear_ss", "quadratic_ss", "block_diffusion"])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_logits_that_turn_into_no_numbers_end_the_text_there(
    tmp_path: Path, name: str, temperature: float
) -> None:
    model = random_checkpoint(tmp_path / "model", seed=4)
    given: dict[str, Any] = {"eos": (), "temperature": temperature, "seed": 3}
    guilty = 30
    weights_that_overflow(model, guilty)

    def meet(logits: Tensor, positions: Tensor) -> Tensor:
        """Let the guilty token come as the fourth."""
        logits[..., guilty] = torch.where(positions == len(PROMPTS[0]) + 3, 1000.0, -1000.0)
        return logits

    decoder = api.load(api.compile(name, tmp_path / name, certify=False)).from_checkpoint(
        model, dtype="float16", device="cpu"
    )
    after = "after 4 tokens" if name == "ar" else "after"
    with pytest.raises(CheckpointError, match=f"logits for prompt 0 are no numbers {after}"):
        decoder.generate([PROMPTS[0]], max_new_tokens=40, processors=meet, **given)
