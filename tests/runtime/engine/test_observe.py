"""Observers are told of every step, in numbers that add up to the requests' own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from by_itself import lone, nothing_is_held, run, told

from nldc.runtime import Decoder, Engine, PromptError, StepRecord
from nldc.runtime.engine import ledger

OPTIONS: dict[str, Any] = {"max_new_tokens": 20, "eos": ()}


def test_records_add_up_to_what_the_requests_cost(decoder: Decoder) -> None:
    records: list[StepRecord] = []
    engine = decoder.new_engine(max_live=3, observer=records.append)
    names = ("ar", "linear_ss", "quadratic_ss", "block_diffusion", "ar")
    requests = [
        decoder.request([n, 5], strategy=name, **OPTIONS) for n, name in enumerate(names, 3)
    ]
    for request in requests:
        engine.submit(request)
    run(engine)
    assert [record.number for record in records] == list(range(len(records)))
    for request in requests:
        mine = [(r, s) for r in records for s in r.sequences if s.id == request.id]
        assert [record.kind for record, _ in mine] == ["prefill"] + ["step"] * (len(mine) - 1)
        assert {record.strategy for record, _ in mine} == {request.strategy}
        assert sum(part.nfe for _, part in mine) == request.nfe
        assert [part.accepted for _, part in mine[1:]] == request.accepted
        assert all(0 <= part.accepted <= part.drafted for _, part in mine)
        assert sum(part.accepted for _, part in mine) >= len(request.tokens)
        if request.strategy in ("ar", "linear_ss"):
            assert sum(part.kept for _, part in mine[1:]) == sum(request.accepted)
    assert max(record.live for record in records) == 3
    assert max(record.waiting for record in records if record.kind == "step") == 2
    assert records[-1].waiting == 0
    assert max(record.pages for record in records) >= 3
    assert all(record.seconds > 0 for record in records)
    assert records[0].ids == (requests[0].id,)


def test_forwards_are_told_by_the_names_of_nodes(decoder: Decoder) -> None:
    records: list[StepRecord] = []
    engine = decoder.new_engine(observer=records.append)
    names = ("linear_ss", "block_diffusion")
    for name in names:
        engine.submit(decoder.request([3, 5], strategy=name, **OPTIONS))
    run(engine)
    told_of = {
        (record.kind, record.strategy): part.forwards
        for record in records
        for part in record.sequences
    }
    assert told_of["prefill", "linear_ss"] == {"prefill.context": 1}
    assert told_of["step", "linear_ss"] == {"step.drafted.seen": 1, "step.checked": 1}
    rounds = told_of["step", "block_diffusion"]
    assert set(rounds) == {"step.filled.seen", "step.refresh"}
    assert rounds["step.filled.seen"] >= 1
    steps = [s for r in records if r.kind == "step" for s in r.sequences]
    assert all(sum(step.forwards.values()) == step.nfe for step in steps)


def test_who_wants_no_nodes_is_told_the_rest_and_changes_no_step(decoder: Decoder) -> None:
    def told_to(*, by_node: bool) -> tuple[list[StepRecord], list[bool]]:
        class Observer(list[StepRecord]):
            def __call__(self, record: StepRecord) -> None:
                self.append(replace(record, seconds=0.0))

        observer, watched = Observer(), []
        observer.by_node = by_node  # type: ignore[attr-defined]
        engine = decoder.new_engine(observer=observer)
        engine.submit(decoder.request([3, 5], strategy="linear_ss", **OPTIONS))
        while not engine.idle:
            engine.step()
            watched.append(engine._ledger.watches)
        return observer, watched

    counted, plain = told_to(by_node=True), told_to(by_node=False)
    assert all(counted[1])
    assert not any(plain[1])
    assert all(part.forwards for record in counted[0] for part in record.sequences)
    assert plain[0] == [
        replace(record, sequences=tuple(replace(part, forwards={}) for part in record.sequences))
        for record in counted[0]
    ]


def test_a_call_s_callback_hears_of_the_call_s_own_steps(decoder: Decoder) -> None:
    records: list[StepRecord] = []
    other = decoder.stream([9], **OPTIONS)
    next(other)
    result = decoder.generate(
        [[3], [4]], strategy="linear_ss", on_step=records.append, batch_size=1, **OPTIONS
    )
    assert {record.strategy for record in records} == {"linear_ss"}
    assert sum(part.nfe for record in records for part in record.sequences) == sum(
        stats.nfe for stats in result.stats
    )
    heard: list[StepRecord] = []
    text = "".join(decoder.stream([5], on_step=heard.append, **OPTIONS))
    assert text == lone(decoder, [5], **OPTIONS)[1]
    assert len(heard) == 20
    other.close()
    count = len(heard)
    decoder.generate([[3]], **OPTIONS)
    assert len(heard) == count


def test_a_callback_that_raises_ends_its_call_alone(decoder: Decoder) -> None:
    def enough(record: StepRecord) -> None:
        if record.kind == "step":
            raise StopAsyncIteration

    other = decoder.stream([9], **OPTIONS)
    first = next(other)
    with pytest.raises(StopAsyncIteration):
        decoder.generate([[3], [4]], on_step=enough, **OPTIONS)
    assert decoder.engine.live == 1
    assert first + "".join(other) == lone(decoder, [9], **OPTIONS)[1]
    assert nothing_is_held(decoder.engine)


def test_an_observer_that_raises_costs_no_token(decoder: Decoder, engine: Engine) -> None:
    def fails(record: StepRecord) -> None:
        raise OSError(f"step {record.number}")

    engine.observe(fails)
    request = decoder.request([3], **OPTIONS)
    engine.submit(request)
    events: list[Any] = []
    raised = 0
    while not engine.idle:
        try:
            events += engine.step()
        except OSError:
            raised += 1
    assert raised == 20
    engine.ignore(fails)
    events += engine.step()
    assert told(events, request) == lone(decoder, [3], **OPTIONS)


def test_nothing_is_recorded_where_nobody_observes(
    decoder: Decoder, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(ledger, "StepRecord", never)
    monkeypatch.setattr(ledger, "SequenceStep", never)
    request = decoder.request([3], **OPTIONS)
    engine.submit(request)
    assert told(run(engine), request) == lone(decoder, [3], **OPTIONS)


def test_a_callback_hears_of_steps_that_another_call_took(decoder: Decoder) -> None:
    heard: list[StepRecord] = []
    stream = decoder.stream([3, 4], on_step=heard.append, max_new_tokens=8, eos=())
    first = next(stream)
    decoder.generate([[5, 6]], max_new_tokens=20, eos=())
    assert first + "".join(stream) == lone(decoder, [3, 4], max_new_tokens=8, eos=())[1]
    assert sum(part.accepted for record in heard for part in record.sequences) >= 8
    assert [record.kind for record in heard].count("prefill") == 1


@pytest.mark.parametrize("observer", [5, "print"])
def test_what_is_no_observer_is_refused_before_anything_is_decoded(
    decoder: Decoder, observer: Any
) -> None:
    with pytest.raises(PromptError, match="cannot be called"):
        decoder.generate([[3]], on_step=observer, **OPTIONS)
    with pytest.raises(PromptError, match="cannot be called"):
        decoder.new_engine(observer=observer)
    with pytest.raises(PromptError, match="is no request"):
        decoder.new_engine().submit(observer)
    assert nothing_is_held(decoder.engine)
