"""The next step is replayed before the tokens of one are read, and nobody can tell from the tokens.

All of it on a device that does nothing before it must (`delayed`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from random_model import random_checkpoint

from nldc import api
from nldc.runtime import Decoder, Engine, Request
from nldc.runtime.cache.kv_cache import KVCache
from nldc.runtime.engine.strategy import Room
from nldc.runtime.graph.key import FIRST_KEYS
from nldc.runtime.graph.recorder import Recorder
from nldc.runtime.graph.step_graphs import StepGraphs
from nldc.runtime.step.host import Copy
from nldc.runtime.step.record import Record
from nldc.runtime.step.state import StepState
from tests.runtime.graph.delayed import NOT_YET, Delayed, Line, late_copies
from tests.runtime.graph.emulator import Emulator, Tape
from tests.runtime.graph.table_attention import TableBackend
from tests.runtime.paged import scatter_pages

STRAIGHT = ("ar", "linear_ss", "quadratic_ss", "prompt_lookup")
LOOPED = ("block_diffusion", "token_editing")
LONG = [7, 9, 11] * 20  # 60 tokens: the first page ends within the answer
SAMPLED: dict[str, Any] = {"temperature": 0.9, "seed": 11}


def long(*values: Any) -> list[Any]:
    """Return values of a parameter that take longer than the default suite may."""
    return [pytest.param(*([one] if not isinstance(one, tuple) else one), marks=pytest.mark.long)
            for one in values]  # fmt: skip


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    """Return a decoder of several strategies, on attention that can be captured."""
    root = tmp_path_factory.mktemp("overlap")
    names = [*STRAIGHT, *LOOPED, "concurrency_router"]
    artifact = api.compile(names, root / "several", {"block_length": 3}, certify=False)
    model = random_checkpoint(root / "model", num_hidden_layers=1, text=True)
    made = api.load(artifact).from_checkpoint(model, dtype="float64", device="cpu")
    made.model = replace(made.model, backend=TableBackend(made.model.backbone))
    return made


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what records for a device that does its work late."""
    made = Delayed()
    with late_copies(made.line, monkeypatch):
        yield made


def engine_of(decoder: Decoder, recorder: Recorder | None, **more: Any) -> Engine:
    room = Room(decoder.PROMPT_ROWS, decoder.TOKEN_ROWS, decoder.SCRATCH_ROWS)
    return Engine(decoder.strategies(), decoder.model, room, recorder=recorder, **more)


@dataclass(frozen=True)
class Asked:
    """A request: when it comes, and when it goes by itself (None: at its end)."""

    prompt: Sequence[int]
    tokens: int = 12
    after: int = 0
    leaves: int | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def request(self, decoder: Decoder, number: int) -> Request:
        """Return it as the so-many-th of a run."""
        ways = {"eos": (), "max_new_tokens": self.tokens, "sequence_id": number}
        return decoder.request(self.prompt, **{**ways, **self.options})


@dataclass
class Heard:
    """What came of a request: its news in order, what it cost, and what its tokens are."""

    news: list[Any]
    tokens: list[int]
    nfe: int
    accepted: list[int]


def run(
    decoder: Decoder,
    engine: Engine,
    asked: Sequence[Asked],
    between: Callable[[int, Engine], None] = lambda *_: None,
) -> list[Heard]:
    """Decode requests that come and go at given steps; return what came of each."""
    requests = [one.request(decoder, number) for number, one in enumerate(asked)]
    news = defaultdict[int, list[Any]](list)
    step = 0
    while step == 0 or not engine.idle or any(request.id < 0 for request in requests):
        for one, request in zip(asked, requests, strict=True):
            if one.after == step:
                engine.submit(request)
            if one.leaves == step:
                engine.cancel(request.id)
        between(step, engine)
        for event in engine.step():
            error = None if event.error is None else str(event.error)
            told = (event.tokens, event.logprobs, event.text, event.finish, error)
            news[event.id].append(told)
        step += 1
    assert engine._steps._begun is None
    assert not engine.cache.committed
    assert engine.cache.used == 0
    return [Heard(news[one.id], list(one.tokens), one.nfe, list(one.accepted)) for one in requests]


