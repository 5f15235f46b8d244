"""Threads, interrupts, streams that nobody reads on: the engine stays whole, and holds nothing."""

from __future__ import annotations

import gc
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from by_itself import lone, nothing_is_held, run, told

from nldc.runtime import Decoder, Engine, NldcRuntimeError, Request
from nldc.runtime.cache.holdings import Holdings
from nldc.runtime.cache.kv_cache import KVCache
from nldc.runtime.engine import computing
from nldc.runtime.step.batch import Batch

OPTIONS: dict[str, Any] = {"max_new_tokens": 24, "eos": ()}


def together(*calls: Callable[[], None]) -> None:
    """Run calls in threads of their own, and raise what one of them raises."""
    problems: list[BaseException] = []

    def guarded(call: Callable[[], None]) -> None:
        try:
            call()
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=guarded, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    if problems:
        raise problems[0]


def test_threads_may_call_one_decoder_at_the_same_time(decoder: Decoder) -> None:
    asked: list[dict[str, Any]] = [
        {**OPTIONS, "strategy": name, "temperature": heat, "seed": seed}
        for seed, (name, heat) in enumerate(
            (("ar", 0.0), ("linear_ss", 1.0), ("quadratic_ss", 0.0), ("ar", 0.9))
        )
    ]
    prompts = [[3, 4, 5], [9], [7] * 30]
    want = [decoder.generate(prompts, **options) for options in asked]
    found: dict[int, Any] = {}

    def call(number: int) -> Callable[[], None]:
        def decode() -> None:
            for _ in range(2):
                result = decoder.generate(prompts, batch_size=2, **asked[number])
                streamed = "".join(decoder.stream(prompts[0], **asked[number]))
                assert streamed == result.text[0]
                found[number] = result

        return decode

    together(*map(call, range(len(asked))))
    for number, result in found.items():
        assert result.tokens == want[number].tokens
        assert result.text == want[number].text
        assert [s.nfe for s in result.stats] == [s.nfe for s in want[number].stats]
    assert len(found) == len(asked)
    assert nothing_is_held(decoder.engine)


def test_decoders_of_one_model_take_turns_on_its_device(decoder: Decoder) -> None:
    other = type(decoder).beside(decoder)
    want = decoder.generate([[3, 4]], **OPTIONS).tokens
    inside: list[int] = []
    most = [0]

    def counted(logits: torch.Tensor, _positions: torch.Tensor) -> torch.Tensor:
        inside.append(1)
        most[0] = max(most[0], len(inside))
        time.sleep(0.0005)
        inside.pop()
        return logits

    def decode(which: Decoder) -> Callable[[], None]:
        def call() -> None:
            assert which.generate([[3, 4]], processors=counted, **OPTIONS).tokens == want

        return call

    together(decode(decoder), decode(other), decode(decoder))
    assert most[0] == 1


def test_one_thread_s_steps_serve_another_that_waits(decoder: Decoder, engine: Engine) -> None:
    began, go_on = threading.Event(), threading.Event()

    def slow(logits: torch.Tensor, _positions: torch.Tensor) -> torch.Tensor:
        began.set()
        go_on.wait(10)
        return logits

    first = decoder.request([3], processors=slow, **OPTIONS)
    second = decoder.request([4], **OPTIONS)
    engine.submit(first)
    events: list[Any] = []

    def steps() -> None:
        while not engine.idle:
            events.extend(engine.step())

    def submits() -> None:
        began.wait(10)
        engine.submit(second)  # does not wait for the step
        assert engine.waiting == 1
        assert engine.cancel(first.id)  # neither does this
        assert not first.done
        go_on.set()
        while not second.done:
            time.sleep(0.001)

    together(steps, submits)
    assert first.finish == "cancelled"
    assert told(events, second) == lone(decoder, [4], **OPTIONS)
    assert nothing_is_held(engine)


