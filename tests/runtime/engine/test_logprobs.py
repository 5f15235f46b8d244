"""Log-probabilities are of the model as AR decodes with it, whoever decodes and beside whom."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from by_itself import nothing_is_held, run, told
from torch import Tensor

from nldc import api
from nldc.runtime import (
    CheckpointError,
    Decoder,
    Engine,
    GenerateOptions,
    OutOfMemoryError,
    PromptEmbeddings,
    PromptError,
    Request,
    TokenLogprob,
    sees_tokens,
)
from nldc.runtime.engine import scores
from nldc.runtime.engine.scores import Scores
from nldc.runtime.reference.attention import over
from nldc.runtime.reference.backbone import PlainBackbone
from nldc.runtime.step import logprobs as measures
from nldc.runtime.step.logprobs import logprobs_of
from tests.library import short_steps

STRATEGIES = ("ar", "linear_ss", "quadratic_ss", "block_diffusion", "prompt_lookup")
LONG = [5 + place * 7 % 200 for place in range(150)]
PROMPTS = ([3, 4, 5], [7], LONG)
OPTIONS: dict[str, Any] = {"max_new_tokens": 11, "eos": ()}


@dataclass
class Forced:
    """A processor that keeps AR's logits by position, and lets it say one text only."""

    text: list[int]
    logits: dict[int, Tensor] = field(default_factory=dict)

    def __call__(self, logits: Tensor, positions: Tensor) -> Tensor:
        assert positions.numel() == 1
        place = int(positions)
        self.logits[place] = logits[0, 0].clone()
        only = torch.full_like(logits, -math.inf)
        only[..., self.text[place]] = 0.0
        return only


def as_ar_has_them(decoder: Decoder, prompt: list[int], tokens: list[int], top: int) -> Any:
    """Return the log-probabilities of tokens by the logits that AR meets, one row a forward."""
    forced = Forced([*prompt, *tokens])
    options = {"strategy": "ar", "max_new_tokens": len(tokens), "eos": ()}
    assert decoder.generate([prompt], processors=forced, **options).tokens == [tokens]
    found = []
    for place, token in enumerate(tokens, len(prompt)):
        logits = forced.logits[place]
        dtype = torch.promote_types(logits.dtype, torch.float32)
        scores = logits.double().log_softmax(-1).to(dtype)
        best = logits.sort(descending=True, stable=True).indices.tolist()
        pairs = tuple((i, float(scores[i])) for i in best[:top])
        found.append(TokenLogprob(token, float(scores[token]), best[0] == token, pairs))
    return found


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_they_are_of_ar_s_own_logits_to_the_bit(decoder: Decoder, strategy: str) -> None:
    asked = [GenerateOptions(**OPTIONS, strategy=strategy, logprobs=top) for top in (2, 0, 5)]
    found = decoder.generate(PROMPTS, options=asked)
    for place, (prompt, top) in enumerate(zip(PROMPTS, (2, 0, 5), strict=True)):
        want = as_ar_has_them(decoder, list(prompt), found.tokens[place], top)
        assert found.logprobs[place] == want
    assert nothing_is_held(decoder.engine)


@pytest.mark.long
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("strategy", sorted(api.library()))
def test_they_are_of_ar_s_own_logits_in_every_strategy_and_dtype(
    strategy: str, dtype: str, tmp_path: Path
) -> None:
    names = sorted({strategy, "ar"})
    artifact = api.compile(names, tmp_path / "both", short_steps(strategy, 5), certify=False)
    decoder = api.load(artifact).from_checkpoint(None, dtype=dtype, device="cpu")
    prompts = [decoder.tokenizer.encode(text) for text in ("def f(", "import os\n" * 20)]
    options = {**OPTIONS, "strategy": strategy, "temperature": 0.7}
    found = decoder.generate(prompts, logprobs=2, **options)
    for prompt, tokens, known in zip(prompts, found.tokens, found.logprobs, strict=True):
        assert known == as_ar_has_them(decoder, prompt, tokens, 2)