def same(decoder: Decoder, recorder: Delayed, asked: Sequence[Asked], **more: Any) -> StepGraphs:
    """Hold what is heard of steps that overlap against what is of steps that are launched."""
    wanted = run(decoder, engine_of(decoder, None), asked, **more)
    engine = engine_of(decoder, recorder)
    assert run(decoder, engine, asked, **more) == wanted
    return engine.graphs


def of(strategy: str, asked: Sequence[Asked]) -> list[Asked]:
    """Return requests as ones of a strategy."""
    return [replace(one, options={**one.options, "strategy": strategy}) for one in asked]


COMING_AND_GOING = (
    Asked(LONG, 24),
    Asked([3], 19, after=3),
    Asked([4, 5], 20, after=3, options=SAMPLED),
)


@pytest.mark.parametrize("strategy", ["linear_ss", *long("ar", "quadratic_ss", "prompt_lookup")])
def test_requests_that_join_and_end_hear_what_they_hear_without(
    decoder: Decoder, recorder: Delayed, strategy: str
) -> None:
    graphs = same(decoder, recorder, of(strategy, [*COMING_AND_GOING, Asked(LONG, 25, after=9)]))
    assert graphs.overlapped >= 4
    assert recorder.line.longest >= 6  # two steps, each with what it carried and its copy
    assert graphs.wasted <= 4


@pytest.mark.parametrize("strategy", ["block_diffusion", *long("token_editing")])
def test_a_loop_goes_ahead_up_to_where_the_host_must_read_and_alone(
    decoder: Decoder, recorder: Delayed, strategy: str
) -> None:
    graphs = same(decoder, recorder, of(strategy, [Asked(LONG, 30)]))
    assert graphs.overlapped >= 3
    alone = graphs.overlapped
    graphs = same(decoder, recorder, of(strategy, [Asked(LONG, 30), Asked([3, 4], 30)]))
    assert graphs.overlapped < alone
    assert graphs.wasted == 0


def test_a_call_gives_the_tokens_of_one_step_and_no_more(
    decoder: Decoder, recorder: Delayed
) -> None:
    engine = engine_of(decoder, recorder)
    for number in range(2):
        engine.submit(Asked([number, 5], 20).request(decoder, number))
    engine.step()
    for _ in range(19):
        assert [len(event.tokens) for event in engine.step()] == [1, 1]
    assert engine.idle
    assert engine.graphs.overlapped == engine.graphs.replays - 1
    assert engine.graphs.wasted == 0  # that the last token is the last was known


def test_who_ends_in_a_step_is_in_the_next_and_nothing_is_made_of_it(
    decoder: Decoder, recorder: Delayed
) -> None:
    free = run(decoder, engine_of(decoder, None), of("linear_ss", [Asked([n], 40) for n in (3, 4)]))
    ends = {"eos": (free[0].tokens[12],), "strategy": "linear_ss"}
    asked = [Asked([3], 40, options=ends), *of("linear_ss", [Asked([4], 40)])]
    asked[1] = replace(asked[1], options={**asked[1].options, "sequence_id": 1})
    graphs = same(decoder, recorder, asked)
    assert graphs.wasted == 1
    assert graphs.overlapped >= 4


@pytest.mark.long
def test_a_lone_sequence_that_ends_leaves_nothing_behind(
    decoder: Decoder, recorder: Delayed
) -> None:
    (free,) = run(decoder, engine_of(decoder, None), [Asked([3], 30)])
    ends = Asked([3], 30, options={"eos": (free.tokens[9],)})
    graphs = same(decoder, recorder, [ends, replace(ends, after=15), replace(ends, after=30)])
    assert graphs.wasted <= 3
    assert recorder.line.longest >= 6


@pytest.mark.long
def test_stop_strings_are_found_a_step_late_and_change_nothing(
    decoder: Decoder, recorder: Delayed
) -> None:
    (free,) = run(decoder, engine_of(decoder, None), [Asked([3], 30)])
    texts = [text for _, _, text, _, _ in free.news if text]
    stop = Asked([3], 30, options={"stop": [texts[8]]})
    graphs = same(decoder, recorder, [stop, Asked([8, 9], 30)])
    assert graphs.overlapped >= 4
    assert graphs.wasted == 1


