"""What goes wrong in one request ends that request, and no other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from by_itself import lone, nothing_is_held, run, told
from torch import Tensor

from nldc.runtime import CheckpointError, Decoder, Engine, Event, PromptError, Request
from nldc.runtime.engine.text import Text
from nldc.runtime.step.batch import Batch

OPTIONS: dict[str, Any] = {"max_new_tokens": 14, "eos": ()}


def raises_late(logits: Tensor, positions: Tensor) -> Tensor:
    if int(positions.max()) > 12:
        raise KeyError("late")
    return logits


def nothing_allowed(logits: Tensor, positions: Tensor) -> Tensor:
    return logits.masked_fill((positions > 9).unsqueeze(-1), -torch.inf)


def no_numbers(logits: Tensor, positions: Tensor) -> Tensor:
    return logits.masked_fill((positions > 9).unsqueeze(-1), torch.nan)


def of_another_shape(logits: Tensor, _positions: Tensor) -> Tensor:
    return logits[..., :-1]


def raising_chooser(progress: Any) -> str:
    if len(progress.tokens) > 5:
        raise ValueError("no idea")
    return "ar"


def nonsense(progress: Any) -> str:
    return "ar" if len(progress.tokens) < 5 else "no such strategy"


def no_way_back(progress: Any) -> str:
    return "ar" if len(progress.tokens) < 5 else "block_diffusion"


FAULTS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"processors": [raises_late]}, PromptError, "the processor `raises_late` fails: KeyError"),
    ({"processors": [of_another_shape]}, PromptError, "`of_another_shape` returned a tensor"),
    ({"processors": [nothing_allowed]}, PromptError, "the processors allow no token at all"),
    ({"processors": [no_numbers]}, CheckpointError, "are no numbers after"),
    ({"strategy": raising_chooser}, PromptError, "raising_chooser raised ValueError: no idea"),
    ({"strategy": nonsense}, PromptError, "the artifact has no strategy 'no such strategy'"),
]


@pytest.mark.parametrize("strategy", ["ar", "linear_ss", "quadratic_ss"])
@pytest.mark.parametrize(("fault", "kind", "said"), FAULTS, ids=lambda each: str(each)[:30])
def test_the_others_go_on_with_their_own_tokens(
    decoder: Decoder,
    engine: Engine,
    fault: dict[str, Any],
    kind: type[Exception],
    said: str,
    strategy: str,
) -> None:
    others = [
        decoder.request([n, 5], strategy=strategy, **OPTIONS, temperature=t, seed=n)
        for n, t in ((3, 0.0), (4, 1.0), (6, 0.0))
    ]
    broken = decoder.request([3, 5], **{"strategy": strategy, **OPTIONS, **fault})
    for request in (others[0], broken, *others[1:]):
        engine.submit(request)
    events = run(engine)
    tokens, text, finish = told(events, broken)
    assert finish == "error"
    assert isinstance(broken.error, kind)
    assert said in str(broken.error)
    assert events[[e.id for e in events].index(broken.id)].stats is None or not tokens
    want = lone(decoder, [3, 5], **{"strategy": strategy, **OPTIONS, "processors": ()})
    assert (tokens, text) == (want[0][: len(tokens)], want[1][: len(text)])
    for request in others:
        sampling = request.sampling
        want = lone(
            decoder,
            request.prompt,
            strategy=strategy,
            temperature=sampling.temperature,
            seed=sampling.seed,
            **OPTIONS,
        )
        assert told(events, request) == want
    assert nothing_is_held(engine)


def failing(monkeypatch: pytest.MonkeyPatch, doomed: Request, at: int) -> None:
    """Let every forward fail that has a part in one request from its so manieth token on."""
    forward = Batch.forward

    def watched(self: Batch, *values: Any, **named: Any) -> Any:
        if doomed.slot in self.slots and len(doomed.tokens) >= at and not doomed.done:
            raise RuntimeError("a kernel failed")
        return forward(self, *values, **named)

    monkeypatch.setattr(Batch, "forward", watched)


@pytest.mark.parametrize("at", [0, 1, 6])
@pytest.mark.parametrize("strategy", ["ar", "linear_ss", "quadratic_ss", "block_diffusion"])
def test_a_step_that_fails_for_one_is_done_again_for_the_others(
    decoder: Decoder, engine: Engine, monkeypatch: pytest.MonkeyPatch, strategy: str, at: int
) -> None:
    options: dict[str, Any] = {**OPTIONS, "strategy": strategy}
    want = {n: lone(decoder, [n, 5], **options) for n in (3, 4, 6)}
    nfe = {n: decoder.generate([[n, 5]], **options).stats[0] for n in (3, 6)}
    requests = {n: decoder.request([n, 5], **options) for n in (3, 4, 6)}
    for request in requests.values():
        engine.submit(request)
    failing(monkeypatch, requests[4], at)
    events = run(engine)
    assert str(requests[4].error) == "a kernel failed"
    tokens, _, finish = told(events, requests[4])
    assert finish == "error"
    assert tokens == want[4][0][: len(tokens)]
    for n in (3, 6):
        assert told(events, requests[n]) == want[n]
        assert requests[n].nfe == nfe[n].nfe
        assert requests[n].accepted == nfe[n].accepted
    assert nothing_is_held(engine)


def test_a_tokenizer_that_fails_ends_its_request_alone(
    decoder: Decoder, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    want = lone(decoder, [4, 5], **OPTIONS)
    broken, other = (decoder.request([n, 5], **OPTIONS) for n in (3, 4))
    feed = Text.feed

    def fails(self: Text, tokens: Any) -> Any:
        if self is broken.text and len(broken.tokens) > 3:
            raise UnicodeError("half a character")
        return feed(self, tokens)

    monkeypatch.setattr(Text, "feed", fails)
    engine.submit(broken)
    engine.submit(other)
    events = run(engine)
    assert isinstance(broken.error, UnicodeError)
    assert told(events, broken)[2] == "error"
    assert told(events, other) == want
    assert nothing_is_held(engine)


def test_a_listener_that_fails_ends_its_request_alone(decoder: Decoder, engine: Engine) -> None:
    def fails(event: Event) -> None:
        raise OSError(f"nobody reads {event.id}")

    broken, other = (decoder.request([n, 5], **OPTIONS) for n in (3, 4))
    engine.submit(broken, fails)
    engine.submit(other)
    events = run(engine)
    assert isinstance(broken.error, OSError)
    assert told(events, other) == lone(decoder, [4, 5], **OPTIONS)
    assert nothing_is_held(engine)


def test_a_call_raises_what_its_request_ends_with_and_gives_every_place_back(
    decoder: Decoder,
) -> None:
    long = {**OPTIONS, "max_new_tokens": 150}
    held = decoder.stream([4, 5], **long)
    first = next(held)
    for call in (
        lambda: decoder.generate([[3, 5], [4], [6]], processors=[raises_late], **OPTIONS),
        lambda: list(decoder.stream([3, 5], processors=[raises_late], **OPTIONS)),
        lambda: decoder.generate([[3, 5], [4]], strategy=nonsense, **OPTIONS),
    ):
        with pytest.raises(PromptError):
            call()
        assert decoder.engine.live == 1
        assert decoder.engine.waiting == 0
    assert first + "".join(held) == lone(decoder, [4, 5], **long)[1]
    assert nothing_is_held(decoder.engine)


def test_text_before_a_stop_string_is_whole_though_a_broken_token_would_follow(
    decoder: Decoder, engine: Engine
) -> None:
    options: dict[str, Any] = {**OPTIONS, "strategy": "linear_ss"}
    whole = lone(decoder, [3, 5], **options)
    end = decoder.tokenizer.decode(whole[0][:8])
    assert end
    request = decoder.request([3, 5], processors=[no_numbers], stop=end[-1], **options)
    engine.submit(request)
    tokens, text, finish = told(run(engine), request)
    want = lone(decoder, [3, 5], stop=end[-1], **options)
    if len(want[0]) <= 8:
        assert (tokens, text, finish) == want