def test_they_are_those_of_the_plain_model_in_float64(decoder: Decoder) -> None:
    assert decoder.folder is not None
    model = PlainBackbone.load(decoder.folder, torch.float64)
    ids = torch.tensor(LONG)
    rows = len(LONG)
    sees = torch.ones(rows, rows, dtype=torch.bool).tril()
    states = model.forward(model.embed(ids), torch.arange(rows), over(sees, torch.float64))
    want = model.head(states).log_softmax(-1)
    (found,) = decoder.score([LONG], top=1)
    assert found.tokens == tuple(LONG)
    assert found.logprobs[0] is None
    for place, each in enumerate(found.logprobs[1:], 1):
        assert each is not None
        assert each.token == LONG[place]
        assert each.logprob == pytest.approx(float(want[place - 1, LONG[place]]), abs=1e-9)
        assert each.top[0][1] == pytest.approx(float(want[place - 1].max()), abs=1e-9)
        assert each.greedy == (each.top[0][0] == each.token)
    given = [float(want[place - 1, LONG[place]]) for place in range(1, rows)]
    assert found.total == pytest.approx(math.fsum(given), abs=1e-7)
    assert not found.greedy


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_text_that_is_scored_has_what_it_had_when_it_was_decoded(
    decoder: Decoder, strategy: str
) -> None:
    options = {**OPTIONS, "strategy": strategy, "temperature": 0.9, "logprobs": 1}
    found = decoder.generate(PROMPTS, prompt_logprobs=1, **options)
    whole = [[*p, *t] for p, t in zip(PROMPTS, found.tokens, strict=True)]
    for each, prompt, tokens, before in zip(
        decoder.score(whole, top=1), PROMPTS, found.logprobs, found.prompt_logprobs, strict=True
    ):
        assert each.logprobs == (*before, *tokens)
        assert len(before) == len(prompt)
    tails = decoder.score(whole, top=1, from_token=[len(prompt) for prompt in PROMPTS])
    for each, prompt, tokens in zip(tails, PROMPTS, found.logprobs, strict=True):
        assert each.logprobs == (*[None] * len(prompt), *tokens)
        assert each.total == math.fsum(one.logprob for one in tokens)
        assert each.greedy == all(one.greedy for one in tokens)


def test_who_does_not_ask_gets_none_and_who_asks_gets_the_same_tokens(decoder: Decoder) -> None:
    for strategy in ("linear_ss", "block_diffusion"):
        options = {**OPTIONS, "strategy": strategy, "temperature": 0.8}
        without = decoder.generate(PROMPTS, **options)
        asked = decoder.generate(PROMPTS, logprobs=0, prompt_logprobs=0, **options)
        assert without.logprobs == without.prompt_logprobs == [[], [], []]
        assert asked.tokens == without.tokens
        assert [each.nfe for each in asked.stats] == [each.nfe for each in without.stats]
        assert [each.token for each in asked.logprobs[2]] == asked.tokens[2]


def test_events_carry_those_of_their_tokens_beside_requests_of_every_kind(
    decoder: Decoder, engine: Engine
) -> None:
    requests = [
        decoder.request(prompt, strategy=strategy, logprobs=place % 3, **OPTIONS)
        for place, strategy in enumerate(STRATEGIES)
        for prompt in PROMPTS[:2]
    ]
    requests += [decoder.request(prompt, strategy="linear_ss", **OPTIONS) for prompt in PROMPTS]
    requests += [decoder.request(LONG, prompt_logprobs=1, **OPTIONS)]
    for request in requests:
        engine.submit(request)
    events = run(engine)
    for request in requests:
        own = [event for event in events if event.id == request.id]
        if request.asked_logprobs.tokens is None:
            assert not any(event.logprobs for event in own)
        else:
            for event in own:
                assert tuple(each.token for each in event.logprobs) == event.tokens
            flat = [each for event in own for each in event.logprobs]
            alone = decoder.score([[*request.prompt, *request.tokens]], top=2)[0]
            behind = alone.logprobs[len(request.prompt) :]
            assert [(each.token, each.logprob) for each in flat] == [
                (each.token, each.logprob) for each in behind if each is not None
            ]
        told_of = [event.prompt_logprobs for event in own]
        assert told_of[0] == request.prompt_logprobs
        assert not any(told_of[1:])
    assert len(requests[-1].prompt_logprobs) == len(LONG)
    assert nothing_is_held(engine)