def test_a_place_is_free_when_cancel_returns_and_whoever_takes_it_is_none_the_wiser(
    decoder: Decoder, recorder: Delayed
) -> None:
    wanted = run(
        decoder, engine_of(decoder, None), [Asked([3], 24), Asked([4], 24), Asked(LONG, 12)]
    )
    engine = engine_of(decoder, recorder)
    requests = [Asked([3], 24).request(decoder, 0), Asked([4], 24).request(decoder, 1)]
    for request in requests:
        engine.submit(request)
    for _ in range(8):
        engine.step()
    assert engine._steps._begun is not None
    slot, had = requests[0].slot, len(requests[0].tokens)
    assert engine.cancel(requests[0].id)
    assert slot not in engine.cache.committed
    late = Asked(LONG, 12).request(decoder, 2)
    engine.submit(late)
    events = engine.step()
    assert late.slot == slot  # while what was begun with the other one in it was written down
    assert {event.id for event in events} == {request.id for request in (*requests, late)}
    while not engine.idle:
        engine.step()
    assert requests[0].tokens == wanted[0].tokens[:had]
    assert requests[0].nfe == had
    assert requests[1].tokens == wanted[1].tokens
    assert late.tokens == wanted[2].tokens
    assert engine.graphs.wasted == 1


@pytest.mark.long
def test_cancelling_all_lets_go_of_what_was_begun(decoder: Decoder, recorder: Delayed) -> None:
    engine = engine_of(decoder, recorder)
    request = Asked([3], 24).request(decoder, 0)
    engine.submit(request)
    for _ in range(8):
        engine.step()
    engine.cancel(request.id)
    assert engine.idle
    assert engine._steps._begun is None
    assert engine.cache.used == 0
    assert recorder.line.waiting  # the device goes on, and nobody waits for it
    assert run(decoder, engine, [Asked([3], 24)]) == run(
        decoder, engine_of(decoder, None), [Asked([3], 24)]
    )


def test_a_request_that_comes_begins_in_the_call_that_writes_down_the_step_on_its_way(
    decoder: Decoder, recorder: Delayed
) -> None:
    engine = engine_of(decoder, recorder)
    first, second = (Asked([n], 24).request(decoder, n) for n in (3, 4))
    engine.submit(first)
    for _ in range(8):
        engine.step()
    engine.submit(second)
    assert [event.id for event in engine.step()] == [first.id, second.id]
    assert [event.id for event in engine.step()] == [first.id, second.id]


@pytest.mark.long
def test_those_who_wait_for_room_keep_nobody_from_going_ahead(
    decoder: Decoder, recorder: Delayed
) -> None:
    asked = [Asked([n, 5], 16) for n in range(3)]
    wanted = run(decoder, engine_of(decoder, None, max_live=1), asked)
    engine = engine_of(decoder, recorder, max_live=1)
    assert run(decoder, engine, asked) == wanted
    assert engine.graphs.overlapped > 30


# What a step waits for


