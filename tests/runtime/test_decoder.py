"""generate and stream: what ends a run, what a batch may not change, and what is refused."""

from __future__ import annotations

import gc
import math
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from handwritten import CHECKPOINTS, Ar, LinearSS, QuadraticSS
from random_model import random_checkpoint

from nldc.runtime.decoder import Decoder
from nldc.runtime.errors import BackendError, CheckpointError, PromptError, TokenizerError
from nldc.runtime.rows.layout import Layout
from nldc.runtime.rows.pattern import Pattern
from nldc.runtime.rows.plan import Plan
from nldc.runtime.rows.plans import Plans

EXACT = (Ar, LinearSS, QuadraticSS)


def load(kind: type[Decoder], folder: Path, dtype: str = "float64") -> Decoder:
    return kind.from_checkpoint(folder, dtype=dtype, device="cpu", backend="torch")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_checkpoint(tmp_path_factory.mktemp("model"), text=True)


@pytest.fixture(scope="module")
def ar(folder: Path) -> Decoder:
    return load(Ar, folder)


@pytest.mark.parametrize("seed", range(2))
def test_sampled_self_speculation_draws_what_ar_draws(seed: int) -> None:
    for checkpoint in CHECKPOINTS[:4]:
        prompts = [[1], [5, 7, 9], [4] * 20]
        options: dict[str, Any] = {
            "max_new_tokens": 24, "temperature": 0.9, "top_p": 0.95, "seed": seed
        }  # fmt: skip
        want = load(Ar, checkpoint).generate(prompts, **options)
        for kind in (LinearSS, QuadraticSS):
            found = load(kind, checkpoint).generate(prompts, **options)
            assert found.tokens == want.tokens


class Iterated(LinearSS):
    THRESHOLD = 0.5


def test_a_seed_that_is_the_mask_token_is_no_masked_row(tmp_path: Path) -> None:
    """The released loop overwrites such a seed, so that greedy decoding is no longer AR's."""
    for seed in range(4):
        plain = load(Ar, random_checkpoint(tmp_path / f"plain{seed}", seed))
        want = plain.generate([[3, 4]], max_new_tokens=20, eos=()).tokens
        mask = want[0][seed + 1]
        masked = random_checkpoint(tmp_path / f"masked{seed}", seed, mask_token_id=mask)
        for kind in (LinearSS, QuadraticSS, Iterated):
            found = load(kind, masked).generate([[3, 4]], max_new_tokens=20, eos=())
            assert found.tokens == want


def test_a_batch_emits_what_its_sequences_emit_alone(folder: Path) -> None:
    prompts = [[3, 4, 5], [9], [7] * 30, [200, 100, 100]]
    for kind in EXACT:
        decoder = load(kind, folder)
        together = decoder.generate(prompts, max_new_tokens=16, temperature=1.0, seed=2)
        for place, prompt in enumerate(prompts):
            alone = decoder.generate(
                [prompt], max_new_tokens=16, temperature=1.0, seed=2, sequence_ids=[place]
            )
            assert alone.tokens[0] == together.tokens[place]
            assert alone.stats[0].nfe == together.stats[place].nfe
            assert alone.stats[0].accepted == together.stats[place].accepted


def test_places_in_the_cache_are_reused_when_there_are_fewer_than_prompts(folder: Path) -> None:
    prompts = [[3 + place] * (1 + 5 * (place % 3)) for place in range(7)]
    decoder = load(LinearSS, folder)
    want = decoder.generate(prompts, max_new_tokens=9, temperature=1.0)
    found = decoder.generate(prompts, max_new_tokens=9, temperature=1.0, batch_size=3)
    assert found.tokens == want.tokens


def test_nothing_follows_the_first_eos_and_several_ids_may_end(folder: Path) -> None:
    for kind in EXACT:
        decoder = load(kind, folder)
        free = decoder.generate([[3, 4]], max_new_tokens=40, eos=()).tokens[0]
        assert len(free) == 40
        ends = [free[30], free[12]]
        first = min(free.index(token) for token in ends)
        found = decoder.generate([[3, 4]], max_new_tokens=40, eos=ends)
        assert found.tokens[0] == free[: first + 1]
        assert found.finish == ["eos"]