def test_they_stop_with_the_tokens(decoder: Decoder, engine: Engine) -> None:
    (whole,) = decoder.generate([[3, 4, 5]], max_new_tokens=24, eos=(), strategy="linear_ss").tokens
    end = whole[13]
    for more in ({"eos": end}, {"stop": decoder.tokenizer.decode(whole[9:11])}):
        request = decoder.request(
            [3, 4, 5], **{"max_new_tokens": 24, "strategy": "linear_ss", "logprobs": 0, **more}
        )
        engine.submit(request)
        events = run(engine)
        tokens, _, finish = told(events, request)
        assert finish in ("eos", "stop")
        assert len(tokens) < 24
        assert [each.token for event in events for each in event.logprobs] == tokens
        assert [each.token for each in request.logprobs] == tokens


def test_they_are_the_model_s_whatever_changes_its_choice(decoder: Decoder) -> None:
    @sees_tokens
    def odd(logits: Tensor, _positions: Tensor, _tokens: Tensor) -> Tensor:
        return logits.masked_fill(torch.arange(logits.shape[-1]) % 2 == 0, -math.inf)

    for strategy in ("ar", "quadratic_ss", "block_diffusion"):
        found = decoder.generate(
            [[3, 4]],
            processors=odd,
            max_thinking_tokens=3,
            end_think_token_id=9,
            temperature=1.3,
            top_k=4,
            strategy=strategy,
            logprobs=0,
            **OPTIONS,
        )
        assert found.tokens[0][3] == 9
        assert found.logprobs[0] == as_ar_has_them(decoder, [3, 4], found.tokens[0], 0)