def test_a_chooser_of_ones_own_is_asked_between_steps(decoder: Decoder, recorder: Delayed) -> None:
    def turns(progress: Any) -> str:
        return ("ar", "prompt_lookup", "quadratic_ss")[len(progress.tokens) // 7 % 3]

    graphs = same(decoder, recorder, [Asked(LONG, 40, options={"strategy": turns})])
    assert graphs.overlapped == 0
    assert graphs.replays


@pytest.mark.long
def test_strategies_that_run_side_by_side_take_turns(decoder: Decoder, recorder: Delayed) -> None:
    asked = [*of("ar", [Asked([3], 30)]), *of("linear_ss", [Asked(LONG, 8, after=6)])]
    graphs = same(decoder, recorder, [*asked, *of("ar", [Asked([5], 24)])])
    assert graphs.overlapped >= 8


@pytest.mark.long
def test_a_step_that_goes_by_the_number_of_sequences_waits_for_it(
    decoder: Decoder, recorder: Delayed
) -> None:
    asked = of("concurrency_router", [Asked([n], 24 - 3 * n) for n in range(3)])
    graphs = same(decoder, recorder, asked)
    assert graphs.overlapped == 0
    assert graphs.replays


def test_what_is_asked_to_be_scored_is_so_before_the_next_step(
    decoder: Decoder, recorder: Delayed
) -> None:
    asked = [Asked(LONG, 30, options={"logprobs": 2}), Asked([3], 19)]
    graphs = same(decoder, recorder, of("linear_ss", asked))
    assert graphs.replays
    assert graphs.overlapped == 0
    graphs = same(decoder, recorder, of("linear_ss", [asked[0], replace(asked[1], tokens=60)]))
    assert graphs.overlapped  # by the other, when nobody asks any more


@pytest.mark.parametrize("since", [9, *long(0)])
def test_observers_are_told_of_steps_as_without(
    decoder: Decoder, recorder: Delayed, since: int
) -> None:
    def told(recorder: Delayed | None) -> tuple[list[Any], list[Heard], Engine]:
        engine, records = engine_of(decoder, recorder), list[Any]()

        def watch(step: int, engine: Engine) -> None:
            if step == since:
                engine.observe(lambda record: records.append(replace(record, seconds=0.0)))

        heard = run(decoder, engine, of("linear_ss", [Asked(LONG, 40), Asked([3], 50)]), watch)
        return [replace(one, number=0, pages=0) for one in records], heard, engine

    records, heard, engine = told(recorder)
    assert (records, heard) == told(None)[:2]
    assert engine.graphs.overlapped > (since or 4)  # those that are watched as well
    assert engine.graphs.wasted == (2 if since else 0)


@pytest.mark.long
def test_it_can_be_turned_off_and_on(decoder: Decoder, recorder: Delayed) -> None:
    def off(step: int, engine: Engine) -> None:
        engine.graphs.overlap = step >= 12

    wanted = run(decoder, engine_of(decoder, None), [Asked(LONG, 24)])
    engine = engine_of(decoder, recorder)
    assert run(decoder, engine, [Asked(LONG, 24)], off) == wanted
    assert engine.graphs.overlapped == 24 - 1 - 12
    engine = engine_of(decoder, recorder)
    assert run(decoder, engine, [Asked(LONG, 24)], lambda _, one: off(0, one)) == wanted
    assert engine.graphs.overlapped == 0


def test_steps_that_are_launched_go_as_ever(decoder: Decoder) -> None:
    engine = engine_of(decoder, None)
    run(decoder, engine, [Asked([3], 12)])
    assert engine.graphs.overlapped == engine.graphs.replays == engine.graphs.wasted == 0


# Bounds


@pytest.mark.parametrize("strategy", ["prompt_lookup", *long("quadratic_ss")])
def test_no_step_reaches_beyond_the_room_of_a_sequence(
    decoder: Decoder, recorder: Delayed, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_hold, said = KVCache.may_hold, list[bool]()

    def noted(self: KVCache, slots: Sequence[int], rows: Sequence[int]) -> bool:
        said.append(may_hold(self, slots, rows))
        return said[-1]

    monkeypatch.setattr(KVCache, "may_hold", noted)
    reach = decoder.strategies()[strategy].reach
    room = Room(1, 1, reach)
    # What each may need ends right before the end of a page, or right behind it.
    asked = of(strategy, [Asked([9] * 20, rows - 20 - reach) for rows in (128, 127, 64, 65)])
    wanted = run(decoder, Engine(decoder.strategies(), decoder.model, room), asked)
    engine = Engine(decoder.strategies(), decoder.model, room, recorder=recorder)
    assert run(decoder, engine, asked) == wanted
    assert set(said) == {True, False}
    assert engine.graphs.overlapped


def test_pages_are_there_before_a_step_ahead_writes_them(
    decoder: Decoder, recorder: Delayed
) -> None:
    graphs = same(decoder, recorder, [Asked([5, 9] * 90, 24)])  # the fourth page begins at 192
    assert graphs.overlapped == 24 - 1 - 2 - 1


@pytest.mark.long
def test_more_keys_and_longer_texts_take_larger_graphs(decoder: Decoder, recorder: Delayed) -> None:
    asked = of("prompt_lookup", [Asked([5, 6] * (FIRST_KEYS // 2 - 6), 40)])
    graphs = same(decoder, recorder, [*asked, replace(asked[0], after=45)])
    assert graphs.captures >= 2
    assert graphs.overlapped >= 4


@pytest.mark.parametrize("strategy", long("ar", "quadratic_ss"))
def test_pages_that_lie_anywhere_and_move_are_followed(
    decoder: Decoder, recorder: Delayed, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scatter_pages(monkeypatch)

    def restless(_: int, engine: Engine) -> None:
        engine.cache._holdings._steady = False  # it grows by half, and shrinks

    asked = of(strategy, [*COMING_AND_GOING, Asked(LONG * 4, 12, after=7), Asked([8], 80)])
    graphs = same(decoder, recorder, asked, between=restless)
    assert graphs.overlapped


@pytest.mark.long
def test_thinking_budgets_are_kept(decoder: Decoder, recorder: Delayed) -> None:
    budget = {"end_think_token_id": 50, "start_think_token_id": 51, "strategy": "linear_ss"}
    asked = [
        Asked([51, 7, 8], 34, options={**budget, "max_thinking_tokens": 6}),
        Asked([7, 8], 34, options={**budget, "max_thinking_tokens": 2}, after=2),
    ]
    graphs = same(decoder, recorder, asked)
    assert graphs.overlapped >= 4


# What goes wrong


def plays(
    monkeypatch: pytest.MonkeyPatch,
    problem: BaseException,
    at: Callable[[int], bool],
    *,
    half: bool,
) -> list[int]:
    """Let replays fail at some of their numbers, before or behind their work; return how often."""
    replay, count = Tape.replay, [0]

    def failing(self: Tape) -> None:
        count[0] += 1
        if at(count[0]):
            (self.calls[0].again if half else lambda: replay(self))()
            raise problem
        replay(self)

    monkeypatch.setattr(Tape, "replay", failing)
    return count


@pytest.mark.parametrize(
    ("turn", "half"), [(0, True), *long((0, False), (1, True), (1, False), (2, True), (2, False))]
)
def test_an_interrupt_at_any_replay_is_taken_up_where_it_came(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch, turn: int, half: bool
) -> None:
    asked = of("quadratic_ss", [Asked([3], 24), Asked(LONG, 24)])
    wanted = run(decoder, engine_of(decoder, None), asked)
    engine = engine_of(decoder, Emulator())
    count = plays(monkeypatch, KeyboardInterrupt(), lambda n: n % 3 == turn, half=half)
    requests = [one.request(decoder, number) for number, one in enumerate(asked)]
    for request in requests:
        engine.submit(request)
    while not engine.idle:
        with suppress(KeyboardInterrupt):
            engine.step()
    assert [(request.tokens, request.nfe) for request in requests] == [
        (one.tokens, one.nfe) for one in wanted
    ]
    assert count[0] > 9
    assert engine.graphs.overlapped


@pytest.mark.parametrize("at", ["outcomes", *long("append", "unlearn", "knows", "may_hold")])
def test_an_interrupt_while_two_steps_are_on_their_way_undoes_what_is_not_read(
    decoder: Decoder, recorder: Delayed, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    owner: Any = next(one for one in (Record, StepState, KVCache) if hasattr(one, at))
    method, calls = getattr(owner, at), [0]
    asked = [Asked([3], 24), Asked(LONG, 24)]
    wanted = run(decoder, engine_of(decoder, None), asked)

    def interrupted(*arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] % 7 == 5:
            raise KeyboardInterrupt
        return method(*arguments)

    engine = engine_of(decoder, recorder)
    requests = [one.request(decoder, number) for number, one in enumerate(asked)]
    for request in requests:
        engine.submit(request)
    for _ in range(5):
        engine.step()
    monkeypatch.setattr(owner, at, interrupted)
    interrupts = 0
    while not engine.idle:
        try:
            engine.step()
        except KeyboardInterrupt:
            interrupts += 1
    assert interrupts
    assert not engine.cache.committed
    for request, one in zip(requests, wanted, strict=True):
        if request.finish == "error":  # the books were torn: what came before stands
            assert request.tokens == one.tokens[: len(request.tokens)]
        else:
            assert (request.tokens, request.nfe) == (one.tokens, one.nfe)


@pytest.mark.parametrize("turn", [1, *long(0, 2)])
def test_a_replay_that_fails_is_done_again_and_tokens_read_before_stand(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch, turn: int
) -> None:
    asked = of("linear_ss", [Asked([3], 30), Asked(LONG, 30)])
    wanted = run(decoder, engine_of(decoder, None), asked)
    engine = engine_of(decoder, Emulator())
    plays(monkeypatch, RuntimeError("lost"), lambda n: n > 3 and n % 3 == turn, half=True)
    heard = run(decoder, engine, asked)
    assert [(one.tokens, one.nfe) for one in heard] == [(one.tokens, one.nfe) for one in wanted]
    assert engine.graphs.overlapped


@pytest.mark.long
def test_a_step_that_fails_when_it_is_read_is_done_again_for_each(
    decoder: Decoder, recorder: Delayed, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes, count = Record.outcomes, [0]

    def failing(self: Record) -> Any:
        count[0] += 1
        if count[0] in (9, 13) and len(self.slots) > 1:
            raise RuntimeError("lost on its way")
        return outcomes(self)

    asked = of("linear_ss", [Asked([3], 40), Asked(LONG, 40)])
    wanted = run(decoder, engine_of(decoder, None), asked)
    monkeypatch.setattr(Record, "outcomes", failing)
    engine = engine_of(decoder, recorder)
    assert run(decoder, engine, asked) == wanted
    assert engine.graphs.overlapped


def test_a_step_whose_sequence_the_host_has_otherwise_is_undone(
    decoder: Decoder, recorder: Delayed, monkeypatch: pytest.MonkeyPatch
) -> None:
    knows, count = StepState.knows, [0]

    def doubtful(*arguments: Any) -> bool:
        count[0] += 1
        return count[0] % 3 != 0 and knows(*arguments)

    monkeypatch.setattr(StepState, "knows", doubtful)
    graphs = same(decoder, recorder, of("prompt_lookup", [Asked(LONG, 40), Asked([3], 40)]))
    assert graphs.wasted >= 4
    assert graphs.overlapped >= 4


@pytest.mark.long
def test_numbers_that_are_none_end_a_sequence_that_is_a_step_ahead(
    decoder: Decoder, recorder: Delayed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A code in place of a token is carried on, and looked up, by the step behind."""
    outcomes, count = Record.outcomes, [0]

    def broken(self: Record) -> Any:
        found = outcomes(self)
        count[0] += 1
        if count[0] == 9:
            found[0].tokens[0] = -1
        return found

    wanted = run(decoder, engine_of(decoder, None), [Asked([3], 24), Asked(LONG, 24)])
    monkeypatch.setattr(Record, "outcomes", broken)
    engine = engine_of(decoder, recorder)
    heard = run(decoder, engine, [Asked([3], 24), Asked(LONG, 24)])
    assert "no numbers" in heard[0].news[-1][4]
    assert heard[0].tokens == wanted[0].tokens[: len(heard[0].tokens)]
    assert heard[1] == wanted[1]
    assert engine.graphs.wasted == 1


# The device that is late


def test_what_is_late_is_done_in_order_and_no_sooner_than_it_must() -> None:
    line, value = Line(), torch.zeros(2, dtype=torch.int64)
    with pytest.MonkeyPatch.context() as monkeypatch, late_copies(line, monkeypatch):
        line.add(lambda: value.fill_(1))
        first = Copy.of(value)
        line.add(lambda: value.fill_(2))
        second = Copy.apart(value)
        assert first.values.tolist() == [NOT_YET, NOT_YET]
        assert first.read() == [1, 1]
        assert value.tolist() == [1, 1]
        assert len(line.waiting) == 2
        assert (value + 1).tolist() == [3, 3]  # other work comes behind all that was asked for
        assert not line.waiting
        assert second.values.tolist() == [2, 2]