def test_a_processor_may_decode_by_itself_but_not_step_its_engine(
    decoder: Decoder, engine: Engine
) -> None:
    want = lone(decoder, [5], **OPTIONS)
    found: list[Any] = []
    refused: list[bool] = []

    def nested(logits: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        if int(positions.max()) == 3:
            found.append(lone(decoder, [5], **OPTIONS))
            if engine.live:
                with pytest.raises(NldcRuntimeError, match="in the midst of a step"):
                    engine.step()
                refused.append(True)
        return logits

    options = {**OPTIONS, "max_new_tokens": 5}
    outer = decoder.generate([[3]], processors=nested, **options)
    request = decoder.request([3], processors=nested, **options)
    engine.submit(request)
    run(engine)
    assert found == [want, want]
    assert refused == [True]
    assert [request.tokens] == outer.tokens == decoder.generate([[3]], **options).tokens


def test_threads_that_decode_within_each_other_s_steps_do_not_wait_for_ever(
    decoder: Decoder,
) -> None:
    other = type(decoder).beside(decoder)
    want = decoder.generate([[5]], **OPTIONS).tokens

    def through(inner: Decoder) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        def nested(logits: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
            if int(positions.max()) % 5 == 0:
                assert inner.generate([[5]], **OPTIONS).tokens == want
            return logits

        return nested

    def decode(outer: Decoder, inner: Decoder) -> Callable[[], None]:
        def call() -> None:
            assert outer.generate([[5]], processors=through(inner), **OPTIONS).tokens == want

        return call

    together(decode(decoder, other), decode(other, decoder), decode(decoder, decoder))


# Streams


def test_a_stream_holds_nothing_before_it_is_read_and_after_it_is_closed(decoder: Decoder) -> None:
    stream = decoder.stream("hello", **OPTIONS)
    assert nothing_is_held(decoder.engine)
    next(stream)
    assert decoder.engine.live == 1
    stream.close()
    assert nothing_is_held(decoder.engine)


def test_a_stream_that_nobody_holds_gives_its_place_back_at_once(decoder: Decoder) -> None:
    stream: Iterator[str] | None = decoder.stream("hello", **OPTIONS)
    assert stream is not None
    next(stream)
    assert decoder.engine.live == 1
    gc.disable()  # at once means without being looked for
    try:
        stream = None
        assert nothing_is_held(decoder.engine)
    finally:
        gc.enable()
    assert stream is None


def test_a_stream_in_a_ring_of_garbage_ends_wherever_it_is_collected(decoder: Decoder) -> None:
    want = lone(decoder, [4], **OPTIONS)
    collected: list[bool] = []

    def collects(logits: torch.Tensor, _positions: torch.Tensor) -> torch.Tensor:
        collected.append(bool(gc.collect()))
        return logits

    ring: list[Any] = [decoder.stream("hello", **OPTIONS)]
    ring.append(ring)
    next(ring[0])
    gc.disable()
    try:
        del ring
        assert decoder.engine.live == 1
        assert lone(decoder, [4], processors=collects, **OPTIONS) == want
    finally:
        gc.enable()
    assert any(collected)
    assert nothing_is_held(decoder.engine)


def test_streams_and_calls_of_one_thread_go_on_beside_one_another(decoder: Decoder) -> None:
    first, second = (decoder.stream([n], **OPTIONS) for n in (3, 4))
    pieces: dict[str, list[str]] = {"first": [next(first)], "second": [next(second)]}
    result = decoder.generate([[5], [6]], **OPTIONS)
    assert result.tokens == [lone(decoder, [5], **OPTIONS)[0], decoder.generate(
        [[6]], sequence_ids=[1], **OPTIONS
    ).tokens[0]]  # fmt: skip
    pieces["first"] += first
    pieces["second"] += second
    assert "".join(pieces["first"]) == lone(decoder, [3], **OPTIONS)[1]
    assert "".join(pieces["second"]) == lone(decoder, [4], **OPTIONS)[1]


# Interrupts


def interrupted(
    engine: Engine, requests: list[Request], arm: Callable[[], None]
) -> tuple[list[Any], int]:
    """Run requests to their end through interrupts that `arm` brings about, and count these."""
    events, count = [], 0
    for request in requests:
        engine.submit(request)
    while not engine.idle:
        try:
            arm()
            events += engine.step()
        except KeyboardInterrupt:
            count += 1
    return [*events, *engine.step()], count


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (Batch, "forward"),
        (Batch, "head_choose"),
        (KVCache, "acquire"),
        (KVCache, "prepare"),
        (computing, "commit"),
    ],
)
@pytest.mark.parametrize("strategy", ["ar", "quadratic_ss"])
def test_an_interrupted_step_is_done_again(
    decoder: Decoder,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    strategy: str,
) -> None:
    options = {**OPTIONS, "strategy": strategy}
    want = {n: lone(decoder, [n, 5], **options) for n in (3, 4, 6)}
    original = getattr(owner, name)
    calls = [0]

    def breaks(*values: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] % 5 == 2:
            raise KeyboardInterrupt
        found = original(*values, **named)
        if calls[0] % 5 == 4 and name != "acquire":
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(owner, name, breaks)
    requests = {n: decoder.request([n, 5], **options) for n in (3, 4, 6)}
    events, count = interrupted(engine, list(requests.values()), lambda: None)
    assert count > 0
    for n, request in requests.items():
        assert told(events, request) == want[n]
    assert nothing_is_held(engine)