@pytest.mark.parametrize("limit", [1, 2, 3, 7])
def test_max_new_tokens_is_never_exceeded(folder: Path, limit: int) -> None:
    for kind in EXACT:
        found = load(kind, folder).generate([[3], [4, 5]], max_new_tokens=limit, eos=())
        assert [len(tokens) for tokens in found.tokens] == [limit, limit]
        assert found.finish == ["length", "length"]


def test_stats_add_up(folder: Path) -> None:
    found = load(LinearSS, folder).generate([[3, 4]], max_new_tokens=12, eos=())
    stats = found.stats[0]
    assert stats.tokens == 12
    assert sum(stats.accepted) + 1 >= 12
    assert stats.nfe == 1 + 2 * len(stats.accepted)
    assert stats.tpf == 12 / stats.nfe
    assert sum(count * times for count, times in stats.histogram.items()) == sum(stats.accepted)
    assert 0 < stats.time_to_first_token <= stats.seconds
    assert stats.tokens_per_second == pytest.approx(12 / stats.seconds)


def test_streamed_text_is_generated_text(folder: Path) -> None:
    for kind in EXACT:
        decoder = load(kind, folder)
        options: dict[str, Any] = {"max_new_tokens": 40, "temperature": 1.0, "seed": 4}
        pieces = list(decoder.stream("hello", **options))
        text = decoder.generate("hello", **options).text[0]
        assert "".join(pieces) == text
        assert all(pieces)
        assert len(pieces) > 3


def test_a_stop_string_ends_text_and_tokens(ar: Decoder) -> None:
    text = ar.generate("hello", max_new_tokens=60, temperature=1.0, seed=4).text[0]
    stop = text[5:8]
    found = ar.generate("hello", max_new_tokens=60, temperature=1.0, seed=4, stop=[stop])
    assert found.text[0] == text[: text.index(stop)]
    assert found.finish == ["stop"]
    assert stop in ar.tokenizer.decode(found.tokens[0])
    assert stop not in ar.tokenizer.decode(found.tokens[0][:-1])
    streamed = ar.stream("hello", max_new_tokens=60, temperature=1.0, seed=4, stop=[stop])
    assert "".join(streamed) == found.text[0]


def test_chat_prompts_go_through_the_template(ar: Decoder) -> None:
    rendered = "<s>[USER]hi\n[BOT]"
    want = ar.generate([ar.tokenizer.encode(rendered)], max_new_tokens=5).tokens
    assert ar.generate("hi", chat=True, max_new_tokens=5).tokens == want
    conversation = [{"role": "user", "content": "hi"}]
    assert ar.generate([conversation], chat=True, max_new_tokens=5).tokens == want


