"""What holds in every mode: uneven batches, sampling, several ends, stop strings, and streaming.

Each compiled strategy of the library runs on a small byte-level model, so that characters and stop
strings are spread over several tokens and lie across the borders of steps.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from random_model import decoders_on, random_checkpoint
from safetensors.torch import load_file, save_file

from nldc import api
from nldc.runtime.decoder import Decoder
from nldc.runtime.errors import CheckpointError, PromptError
from tests.library import exact

LIBRARY = sorted(api.library())
EXACT = [name for name in exact() if name != "ar"]
PROMPTS = ["hello", "a", "def f(x):", "zzzzzzzzzzzz"]
FILTERS: tuple[dict[str, Any], ...] = (
    {"temperature": 0.8, "seed": 1},
    {"temperature": 1.3, "top_k": 12, "seed": 2},
    {"temperature": 0.9, "top_p": 0.7, "seed": 3},
    {"temperature": 1.0, "min_p": 0.2, "seed": 2**40 + 5},
    {"temperature": 1.1, "top_k": 40, "top_p": 0.9, "min_p": 0.05, "seed": 4},
)
OPTIONS: dict[str, Any] = {"max_new_tokens": 18, "temperature": 0.9, "seed": 6}


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("modes")
    model = random_checkpoint(root / "model", seed=3, text=True)
    return decoders_on(model, root, dtype="float64")


def dictation(ids: list[int], begin: int = 0) -> Any:
    """Return a processor that makes a model write `ids` from position `begin` on."""

    def dictate(logits: Any, positions: Any) -> Any:
        places = (positions - begin).clamp(0, len(ids) - 1)
        wanted = places.new_tensor(ids)[places].unsqueeze(-1)
        return logits.scatter(-1, wanted, 1e4)

    return dictate


def letters_of(decoder: Decoder) -> Any:
    """Return a processor that lets a model write small letters only."""
    ids = decoder.tokenizer.encode("abcdefghijklmnopqrstuvwxyz ", special=False)

    def spell(logits: Any, _positions: Any) -> Any:
        kept = logits.new_full(logits.shape, -torch.inf)
        kept[..., ids] = logits[..., ids]
        return kept

    return spell


@pytest.fixture(scope="module")
def drawn_by_ar(load: Any) -> list[tuple[dict[str, Any], Any]]:
    """What AR draws with each filter."""
    ar = load("ar")
    return [(options, ar.generate(PROMPTS, max_new_tokens=12, **options)) for options in FILTERS]


@pytest.mark.parametrize("name", EXACT)
def test_every_filter_draws_what_ar_draws_with_the_same_seed(
    load: Any, drawn_by_ar: list[tuple[dict[str, Any], Any]], name: str
) -> None:
    for options, want in drawn_by_ar:
        found = load(name).generate(PROMPTS, max_new_tokens=12, **options)
        assert found.tokens == want.tokens, options
        assert found.text == want.text


@pytest.mark.parametrize("name", LIBRARY)
def test_sequences_that_end_at_different_times_are_what_they_are_alone(
    load: Any, name: str
) -> None:
    decoder = load(name)
    free = decoder.generate(PROMPTS, eos=(), **OPTIONS)
    ends = [free.tokens[0][2], free.tokens[1][9], free.tokens[2][14]]
    together = decoder.generate(PROMPTS, eos=ends, **OPTIONS)
    few = decoder.generate(PROMPTS, eos=ends, batch_size=2, **OPTIONS)
    assert len({len(tokens) for tokens in together.tokens}) > 1
    assert few.tokens == together.tokens
    for place, prompt in enumerate(PROMPTS):
        alone = decoder.generate([prompt], eos=ends, sequence_ids=[place], **OPTIONS)
        assert alone.tokens[0] == together.tokens[place]
        if name != "concurrency_router":  # its step depends on the batch; its tokens do not
            assert alone.stats[0].accepted == together.stats[place].accepted
            assert alone.stats[0].nfe == together.stats[place].nfe


def test_a_batch_accepts_different_counts_in_the_same_step(load: Any) -> None:
    """The model is made to write abcabc: found by lookup at once in one prompt, later in others."""
    decoder = load("prompt_lookup")
    options: dict[str, Any] = {"max_new_tokens": 20, "eos": ()}
    options["processors"] = [dictation(decoder.tokenizer.encode("abc" * 20, special=False))]
    prompts = ["abcabcabc", "x", "zz"]
    found = decoder.generate(prompts, **options)
    assert found.tokens == load("ar").generate(prompts, **options).tokens
    steps = zip(*(stats.accepted for stats in found.stats), strict=False)
    assert any(len(set(counts)) > 1 for counts in steps)


@pytest.mark.parametrize("name", LIBRARY)
def test_any_of_several_end_ids_ends_and_nothing_follows_it(load: Any, name: str) -> None:
    decoder = load(name)
    free = decoder.generate(PROMPTS, eos=(), **OPTIONS).tokens
    ends = [free[0][12], free[0][5], free[1][8]]
    found = decoder.generate(PROMPTS, eos=ends, **OPTIONS)
    for tokens, finish in zip(found.tokens, found.finish, strict=True):
        assert not set(tokens[:-1]) & set(ends)
        assert (finish == "eos") == (tokens[-1] in ends)
        assert finish == "eos" or len(tokens) == OPTIONS["max_new_tokens"]
    if name in EXACT:
        assert found.tokens == load("ar").generate(PROMPTS, eos=ends, **OPTIONS).tokens


@pytest.mark.parametrize("name", LIBRARY)
def test_a_stop_string_is_found_wherever_steps_cut_it(load: Any, name: str) -> None:
    decoder = load(name)
    options = {**OPTIONS, "max_new_tokens": 18, "eos": (), "processors": [letters_of(decoder)]}
    text = decoder.generate("hello", **options).text[0]
    assert len(text) == 18
    for start in range(0, len(text) - 4, 5):
        stop = [text[start : start + 3], "never there"]
        found = decoder.generate("hello", stop=stop, **options)
        assert found.text[0] == text[: text.index(stop[0])]
        assert found.finish == ["stop"]
        assert "".join(decoder.stream("hello", stop=stop, **options)) == found.text[0]
        assert stop[0] not in decoder.tokenizer.decode(found.tokens[0][:-1])
    almost = text[-2:] + "\x00never"
    assert decoder.generate("hello", stop=[almost], **options).text[0] == text


@pytest.mark.parametrize("name", LIBRARY)
def test_what_is_streamed_is_whole_characters_and_stays(load: Any, name: str) -> None:
    decoder = load(name)
    options = {**OPTIONS, "max_new_tokens": 40, "temperature": 1.5, "eos": ()}
    result = decoder.generate("é ü", **options)
    pieces = list(decoder.stream("é ü", **options))
    whole = decoder.tokenizer.decode(result.tokens[0])
    assert "".join(pieces) == result.text[0]
    assert result.text[0] == whole
    shown = ""
    for piece in pieces:
        shown += piece
        assert whole.startswith(shown)
        assert piece
    assert len(set(result.tokens[0])) > 20


def test_a_character_of_several_tokens_is_shown_once_it_is_whole(load: Any) -> None:
    """The model is made to write the bytes of a text that is hard to cut."""
    text = "naïve 日本語 🙂👍🏽 é."
    for name in ("ar", "linear_ss", "quadratic_ss", "block_diffusion", "prompt_lookup"):
        decoder = load(name)
        ids = decoder.tokenizer.encode(text, special=False)
        begin = len(decoder.tokenizer.encode("go"))
        options: dict[str, Any] = {"eos": (), "max_new_tokens": len(ids)}
        options["processors"] = [dictation(ids, begin)]
        pieces = list(decoder.stream("go", **options))
        assert "".join(pieces) == text
        assert all(piece.isprintable() and "\ufffd" not in piece for piece in pieces)
        cut = list(decoder.stream("go", **{**options, "max_new_tokens": len(ids) - 4}))
        assert text.startswith("".join(cut))
        stopped = decoder.generate("go", stop=["語 🙂"], **options)
        assert stopped.text[0] == text[: text.index("語 🙂")]


def test_a_stream_returns_what_it_cost(load: Any) -> None:
    pieces = load("linear_ss").stream("hello", **OPTIONS)
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            stats = end.value
            break
    want = load("linear_ss").generate("hello", **OPTIONS).stats[0]
    assert (stats.nfe, stats.tokens, stats.accepted) == (want.nfe, want.tokens, want.accepted)


def test_weights_that_give_no_numbers_are_an_error_and_no_text(tmp_path: Path) -> None:
    model = random_checkpoint(tmp_path / "model", text=True)
    tensors = load_file(model / "model.safetensors")
    tensors["encoder.layers.1.mlp.up_proj.weight"][3, 5] = torch.nan
    save_file(tensors, model / "model.safetensors")
    for name in ("ar", "quadratic_ss", "block_diffusion"):
        kind = api.load(api.compile(name, tmp_path / name, certify=False))
        decoder = kind.from_checkpoint(model, device="cpu")
        with pytest.raises(CheckpointError, match="logits for prompt 0 are no numbers"):
            decoder.generate(["a", "b"], max_new_tokens=4)


def test_a_text_that_is_far_too_long_is_refused_without_being_encoded(load: Any) -> None:
    decoder = load("ar")
    encoded: list[int] = []
    inner = decoder.tokenizer.encode
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            decoder.tokenizer,
            "encode",
            lambda text, **o: encoded.append(len(text)) or inner(text, **o),
        )
        with pytest.raises(PromptError, match="prompt 0 has more tokens than the model's context"):
            decoder.generate(["ab " * 1_000_000], max_new_tokens=4)
    assert max(encoded) <= 32 * decoder.config.context
