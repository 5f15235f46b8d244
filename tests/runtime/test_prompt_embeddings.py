"""A prompt given as embeddings is the prompt whose tokens have these embeddings, in every mode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from random_model import random_checkpoint

from nldc import api
from nldc.runtime import Decoder, PromptEmbeddings
from nldc.runtime.errors import PromptError

CHECKPOINT = Path(__file__).parent.parent / "golden_checkpoints" / "random-1"
PROMPTS = [[1, 38, 26, 1, 38], [5], [7] * 9]


def compiled(name: str, folder: Path) -> Decoder:
    kind = api.load(api.compile(name, folder / Path(name).stem, certify=False))
    return kind.from_checkpoint(CHECKPOINT, dtype="float64", device="cpu", backend="torch")


@pytest.fixture(scope="module")
def ar(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    return compiled("ar", tmp_path_factory.mktemp("ar"))


@pytest.mark.parametrize("name", sorted(api.library()))
def test_embeddings_of_tokens_decode_as_the_tokens_do(name: str, tmp_path: Path) -> None:
    decoder = compiled(name, tmp_path)
    for temperature in (0.0, 0.8):
        options: dict[str, Any] = {"max_new_tokens": 10, "temperature": temperature, "eos": ()}
        want = decoder.generate(PROMPTS, **options)
        given = [PromptEmbeddings(decoder.embed(prompt), prompt) for prompt in PROMPTS]
        found = decoder.generate([given[0], PROMPTS[1], given[2]], **options)
        assert found.tokens == want.tokens
        assert [s.nfe for s in found.stats] == [s.nfe for s in want.stats]


def test_an_exact_strategy_needs_no_tokens_beside_the_embeddings(
    ar: Decoder, tmp_path: Path
) -> None:
    rows = torch.randn(4, ar.config.hidden_size, generator=torch.Generator().manual_seed(1))
    for name in ("prompt_lookup", "quadratic_ss", "tidar"):
        decoder = compiled(name, tmp_path)
        for options in (
            {},
            {"temperature": 0.9, "max_thinking_tokens": 5, "end_think_token_id": 9},
        ):
            prompt = PromptEmbeddings(rows)
            found = decoder.generate(prompt, max_new_tokens=12, eos=(), **options)
            assert found.tokens == ar.generate(prompt, max_new_tokens=12, eos=(), **options).tokens


def test_rows_of_text_and_other_rows_join_to_one_prompt(ar: Decoder) -> None:
    image = torch.randn(3, ar.config.hidden_size, generator=torch.Generator().manual_seed(2))
    rows = torch.cat((ar.embed([1, 5]), image, ar.embed([7])))
    first, other = ar.generate(
        [PromptEmbeddings(rows), PromptEmbeddings(rows.flip(0))], max_new_tokens=8, eos=()
    ).tokens
    assert first != other
    assert len(first) == 8


def test_embeddings_stream_too(tmp_path: Path) -> None:
    kind = api.load(api.compile("linear_ss", tmp_path / "linear_ss", certify=False))
    folder = random_checkpoint(tmp_path / "model", text=True)
    decoder = kind.from_checkpoint(folder, dtype="float64", device="cpu")
    ids = decoder.tokenizer.encode("hello")
    options: dict[str, Any] = {"max_new_tokens": 12, "temperature": 1.0, "eos": ()}
    pieces = decoder.stream(PromptEmbeddings(decoder.embed(ids)), **options)
    assert "".join(pieces) == decoder.generate("hello", **options).text[0]


WIDTH = 7


@pytest.mark.parametrize(
    ("rows", "tokens", "message"),
    [
        (torch.zeros(3, WIDTH), None, "prompt 0 holds embeddings of shape [3, 7]"),
        (torch.zeros(1, 3, WIDTH), None, "prompt 0 holds embeddings of shape [1, 3, 7]"),
        ("text", None, "prompt 0 holds embeddings of shape str"),
        (torch.nan, None, "prompt 0 holds embeddings that are not finite numbers"),
        (0.0, [1], "prompt 0 has 2 embeddings and 1 tokens"),
        (0.0, [1, 10**6], "prompt 0 holds the token id 1000000"),
    ],
)
def test_embeddings_that_are_no_prompt_are_refused(
    ar: Decoder, rows: Any, tokens: list[int] | None, message: str
) -> None:
    if isinstance(rows, float):
        rows = torch.full((2, ar.config.hidden_size), rows)
    with pytest.raises(PromptError) as caught:
        ar.generate([PromptEmbeddings(rows, tokens)])
    assert caught.value.message.startswith(message)


def test_no_rows_at_all_and_a_chat_template_are_refused(ar: Decoder) -> None:
    with pytest.raises(PromptError, match="prompt 0 is empty"):
        ar.generate(PromptEmbeddings(torch.zeros(0, ar.config.hidden_size)))
    with pytest.raises(PromptError, match="pass no chat template"):
        ar.generate(PromptEmbeddings(ar.embed([5])), chat=True)
    with pytest.raises(PromptError, match="embed holds the token id"):
        ar.embed([-1])


CARRIED = """nldc: 1
name: carried
summary: The last prompt token is computed by the first step.
guarantee: exact
prefill:
  last:  {op: join, parts: ["$prompt.last"]}
  start: {op: rows, segments: [{tokens: "$prompt[:-1]", kind: early}, {tokens: "$prompt[-1:]"}]}
  context: {op: forward, tokens: start, attention: causal, cache: {append: "kind == early"}}