def test_prompt_embeddings_replace_those_of_the_tokens(ar: Decoder) -> None:
    from handwritten import CAUSAL
    from test_golden import batch_of

    from nldc.runtime.rows.layout import Layout

    tokens = torch.tensor([[3, 4, 5]])
    rows = ar.model.backbone.embed(tokens.view(-1)).unsqueeze(0)
    with torch.inference_mode():
        plain = batch_of(ar).forward(tokens, Layout.causal(3), CAUSAL)
        given = batch_of(ar).forward(tokens * 0, Layout.causal(3), CAUSAL, embeddings=rows)
    assert torch.equal(plain.states, given.states)


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        ([], {}, "there is no prompt"),
        ([[]], {}, "prompt 0 is empty"),
        ([[1], []], {}, "prompt 1 is empty"),
        ([[1, 260]], {}, "prompt 0 holds the token id 260"),
        ([[-1]], {}, "prompt 0 holds the token id -1"),
        ([[1.5]], {}, "prompt 0 holds 1.5"),
        ([7], {}, "prompts [7] are the token ids of one prompt, not a list of prompts"),
        ([[3] * 600], {}, "prompt 0 has 600 tokens; with max_new_tokens 128 that is more than"),
        ([[3] * 500], {"max_new_tokens": 20}, "prompt 0 has 500 tokens; with max_new_tokens 20"),
        ([[3]], {"max_new_tokens": 0}, "max_new_tokens 0 is not allowed"),
        ([[3]], {"max_new_tokens": 2.5}, "max_new_tokens 2.5 is not allowed"),
        ([[3]], {"temperature": math.nan}, "temperature nan is not allowed"),
        ([[3]], {"top_p": 2}, "top_p 2 is not allowed"),
        ([[3]], {"stop": [""]}, "stop [''] is not allowed"),
        ([[3]], {"eos": [9999]}, "eos holds the token id 9999"),
        ([[3]], {"sequence_ids": [1, 2]}, "2 sequence_ids for 1 prompts"),
        ([[3]], {"batch_size": 0}, "batch_size 0 is not allowed"),
    ],
)
def test_a_prompt_or_option_that_cannot_be_used_is_named(
    ar: Decoder, prompts: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(PromptError) as caught:
        ar.generate(prompts, **options)
    assert caught.value.message.startswith(message)
    assert caught.value.hint


def test_an_unknown_option_is_an_error(ar: Decoder) -> None:
    with pytest.raises(TypeError, match="max_tokens"):
        ar.generate([[3]], max_tokens=3)  # type: ignore[call-arg]


def test_stream_refuses_a_bad_prompt_before_the_first_piece(ar: Decoder) -> None:
    with pytest.raises(PromptError, match="prompt 0 is empty"):
        ar.stream("")


def test_text_without_a_tokenizer_is_an_error_and_tokens_are_not(tmp_path: Path) -> None:
    decoder = load(Ar, random_checkpoint(tmp_path))
    assert decoder.generate([[3]], max_new_tokens=2).text == [""]
    for use in (
        lambda: decoder.generate("text"),
        lambda: decoder.generate([[3]], stop=["x"]),
        lambda: decoder.stream([3]),
    ):
        with pytest.raises(TokenizerError, match=r"tokenizer\.json is missing"):
            use()


def test_devices_and_backends_that_cannot_run_here_are_refused(folder: Path) -> None:
    for options, message in (
        ({"device": "toaster"}, "device 'toaster' is unknown"),
        ({"device": "meta"}, "device 'meta' is unknown"),
        ({"device": "cpu", "backend": "numpy"}, "backend 'numpy' is unknown"),
        ({"device": "cpu", "backend": "triton"}, "compiled without kernels"),
    ):
        with pytest.raises(BackendError, match=message):
            Ar.from_checkpoint(folder, **options)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="is not a folder"):
        Ar.from_checkpoint(folder / "nowhere")


def test_a_prompt_s_layout_and_plan_go_when_its_call_is_over(folder: Path) -> None:
    layouts: list[weakref.ref[Layout]] = []
    plans: list[weakref.ref[Plan]] = []

    class Watched(Plans):
        def __call__(self, layout: Layout, pattern: Pattern) -> Plan:
            plan = super().__call__(layout, pattern)
            layouts.append(weakref.ref(layout))
            plans.append(weakref.ref(plan))
            return plan

    decoder = load(Ar, folder, "float32")
    watched = Watched(torch.device("cpu"), torch.float32)
    decoder.model = replace(decoder.model, plan=watched)
    gc.disable()  # what is not in use must go without being looked for
    try:
        for length in (3, 5, 300, 3):
            decoder.generate([list(range(1, 2)) * length], max_new_tokens=3, eos=())
        left = {id(plan()) for plan in plans if plan() is not None}
        assert len(plans) == 12
        assert len(left) == 1  # a step's layout is a constant of the module
        assert len({id(one()) for one in layouts if one() is not None}) == 1
        assert len(watched) == 1
    finally:
        gc.enable()
