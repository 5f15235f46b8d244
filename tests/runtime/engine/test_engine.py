"""Requests join and leave an engine between any two steps, each with options of its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from by_itself import lone, nothing_is_held, run, told

from nldc.runtime import (
    Decoder,
    Engine,
    Event,
    OutOfMemoryError,
    PromptEmbeddings,
    PromptError,
    QueueFullError,
)
from nldc.runtime.engine.engine import PREFILLS


def no_sevens(logits: torch.Tensor, _positions: torch.Tensor) -> torch.Tensor:
    logits[..., 7::10] = -torch.inf
    return logits


MIXED: list[dict[str, Any]] = [
    {"max_new_tokens": 12},
    {"max_new_tokens": 30, "temperature": 1.0, "seed": 5},
    {"max_new_tokens": 9, "temperature": 0.8, "top_p": 0.9, "seed": 2, "strategy": "linear_ss"},
    {"max_new_tokens": 25, "eos": (), "strategy": "quadratic_ss"},
    {"max_new_tokens": 40, "temperature": 1.0, "seed": 4, "stop": ["a", "\u00e9"]},
    {"max_new_tokens": 20, "processors": [no_sevens], "strategy": "prompt_lookup"},
    {"max_new_tokens": 14, "max_thinking_tokens": 3, "end_think_token_id": 9, "eos": ()},
    {"max_new_tokens": 17, "strategy": "block_diffusion", "temperature": 0.7, "seed": 8},
    {"max_new_tokens": 16, "eos": list(range(0, 260, 9)), "temperature": 1.2, "top_k": 40},
    {"max_new_tokens": 21, "skip_special_tokens": False, "priority": 3, "min_p": 0.02},
]
PROMPTS: list[Any] = ["hello", [5, 7, 9], [3] * 20, "a", [200, 100, 100], [4], "bcd", [8, 8], [9]]


def test_options_of_every_kind_share_a_batch_and_each_gives_what_it_gives_alone(
    decoder: Decoder, engine: Engine
) -> None:
    asked = [(PROMPTS[n % len(PROMPTS)], options) for n, options in enumerate(MIXED)]
    requests = [decoder.request(prompt, **options) for prompt, options in asked]
    for request in requests:
        engine.submit(request)
    events = run(engine)
    for request, (prompt, options) in zip(requests, asked, strict=True):
        assert told(events, request) == lone(decoder, prompt, **options), options
        assert request.tokens == told(events, request)[0]
    assert {request.strategy for request in requests} >= {"ar", "linear_ss", "quadratic_ss"}
    assert nothing_is_held(engine)


@pytest.mark.parametrize("gap", [1, 2, 3])
def test_requests_join_between_any_two_steps(decoder: Decoder, engine: Engine, gap: int) -> None:
    waiting = [(PROMPTS[n % len(PROMPTS)], options) for n, options in enumerate(MIXED * 2)]
    requests, events, most = [], [], 0
    for prompt, options in waiting:
        requests.append(decoder.request(prompt, **options))
        engine.submit(requests[-1])
        for _ in range(gap):
            events += engine.step()
            most = max(most, engine.live)
    events += run(engine)
    assert 1 < most < len(waiting)
    for request, (prompt, options) in zip(requests, waiting, strict=True):
        assert told(events, request) == lone(decoder, prompt, **options)
    assert nothing_is_held(engine)


def test_prompts_as_embeddings_share_a_batch_with_others(decoder: Decoder, engine: Engine) -> None:
    rows = torch.randn(4, decoder.config.hidden_size, generator=torch.Generator().manual_seed(1))
    prompts = [PromptEmbeddings(rows), [5, 6], PromptEmbeddings(decoder.embed([5, 6]), [5, 6])]
    requests = [decoder.request(prompt, max_new_tokens=15, eos=()) for prompt in prompts]
    for request in requests:
        engine.submit(request)
    events = run(engine)
    for prompt, request in zip(prompts, requests, strict=True):
        assert told(events, request) == lone(decoder, prompt, max_new_tokens=15, eos=())
    assert requests[1].tokens == requests[2].tokens


def test_sequences_are_handed_over_beside_others(decoder: Decoder, engine: Engine) -> None:
    def by_turns(progress: Any) -> str:
        return ("ar", "linear_ss", "quadratic_ss")[progress.cycles % 3]

    first = decoder.request([5, 7, 9], max_new_tokens=24, eos=(), strategy=by_turns)
    other = decoder.request([4, 4], max_new_tokens=24, eos=(), strategy="linear_ss")
    engine.submit(first)
    engine.submit(other)
    events = run(engine)
    assert told(events, first) == lone(decoder, [5, 7, 9], max_new_tokens=24, eos=())
    assert told(events, other) == lone(decoder, [4, 4], max_new_tokens=24, eos=())
    assert nothing_is_held(engine)


def test_text_in_events_is_never_taken_back(decoder: Decoder, engine: Engine) -> None:
    options: dict[str, Any] = {"max_new_tokens": 60, "temperature": 1.0, "seed": 4}
    whole = lone(decoder, "hello", **options)[1]
    for length in (1, 2, 3):
        stop = whole[5 : 5 + length]
        request = decoder.request("hello", stop=stop, **options)
        engine.submit(request)
        shown, tokens = "", 0
        for event in run(engine):
            shown += event.text
            tokens += len(event.tokens)
            assert whole[: whole.index(stop)].startswith(shown)
        assert shown == whole[: whole.index(stop)]
        assert request.finish == "stop"
        assert tokens == len(request.tokens) == request.stats().tokens


# Cancelling


def test_what_is_cancelled_while_it_waits_never_begins(decoder: Decoder) -> None:
    engine = decoder.new_engine(max_live=1)
    first, second, third = (decoder.request([n], max_new_tokens=6, eos=()) for n in (3, 4, 5))
    for request in (first, second, third):
        engine.submit(request)
    events = engine.step()
    assert (engine.live, engine.waiting) == (1, 2)
    assert engine.cancel(second.id)
    assert (engine.live, engine.waiting) == (1, 1)
    assert not engine.cancel(second.id)
    events += run(engine)
    assert told(events, second) == ([], "", "cancelled")
    assert second.nfe == 0
    for request in (first, third):
        assert told(events, request) == lone(decoder, request.prompt, max_new_tokens=6, eos=())
    assert nothing_is_held(engine)


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("strategy", ["ar", "linear_ss"])
def test_what_is_cancelled_when_it_has_begun_gives_its_pages_back_at_once(
    decoder: Decoder, engine: Engine, steps: int, strategy: str
) -> None:
    options: dict[str, Any] = {"max_new_tokens": 40, "eos": (), "strategy": strategy}
    gone, stays = (decoder.request([n], **options) for n in (3, 4))
    engine.submit(gone)
    engine.submit(stays)
    events: list[Event] = []
    for _ in range(steps):
        events += engine.step()
    held = engine.cache.used
    assert engine.cancel(gone.id)
    assert engine.live == 1
    assert engine.cache.used < held
    assert gone.finish == "cancelled"
    events += run(engine)
    tokens, text, finish = told(events, gone)
    want = lone(decoder, [3], **options)
    assert finish == "cancelled"
    assert 0 < len(tokens) < 40
    assert (tokens, text) == (want[0][: len(tokens)], want[1][: len(text)])
    assert told(events, stays) == lone(decoder, [4], **options)
    assert nothing_is_held(engine)
    assert not engine.cancel(gone.id)


def test_nobody_else_s_tokens_change_where_the_middle_of_a_batch_is_cancelled(
    decoder: Decoder, engine: Engine
) -> None:
    options: dict[str, Any] = {"max_new_tokens": 20, "eos": (), "strategy": "quadratic_ss"}
    requests = [decoder.request([n, 5], **options) for n in range(3, 9)]
    for request in requests:
        engine.submit(request)
    events = engine.step()
    for request in (requests[2], requests[3], requests[0]):
        events += engine.step()
        engine.cancel(request.id)
    events += run(engine)
    for request in (requests[1], requests[4], requests[5]):
        assert told(events, request) == lone(decoder, request.prompt, **options)


# The queue


def with_pages(decoder: Decoder, pages: int) -> Engine:
    """Return an engine whose cache has memory for so many pages."""
    memory = pages * decoder.engine.cache.page_bytes
    other = type(decoder)(
        decoder.model.backbone,
        adapters=decoder.model.adapters,
        folder=decoder.folder,
        kv_memory=memory,
    )
    return other.new_engine()


def test_a_full_queue_says_so_with_its_numbers(decoder: Decoder) -> None:
    engine = decoder.new_engine(max_live=2, max_queue=3)
    requests = [decoder.request([n], max_new_tokens=4, eos=()) for n in range(3, 10)]
    for request in requests[:3]:
        engine.submit(request)
    with pytest.raises(QueueFullError, match="3 requests wait, of at most 3, and 0 are being"):
        engine.submit(requests[3])
    events = engine.step()
    for request in requests[3:5]:
        engine.submit(request)
    with pytest.raises(QueueFullError, match="3 requests wait, of at most 3, and 2 are being"):
        engine.submit(requests[5])
    engine.cancel(requests[4].id)
    engine.submit(requests[5])
    events += run(engine)
    for request in (*requests[:4], requests[5]):
        assert told(events, request) == lone(decoder, request.prompt, max_new_tokens=4, eos=())


def test_the_highest_priority_begins_first_and_then_who_came_first(decoder: Decoder) -> None:
    engine = decoder.new_engine(max_live=1)
    priorities = [0, 5, -1, 5, 0, 7]
    requests = [
        decoder.request([3 + n], max_new_tokens=2, eos=(), priority=priority)
        for n, priority in enumerate(priorities)
    ]
    for request in requests:
        engine.submit(request)
    ended = [event.id for event in run(engine) if event.finish]
    assert ended == [requests[n].id for n in (5, 1, 3, 0, 4, 2)]


def test_no_more_are_live_than_allowed(decoder: Decoder) -> None:
    engine = decoder.new_engine(max_live=3)
    for n in range(8):
        engine.submit(decoder.request([3 + n], max_new_tokens=3 + n, eos=()))
    most = 0
    while not engine.idle:
        engine.step()
        most = max(most, engine.live)
    assert most == 3


def test_a_live_sequence_is_stepped_however_many_arrive(decoder: Decoder, engine: Engine) -> None:
    first = decoder.request([3], max_new_tokens=10, eos=())
    engine.submit(first)
    for number in range(40):
        engine.submit(decoder.request([4 + number], max_new_tokens=10, eos=()))
        engine.step()
        if first.done:
            break
    assert number < 21
    run(engine)


def test_what_arrives_holds_up_what_is_live_for_a_few_prefills_only(
    decoder: Decoder, engine: Engine
) -> None:
    first = decoder.request([3], max_new_tokens=10, eos=())
    engine.submit(first)
    engine.step()
    for number in range(30):
        engine.submit(decoder.request([4 + number], max_new_tokens=10, eos=()))
    engine.step()  # steps, as the last one prefilled
    engine.step()
    assert engine.live == 1 + PREFILLS
    engine.step()
    assert len(first.tokens) == 3
    run(engine)


def test_memory_bounds_what_is_live_and_the_others_wait(decoder: Decoder) -> None:
    small = with_pages(decoder, 5)
    requests = [decoder.request([n] * 20, max_new_tokens=20, eos=()) for n in range(3, 10)]
    for request in requests:
        small.submit(request)
    events, most = [], 0
    while not small.idle:
        events += small.step()
        most = max(most, small.live)
        assert small.cache.used <= 5
    assert 1 <= most < len(requests)
    for request in requests:
        want = lone(decoder, request.prompt, max_new_tokens=20, eos=())
        assert told(events, request) == want
    assert nothing_is_held(small)


def test_a_prompt_that_can_never_fit_ends_alone_and_at_once(decoder: Decoder) -> None:
    engine = with_pages(decoder, 3)
    fits = [decoder.request([n], max_new_tokens=8, eos=()) for n in (3, 4)]
    large = decoder.request([5] * 300, max_new_tokens=8, eos=())
    for request in (fits[0], large, fits[1]):
        engine.submit(request)
    events = engine.step()
    assert large.finish == "error"
    events += run(engine)
    assert isinstance(large.error, OutOfMemoryError)
    assert "bytes" in large.error.message
    for request in fits:
        assert told(events, request) == lone(decoder, request.prompt, max_new_tokens=8, eos=())
    assert nothing_is_held(engine)


def test_a_request_is_decoded_once(decoder: Decoder, engine: Engine) -> None:
    request = decoder.request([3], max_new_tokens=2)
    engine.submit(request)
    with pytest.raises(PromptError, match="was submitted before"):
        engine.submit(request)
    run(engine)
    with pytest.raises(PromptError, match="was submitted before"):
        engine.submit(request)


@pytest.mark.parametrize(
    ("name", "value"), [("max_live", 0), ("max_live", 1.5), ("max_queue", 0), ("max_queue", "2")]
)
def test_bounds_of_an_engine_are_refused_in_words(decoder: Decoder, name: str, value: Any) -> None:
    with pytest.raises(PromptError, match=f"{name} .* is not allowed"):
        decoder.new_engine(**{name: value})