def test_a_text_that_goes_from_strategy_to_strategy_has_them_throughout(decoder: Decoder) -> None:
    def turns(progress: Any) -> str:
        return ("ar", "linear_ss", "quadratic_ss")[len(progress.tokens) // 4 % 3]

    found = decoder.generate(
        [LONG], max_new_tokens=30, eos=(), strategy=turns, logprobs=0, temperature=1.0
    )
    assert found.logprobs[0] == as_ar_has_them(decoder, LONG, found.tokens[0], 0)


def test_prompts_of_embeddings_have_those_of_what_follows(decoder: Decoder) -> None:
    ids = LONG[:70]
    given = PromptEmbeddings(decoder.embed(ids))
    for strategy in ("ar", "linear_ss"):
        options = {**OPTIONS, "strategy": strategy, "logprobs": 1}
        want = decoder.generate([ids], **options)
        found = decoder.generate([given], **options)
        assert found.tokens == want.tokens
        assert found.logprobs == want.logprobs
    with pytest.raises(PromptError, match="prompt 0 holds embeddings, which have no log-prob"):
        decoder.generate([given], prompt_logprobs=0)
    with pytest.raises(PromptError, match="prompt 0 holds embeddings, which have no log-prob"):
        decoder.score([given])


def test_long_texts_in_pieces_have_the_same_bits(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    want = decoder.score([LONG, LONG[:64], [4]], top=3)
    monkeypatch.setattr(scores, "PIECE", 37)
    monkeypatch.setattr(measures, "HEAD_ROWS", 5)
    assert decoder.score([LONG, LONG[:64], [4]], top=3) == want
    monkeypatch.setattr(scores, "SCORED_AT_ONCE", 2)
    text = decoder.generate([LONG], strategy="quadratic_ss", logprobs=1, **OPTIONS)
    assert text.logprobs[0] == as_ar_has_them(decoder, LONG, text.tokens[0], 1)


def test_the_rows_of_a_prompt_that_is_scored_serve_its_prefill(
    decoder: Decoder, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = []
    through = type(decoder.model.backend).layer

    def counts(self: Any, number: int, states: Tensor, rows: Any) -> Tensor:
        if number == 0:
            computed.append(len(states))
        return through(self, number, states, rows)

    monkeypatch.setattr(type(decoder.model.backend), "layer", counts)
    one = {"max_new_tokens": 1, "eos": ()}
    engine.submit(decoder.request(LONG, prompt_logprobs=0, **one))
    run(engine)
    assert computed == [149, 22]  # all but the last; then what lies behind two pages
    del computed[:]
    engine.submit(decoder.request(LONG, logprobs=0, **one))
    run(engine)
    assert computed == [150, 21, 1]


def test_their_rows_see_what_a_compiled_kernel_of_ar_sees(tmp_path: Path) -> None:
    (kernel,) = api.compile("ar", tmp_path / "ar", certify=False).glob("kernel_*.py")
    own = Path(scores.__file__).parent.parent / "kernels" / "causal.py"
    assert own.read_text().startswith(kernel.read_text())


def test_of_equal_ones_the_lowest_id_is_the_likeliest() -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0, -math.inf, 0.0], [0.0, 0.0, 0.0, 0.0, 0.0]])

    class Head:
        def head(self, states: Tensor) -> Tensor:
            return logits[states[:, 0].long()].to(torch.bfloat16)

    total = math.log(math.e + 2 * math.e**3 + 1)
    states = torch.tensor([[0], [1], [0]])
    first, second, third = logprobs_of(Head(), states, [1, 4, 2], 3)  # type: ignore[arg-type]
    assert first.greedy
    assert not third.greedy
    assert first.logprob == third.logprob == pytest.approx(3 - total, abs=1e-6)
    assert [token for token, _ in first.top] == [1, 2, 0]
    assert [value for _, value in first.top] == pytest.approx([3 - total, 3 - total, 1 - total])
    assert second.top == tuple((place, pytest.approx(-math.log(5))) for place in range(3))
    (most,) = logprobs_of(Head(), states[:1], [3], 20)  # type: ignore[arg-type]
    assert most.logprob == -math.inf
    assert len(most.top) == 5


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"logprobs": 21}, "logprobs 21 is not allowed"),
        ({"logprobs": -1}, "logprobs -1 is not allowed"),
        ({"logprobs": True}, "logprobs True is not allowed"),
        ({"prompt_logprobs": 2.5}, "prompt_logprobs 2.5 is not allowed"),
        ({"prompt_logprobs_from": 2}, "prompt_logprobs_from 2 has no effect without"),
        ({"prompt_logprobs": 0, "prompt_logprobs_from": -1}, "prompt_logprobs_from -1"),
        ({"prompt_logprobs": 0, "prompt_logprobs_from": 4}, "lies behind the 3 tokens of prompt"),
        ({"max_new_tokens": 0, "logprobs": 0}, "max_new_tokens 0 is not allowed"),
        ({"max_new_tokens": -1, "prompt_logprobs": 0}, "max_new_tokens -1 is not allowed"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_in_words(
    decoder: Decoder, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(PromptError, match=said):
        decoder.request([3, 4, 5], **options)


def test_what_cannot_be_scored_is_refused_in_words(decoder: Decoder) -> None:
    for given, said in (
        ({"prompts": []}, "there is no prompt"),
        ({"prompts": [[3], []]}, "prompt 1 is empty"),
        ({"prompts": [[3, 260]]}, "prompt 0 holds the token id 260"),
        ({"prompts": [[3] * 513]}, "more than the model's context of 512"),
        ({"prompts": [[3, 4]], "top": 21}, "prompt_logprobs 21 is not allowed"),
        ({"prompts": [[3], [4]], "from_token": [1]}, "1 numbers from_token for 2 prompts"),
        ({"prompts": [[3]], "from_token": 1.5}, "from_token 1.5 is not allowed"),
        ({"prompts": [[3]], "from_token": 2}, "prompt_logprobs_from 2 lies behind the 1 tokens"),
    ):
        with pytest.raises(PromptError, match=said):
            decoder.score(**given)
    (text,) = decoder.score("ab")
    assert text.tokens == tuple(decoder.tokenizer.encode("ab"))


def test_a_prompt_may_be_scored_with_nothing_behind_it(decoder: Decoder, engine: Engine) -> None:
    request = decoder.request(LONG, max_new_tokens=0, prompt_logprobs=2)
    other = decoder.request([3], logprobs=1, **OPTIONS)
    engine.submit(other)
    engine.step()
    engine.submit(request)
    events = run(engine)
    (event,) = [event for event in events if event.id == request.id]
    assert (event.tokens, event.text, event.finish) == ((), "", "length")
    assert event.prompt_logprobs == decoder.score([LONG], top=2)[0].logprobs
    assert event.stats is not None
    assert event.stats.nfe == 0
    assert nothing_is_held(engine)


def test_room_for_them_is_kept_from_the_beginning(decoder: Decoder) -> None:
    page = decoder.engine.cache.page_bytes
    bounded = type(decoder).beside(decoder)
    bounded.kv_memory = 3 * page
    engine = bounded.new_engine()
    options = {"max_new_tokens": 31, "eos": (), "logprobs": 0}
    requests = [decoder.request([n, 5], **options) for n in (3, 4)]
    for request in requests:
        engine.submit(request)
    most = 0
    while not engine.idle:
        engine.step()
        most = max(most, engine.live)
    assert most == 1  # each may take a page, and two beside it
    assert [request.finish for request in requests] == ["length", "length"]
    assert nothing_is_held(engine)
    too_long = decoder.request([3] * 100, **options)
    fits = decoder.request([3] * 100, max_new_tokens=31, eos=())
    for request in (too_long, fits):
        engine.submit(request)
    run(engine)
    assert isinstance(too_long.error, OutOfMemoryError)
    assert fits.finish == "length"
    assert nothing_is_held(engine)


def test_a_request_that_is_cancelled_gives_both_its_places_back(
    decoder: Decoder, engine: Engine
) -> None:
    stays, leaves = (decoder.request([n, 5], logprobs=0, **OPTIONS) for n in (3, 4))
    for request in (stays, leaves):
        engine.submit(request)
    engine.step()
    engine.step()
    assert len(engine.cache.committed) == 4
    engine.cancel(leaves.id)
    assert len(engine.cache.committed) == 2
    run(engine)
    assert len(leaves.logprobs) == len(leaves.tokens) < 11
    assert nothing_is_held(engine)


def test_what_goes_wrong_with_them_ends_one_request_alone(
    decoder: Decoder, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [decoder.request([n, 5], logprobs=0, **OPTIONS) for n in (3, 4, 6)]
    want = decoder.generate([[n, 5] for n in (3, 4, 6)], logprobs=0, **OPTIONS)
    original = Scores._check

    def fails(self: Scores, request: Request, found: Any) -> None:
        if request is requests[1] and len(request.tokens) > 4:
            found = [TokenLogprob(3, math.nan, False)]
        original(self, request, found)

    monkeypatch.setattr(Scores, "_check", fails)
    for request in requests:
        engine.submit(request)
    run(engine)
    assert isinstance(requests[1].error, CheckpointError)
    assert "give no log-probabilities" in str(requests[1].error)
    assert requests[1].tokens == want.tokens[1][:5]
    for place in (0, 2):
        assert requests[place].tokens == want.tokens[place]
        assert requests[place].logprobs == want.logprobs[place]
    assert nothing_is_held(engine)


@pytest.mark.parametrize("name", ["_forward", "_check", "_caught_up", "score_prompt"])
def test_what_is_interrupted_is_done_again(
    decoder: Decoder, engine: Engine, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    options = {**OPTIONS, "strategy": "quadratic_ss", "logprobs": 1, "prompt_logprobs": 0}
    prompts = [[n, 5, *LONG[:64]] for n in (3, 4, 6)]
    want = decoder.generate(prompts, **options)
    original = getattr(Scores, name)
    calls = [0]

    def breaks(self: Scores, *values: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] in (2, 5, 12, 17):
            raise KeyboardInterrupt
        found = original(self, *values, **named)
        if calls[0] in (4, 8, 15, 23):
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(Scores, name, breaks)
    requests = [decoder.request(prompt, **options) for prompt in prompts]
    for request in requests:
        engine.submit(request)
    count = 0
    while not engine.idle:
        try:
            engine.step()
        except KeyboardInterrupt:
            count += 1
    assert count > 0
    assert [request.tokens for request in requests] == want.tokens
    assert [request.logprobs for request in requests] == want.logprobs
    assert [list(request.prompt_logprobs) for request in requests] == want.prompt_logprobs
    engine.step()
    assert nothing_is_held(engine)