def test_what_is_interrupted_when_it_is_written_down_ends_with_an_error(
    decoder: Decoder, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**OPTIONS, "strategy": "linear_ss"}
    want = {n: lone(decoder, [n, 5], **options) for n in (3, 4, 6)}
    requests = {n: decoder.request([n, 5], **options) for n in (3, 4, 6)}
    add = Request.add

    def breaks(self: Request, tokens: Any) -> Any:
        found = add(self, tokens)
        if self is requests[4] and len(self.tokens) > 8:
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(Request, "add", breaks)
    events, count = interrupted(engine, list(requests.values()), lambda: None)
    assert count == 1
    assert told(events, requests[3]) == want[3]
    for n in (4, 6):  # after it in the batch, so that its step is lost as well
        tokens, _, finish = told(events, requests[n])
        assert finish == "error"
        assert "interrupted by KeyboardInterrupt" in str(requests[n].error)
        assert tokens == want[n][0][: len(tokens)]
    assert nothing_is_held(engine)


def test_an_interrupt_amid_the_cache_s_books_ends_what_has_begun_and_nothing_else(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = decoder.new_engine(max_live=3, keep_prefixes="1MiB")
    want = lone(decoder, [6, 5], **OPTIONS)
    short = decoder.request([3, 5], max_new_tokens=4, eos=())
    begun = [decoder.request([n, 5], **OPTIONS) for n in (4, 5)]
    waits = decoder.request([6, 5], **OPTIONS)
    shrink = Holdings._shrink
    strikes = [1]

    def breaks(self: Holdings) -> None:
        if strikes:
            strikes.pop()
            raise KeyboardInterrupt
        shrink(self)

    monkeypatch.setattr(Holdings, "_shrink", breaks)
    events, count = interrupted(engine, [short, *begun, waits], lambda: None)
    assert count == 1
    assert told(events, short)[2] in ("length", "error")
    for request in begun:
        tokens, _, finish = told(events, request)
        assert finish == "error"
        assert "interrupted by KeyboardInterrupt" in str(request.error)
        assert tokens == lone(decoder, request.prompt, **OPTIONS)[0][: len(tokens)]
    assert told(events, waits) == want
    for _ in range(2):
        engine.submit(decoder.request(list(range(3, 100)), max_new_tokens=2, eos=()))
        run(engine)
    assert engine.live == 0
    assert engine.cache.used == 1  # a whole page of the prompt is kept, as before


# One may strike while something is collected as garbage, where Python can only report it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs POSIX timers")
def test_interrupts_at_any_moment_leave_the_engine_usable_and_empty(
    decoder: Decoder, engine: Engine
) -> None:
    options = {**OPTIONS, "strategy": "linear_ss"}
    want = {n: lone(decoder, [n, 5], **options) for n in range(3, 9)}

    def strike(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, strike)
    count = 0
    try:
        for turn in range(12):
            requests = {n: decoder.request([n, 5], **options) for n in want}
            for request in requests.values():
                engine.submit(request)
            wait = 0.0007 * (1 + turn)
            while not engine.idle:
                try:
                    signal.setitimer(signal.ITIMER_REAL, wait)
                    while not engine.idle:
                        engine.step()
                    signal.setitimer(signal.ITIMER_REAL, 0)
                except KeyboardInterrupt:
                    count += 1
                    wait *= 1.5
            signal.setitimer(signal.ITIMER_REAL, 0)
            for n, request in requests.items():
                assert request.finish in ("length", "error")
                if request.finish == "length":
                    assert request.tokens == want[n][0]
            engine.step()
            assert nothing_is_held(engine)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert count > 5
    last = decoder.request([3, 5], **options)
    engine.submit(last)
    assert told(run(engine), last) == want[3]


def test_an_interrupted_call_gives_its_places_back(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = Batch.forward
    calls = [0]

    def breaks(self: Batch, *values: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] == 7:
            raise KeyboardInterrupt
        return forward(self, *values, **named)

    want = decoder.generate([[3], [4]], **OPTIONS).tokens
    monkeypatch.setattr(Batch, "forward", breaks)
    with pytest.raises(KeyboardInterrupt):
        decoder.generate([[3], [4]], **OPTIONS)
    assert nothing_is_held(decoder.engine)
    assert decoder.generate([[3], [4]], **OPTIONS).tokens == want