carry: {last: prefill.last}
step:
  found:   {op: lookup, length: 3, ngram: 2}
  draft:   {op: join, parts: [last, found]}
  checked: {op: forward, tokens: draft, attention: causal, cache: append}
  choice:  {op: sample, logits: checked}
  kept:    {op: accept, draft: draft, target: choice, rule: longest_prefix}
  emit:    {tokens: kept.tokens, cache: keep kept.rows, next: {last: kept.bonus}}
"""
SCORED = """nldc: 1
name: scored
summary: A prompt's own tokens are scored before anything is chosen.
guarantee: none
prefill:
  context: {op: forward, tokens: $prompt, attention: causal, cache: append}
  known:   {op: score, logits: context, tokens: $prompt, by: probability}
  seed:    {op: sample, logits: context.last}
  block:   {op: rows, segments: [{tokens: $prompt}]}
  sure:    {op: select, among: block.filled, score: known, at_least: 0.01}
  all:     {op: sample, logits: context}
  filled:  {op: fill, rows: block, where: sure, tokens: all}
  again:   {op: forward, tokens: filled, attention: bidirectional, cache: read}
  first:   {op: sample, logits: again.last}
  emit:    {tokens: first}
carry: {seed: prefill.seed}
step:
  context: {op: forward, tokens: seed, attention: causal, cache: append}
  choice:  {op: sample, logits: context}
  emit:    {tokens: choice, cache: keep all, next: {seed: choice}}
"""


@pytest.mark.parametrize("text", [CARRIED, SCORED], ids=["carried", "scored"])
def test_rows_of_the_prompt_mean_the_same_wherever_they_go(text: str, tmp_path: Path) -> None:
    file = tmp_path / "strategy.yaml"
    file.write_text(text, encoding="utf-8")
    decoder = compiled(str(file), tmp_path / "out")
    options: dict[str, Any] = {"max_new_tokens": 10, "eos": ()}
    prompts = [*PROMPTS, [38]]
    want = decoder.generate(prompts, **options).tokens
    given = [PromptEmbeddings(decoder.embed(prompt), prompt) for prompt in prompts]
    assert decoder.generate(given, **options).tokens == want
    assert decoder.generate([given[0], prompts[1], *given[2:]], **options).tokens == want
    for prompt, tokens in zip(given, want, strict=True):
        assert decoder.generate([prompt], **options).tokens == [tokens]


def test_what_has_no_tokens_is_carried_all_the_same(ar: Decoder, tmp_path: Path) -> None:
    file = tmp_path / "carried.yaml"
    file.write_text(CARRIED, encoding="utf-8")
    decoder = compiled(str(file), tmp_path / "out")
    rows = torch.randn(4, ar.config.hidden_size, generator=torch.Generator().manual_seed(1))
    prompts = [PromptEmbeddings(rows), PromptEmbeddings(rows[:1]), [1, 5]]
    want = ar.generate(prompts, max_new_tokens=12, eos=()).tokens
    assert decoder.generate(prompts, max_new_tokens=12, eos=()).tokens == want


def test_embeddings_are_taken_as_they_are_when_they_are_given(ar: Decoder) -> None:
    rows = ar.embed([5, 9, 7])
    want = ar.generate(PromptEmbeddings(rows.clone()), max_new_tokens=8, eos=()).tokens[0]
    request = ar.request(PromptEmbeddings(rows), max_new_tokens=8, eos=())
    engine = ar.new_engine()
    rows.zero_()
    engine.submit(request)
    while not engine.idle:
        engine.step()
    assert request.tokens == want
