"""The engine: requests are submitted, join, step together, and leave when they are done.

A waiting request is prefilled alone and joins the live ones; every step runs over all live ones of
one strategy; whoever is done gives its place in the cache back. Between two steps a sequence may go
on with another strategy. The device is waited for once a step, for the tokens.

What goes wrong in a request ends that request alone. Rows have the same bits in any company, so a
step that fails is tried again for each of its sequences by itself, and an interrupted one is taken
up where it began.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from threading import get_ident

import torch
from torch import Tensor

from nldc.runtime.cache.kv_cache import KVCache
from nldc.runtime.engine.failures import in_words, tears_the_books, without_token
from nldc.runtime.engine.group import Group
from nldc.runtime.engine.handover import Progress, check_known
from nldc.runtime.engine.observe import (
    Kind,
    Observer,
    SequenceStep,
    StepRecord,
    as_observer,
)
from nldc.runtime.engine.ownership import Ownership, device_lock, is_within_a_step, stepping
from nldc.runtime.engine.request import Event, Finish, Request
from nldc.runtime.engine.strategy import Room, Strategy
from nldc.runtime.errors import NldcRuntimeError, OutOfMemoryError, PromptError, QueueFullError
from nldc.runtime.step.batch import Batch, Model
from nldc.runtime.step.member import Member
from nldc.runtime.step.record import Outcome, commit
from nldc.runtime.step.state import StepState
from nldc.runtime.step.values import Emit
from nldc.runtime.whole_numbers import whole

PREFILLS = 8
"""The most prompts that are prefilled before those that are being decoded go on."""

Listener = Callable[[Event], None]
"""Is told the news of one request by the thread that steps; keep it short."""


@dataclass(frozen=True)
class _Stepped:
    """What a step says: of each sequence, from the last on, as long as it is not written down.

    The error is that of a processor, and the outcome then means nothing. A step offered `width`
    tokens of each.
    """

    left: list[tuple[Request, Outcome, NldcRuntimeError | None]]
    width: int


class Engine:
    """Decodes requests for `model` by any of `strategies`, whose sequences need so much `room`.

    At most `max_live` of them are decoded at a time (None: as many as the cache has room for, of
    `kv_memory` bytes; None: a share of what is free), and at most `max_queue` wait (None: any
    number). Of prompts that have left, `keep_prefixes` bytes stay in the cache for those that begin
    alike, until they are needed. `observer` is told of every step; without one nothing is recorded.

    Every method may be called from any thread; one at a time steps.
    """

    def __init__(
        self,
        strategies: Mapping[str, Strategy],
        model: Model,
        room: Room,
        *,
        max_live: int | None = None,
        max_queue: int | None = None,
        kv_memory: int | None = None,
        keep_prefixes: int = 0,
        observer: Observer | None = None,
    ) -> None:
        hint = "use 1 or more, or None"
        bounds = range(1, 2**63)
        self.strategies = dict(strategies)
        self.max_live = None if max_live is None else whole(max_live, "max_live", bounds, hint)
        self.max_queue = None if max_queue is None else whole(max_queue, "max_queue", bounds, hint)
        self._model = model
        self._room = room
        backbone = model.backbone
        self._device = backbone.device
        self._computing = device_lock(self._device)
        self.cache = KVCache(
            backbone.config, backbone.dtype, self._device, kv_memory, keep_prefixes=keep_prefixes
        )
        self._state = StepState(backbone.config, self._device)
        self._observers: tuple[Observer, ...] = () if observer is None else (as_observer(observer),)
        self._steps = 0

        self._ids = count()
        self._gate = threading.RLock()
        self._owner = Ownership()
        self._requests: dict[int, Request] = {}
        self._listeners: dict[int, Listener] = {}
        self._members: dict[int, Member] = {}
        self._arriving: deque[Request] = deque()
        self._leaving: deque[int] = deque()
        self._queue: list[tuple[int, int, Request]] = []
        self._groups = {name: Group() for name in self.strategies}
        self._has_prefilled = self._has_ended = False
        self._untold: deque[Event] = deque()
        self._holds_back = False
        self._events: list[Event] = []
        self._raised: BaseException | None = None

    # What callers may ask

    @property
    def live(self) -> int:
        """How many requests are being decoded."""
        return len(self._members)

    @property
    def waiting(self) -> int:
        """How many requests have not begun."""
        return len(self._requests) - len(self._members)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to be done."""
        return not self._requests

    def submit(self, request: Request, listener: Listener | None = None) -> int:
        """Let a request wait for its turn; return its id.

        Its events go to the `listener`, from within steps; without one, `step` returns them.

        Raises:
            QueueFullError: so many wait already that there is no place.
            PromptError: it was submitted before.
        """
        if not isinstance(request, Request):
            raise PromptError(
                f"a {type(request).__name__} is no request", "make one with Decoder.request"
            )
        with self._gate:
            if request.id >= 0 or request.done:
                raise PromptError(
                    f"request {request.id} was submitted before",
                    "a request is decoded once: make another of its prompt",
                )
            waiting = self.waiting
            if self.max_queue is not None and waiting >= self.max_queue:
                raise QueueFullError(
                    f"the queue is full: {waiting} requests wait, of at most {self.max_queue}, "
                    f"and {self.live} are being decoded",
                    "submit it again when some are done, or allow a larger max_queue",
                )
            request.id = next(self._ids)
            request.started = request.started or time.perf_counter()
            if listener is not None:
                self._listeners[request.id] = listener
            self._requests[request.id] = request
            self._arriving.append(request)
        return request.id

    def cancel(self, request_id: int) -> bool:
        """End a request early; return whether there was something to end.

        Its place in the cache is free when this returns, or if a step is running in another thread,
        when that is over. Never waits, and may be called from a finalizer.
        """
        if request_id not in self._requests:
            return False
        self._leaving.append(request_id)
        self._settle()
        return True

    def step(self) -> list[Event]:
        """Do the next thing: prefill what waits and fits, or else step all that is live, once.

        Returns the news of requests that have no listener. Waits for another thread's step.

        Raises:
            NldcRuntimeError: it is called from within a step.
            KeyboardInterrupt: what was begun is undone, or its requests ended with an error; the
                next step goes on.
        """
        self.advance(lambda: False)
        events, self._events = self._events, []
        return events

    def advance(self, unless: Callable[[], bool]) -> None:
        """Do what `step` does, unless that comes true by itself while another thread steps."""
        owner, here = self._owner, get_ident()
        if owner.thread == here:
            raise _in_a_step()
        try:
            if is_within_a_step():
                if not owner.try_to_take():
                    raise _in_a_step()
            elif not owner.take(unless):
                return
            with self._computing, stepping():
                self._do(self._round)
        finally:
            if owner.thread == here:
                owner.thread = None
            owner.wake()
            self._settle()
        if self._raised is not None:
            raised, self._raised = self._raised, None
            raise raised

    def observe(self, observer: Observer) -> None:
        """Tell one more observer of every step from now on.

        What it raises comes out of whatever call steps, once the step is over; the step's events
        come with the next.
        """
        told = as_observer(observer)
        with self._gate:
            self._observers = (*self._observers, told)

    def ignore(self, observer: Observer) -> None:
        """Tell an observer no more."""
        with self._gate:
            self._observers = tuple(one for one in self._observers if one != observer)

    # Rounds: what follows runs in the thread that has taken the engine

    def _round(self) -> None:
        if self._arriving or self._leaving:
            self._let_go()
        self._reconcile()
        may_begin = self._queue and not (self._has_prefilled and self._members)
        first = self._next() if may_begin else None
        if first is not None:
            self._has_prefilled = True
            left = PREFILLS if self._members else len(self._requests)
            while first is not None and left > 0:
                self._begin(first)
                first, left = self._next(), left - 1
            return
        self._has_prefilled = False
        try:
            if len(self._groups) > 1:
                self._regroup()
            for name, group in self._groups.items():
                if group.live:
                    self._advance(name, group)
        finally:
            self._sweep()

    def _do(self, work: Callable[[], None]) -> None:
        """Do something; begin with an empty cache where an interrupt leaves it with torn books."""
        try:
            work()
        except Exception:
            raise
        except BaseException as problem:
            if tears_the_books(problem):
                self._begin_afresh(problem)
            raise

    def _begin_afresh(self, problem: BaseException) -> None:
        """End what has begun, but for a prompt that has not joined the others: it waits again."""
        self.cache = self.cache.renewed()
        self._state = StepState(self._model.backbone.config, self._device)
        begun = [self._requests[each] for each in self._members if each in self._requests]
        joined = [request for group in self._groups.values() for request in group.live]
        self._members.clear()
        self._groups = {name: Group() for name in self.strategies}
        for request in begun:
            if request in joined:
                self._fail(request, problem)
            else:
                self._put_back(request)

    def _settle(self) -> None:
        """Let go of what was cancelled; if a step is running, it does so at its end."""
        owner, here = self._owner, get_ident()
        while self._leaving and owner.thread != here:
            try:
                if not owner.try_to_take():
                    return
                self._do(self._let_go)
            finally:
                if owner.thread == here:
                    owner.thread = None
                    owner.wake()

    def _let_go(self) -> None:
        self._admit()
        while self._leaving:
            request = self._requests.get(self._leaving[0])
            if request is not None:
                self._end(request, "cancelled")
            self._leaving.popleft()
        self._sweep()

    def _sweep(self) -> None:
        """Let those leave their groups that have ended."""
        if self._has_ended:
            for group in self._groups.values():
                group.sweep()
            self._has_ended = False

    def _reconcile(self) -> None:
        """Give back what an interrupt kept from being given back, or from being written down."""
        cache, members = self.cache, self._members
        if self._has_ended:
            for request in [each for each in self._requests.values() if each.finish]:
                self._end(request, request.finish or "error")
            self._sweep()
        self._tell()
        if len(cache.committed) != len(members):
            for slot in set(cache.committed) - {member.slot for member in members.values()}:
                cache.release(slot)
        if any(cache.speculative.values()):
            for slot in cache.speculative:
                cache.keep(slot, 0)

    # Waiting: an entry of the queue goes when it is at the head and no longer waits, so that what
    # is interrupted waits still

    def _admit(self) -> None:
        """Put arrivals into the order in which they are to begin."""
        while self._arriving:
            request = self._arriving[0]
            heapq.heappush(self._queue, (-request.priority, request.id, request))
            self._arriving.popleft()
        if len(self._queue) > 2 * self.waiting + 8:
            self._queue = [each for each in self._queue if self._waits(each[2])]
            heapq.heapify(self._queue)

    def _waits(self, request: Request) -> bool:
        return request.id in self._requests and request.id not in self._members

    def _next(self) -> Request | None:
        """Return the request that may begin now; None: none may."""
        self._admit()
        while self._queue and not self._waits(self._queue[0][2]):
            heapq.heappop(self._queue)
        if not self._queue or (self.max_live is not None and self.live >= self.max_live):
            return None
        request = self._queue[0][2]
        rows = self._rows(request)
        if self.live and not self.cache.has_room(rows) and self._may_fit(rows):
            return None
        return request

    def _may_fit(self, rows: int) -> bool:
        try:
            self.cache.check(rows)
        except OutOfMemoryError:
            return False
        return True

    def _rows(self, request: Request) -> int:
        return self._room.rows(len(request.prompt), request.max_new_tokens)

    # Steps

    def _begin(self, request: Request) -> None:
        """Prefill a request, and let it join those of its strategy."""
        since = time.perf_counter()
        outcome = None
        try:
            slot = self.cache.acquire(self._rows(request))
            self._members[request.id] = _member(request, slot)
            request.slot = slot
            name = request.strategy = self._chosen(request)
            strategy = self.strategies[name]
            self._state.expect(strategy.reach, texts=strategy.looks_up)

            def prefill(batch: Batch) -> Emit:
                return strategy.prefill(batch, batch.prompt(request.prompt))

            outcome = self._computed([request], prefill)
            self._commit("prefill", name, outcome, since)
            if not request.done:
                self._groups[name].join(request)
        except Exception as problem:
            self._fail(request, problem)
        except BaseException as problem:
            if outcome is not None:
                self._fail(request, problem)
            elif not tears_the_books(problem):
                self._put_back(request)
            raise

    def _advance(self, name: str, group: Group) -> None:
        """Step all sequences of a strategy: together, or if that fails each by itself."""
        problem = self._stepped(name, group.live)
        if problem is not None and len(group.live) == 1:
            self._fail(group.live[0], problem)
        elif problem is not None:
            for request in group.live:
                alone = self._stepped(name, [request])
                if alone is not None:
                    self._fail(request, alone)

    def _stepped(self, name: str, live: Sequence[Request]) -> Exception | None:
        """Step sequences.

        Returns what went wrong, if that was before anything came of the step.
        """
        since = time.perf_counter()
        before: dict[str, Tensor] = {}

        def step(batch: Batch) -> Emit:
            before.update(batch.carried())
            return self.strategies[name].step(batch, before)

        outcome = None
        try:
            outcome = self._computed(live, step)
            self._commit("step", name, outcome, since)
        except Exception as problem:
            if outcome is not None:
                raise
            self._undo(live, before)
            return problem
        except BaseException as problem:
            if outcome is not None:
                for request, *_ in outcome.left:
                    self._fail(request, problem)
            elif not tears_the_books(problem):
                self._undo(live, before)
            raise
        return None

    def _computed(self, live: Sequence[Request], call: Callable[[Batch], Emit]) -> _Stepped:
        """Run a prefill or a step, and wait for what it emits."""
        with torch.inference_mode():
            members = [self._members[request.id] for request in live]
            batch = Batch(self._model, self.cache, members, self._state)
            if self._observers:
                batch.watch()
            emit = call(batch)
            record = commit(batch, emit)
            outcomes = record.outcomes()
        lines = [(request, outcomes[n], batch.failed.get(n)) for n, request in enumerate(live)]
        return _Stepped(lines[::-1], record.width)

    def _commit(self, kind: Kind, name: str, outcome: _Stepped, since: float) -> None:
        """Write down what a step emitted, and tell it."""
        self._holds_back = True  # whoever hears of a request's end has heard of its steps
        try:
            self._write_down(kind, name, outcome, since)
        finally:
            self._holds_back = False
            self._tell()

    def _write_down(self, kind: Kind, name: str, outcome: _Stepped, since: float) -> None:
        parts: list[SequenceStep] = []
        while outcome.left:
            request, came, failed = outcome.left[-1]
            part = None
            try:
                if failed is not None:
                    self._fail(request, failed)
                else:
                    part = self._written(kind, request, came, outcome.width)
            except Exception as problem:
                self._fail(request, problem)
            outcome.left.pop()
            if part is not None:
                parts.append(part)
        number, self._steps = self._steps, self._steps + 1
        if self._observers:
            self._record(kind, name, number, parts, since)

    def _written(
        self, kind: Kind, request: Request, came: Outcome, width: int
    ) -> SequenceStep | None:
        if request.done:
            return None
        before = self.cache.committed[request.slot]
        self.cache.keep(request.slot, came.keep)
        kept = self.cache.committed[request.slot] - before
        request.nfe += came.forwards
        known = min(request.skips, len(came.tokens))
        request.skips -= known
        accepted = len(came.tokens) - known
        if kind == "step":
            request.accepted.append(accepted)
        tokens, text, broken = request.add(came.tokens[known:])
        if tokens and not request.first_token:
            request.first_token = time.perf_counter()
        if broken is not None:
            self._fail(request, without_token(request, broken), tokens, text)
        elif request.finish is not None:
            self._end(request, request.finish, tokens, text)
        elif tokens:
            self._untold.append(Event(request.id, tuple(tokens), text))
            self._tell()
        if not self._observers:
            return None
        return SequenceStep(request.id, width, accepted, kept, came.forwards, came.by_node)

    def _record(
        self, kind: Kind, name: str, number: int, parts: Sequence[SequenceStep], since: float
    ) -> None:
        record = StepRecord(
            number=number,
            kind=kind,
            strategy=name,
            sequences=tuple(parts),
            seconds=time.perf_counter() - since,
            live=self.live,
            waiting=self.waiting,
            pages=self.cache.used,
        )
        for observer in self._observers:
            try:
                observer(record)
            except Exception as problem:
                self._raised = problem  # when the step is over: it is nothing that went wrong there

    def _undo(self, live: Sequence[Request], carried: Mapping[str, Tensor]) -> None:
        """Forget the rows of a step that came to nothing; `carried` is what it began with."""
        for number, request in enumerate(live):
            if request.slot >= 0:
                self.cache.keep(request.slot, 0)
                line = slice(number, number + 1)
                self._state.undo(request.slot, {name: each[line] for name, each in carried.items()})

    # Ends

    def _end(
        self,
        request: Request,
        finish: Finish,
        tokens: Sequence[int] = (),
        text: str = "",
    ) -> None:
        """Let a request leave with its last news.

        It is known until these are on their way, so that what is interrupted is done again.
        """
        if request.id not in self._requests:
            return
        self._has_ended = True
        request.finish = finish
        request.finished = time.perf_counter()
        self._free(request)
        event = Event(request.id, tuple(tokens), text, finish, request.stats(), request.error)
        self._untold.append(event)
        self._requests.pop(request.id, None)
        self._tell()

    def _fail(
        self,
        request: Request,
        problem: BaseException,
        tokens: Sequence[int] = (),
        text: str = "",
    ) -> None:
        if request.id in self._requests:
            request.error = in_words(problem)
            self._end(request, "error", tokens, text)

    def _put_back(self, request: Request) -> None:
        """Let a request wait again, as if it had not begun: it stands in the queue still."""
        self._free(request)
        request.strategy, request.asked = "", -1

    def _free(self, request: Request) -> None:
        member = self._members.pop(request.id, None)
        request.slot = -1
        if member is not None:
            self._state.leave(member.slot)
            self.cache.release(member.slot)

    def _tell(self) -> None:
        """Tell what is untold: to its listener, or to whoever steps."""
        while self._untold and not self._holds_back:
            event = self._untold.popleft()
            listener = self._listeners.get(event.id)
            if event.finish is not None:
                self._listeners.pop(event.id, None)
            if listener is None:
                self._events.append(event)
                continue
            try:
                listener(event)
            except Exception as problem:
                self._listeners.pop(event.id, None)
                request = self._requests.get(event.id)
                if request is not None:
                    self._fail(request, problem)

    # Switching

    def _regroup(self) -> None:
        """Let every sequence with new tokens go on with the strategy that is chosen for it.

        One whose text is too short for that goes on as it is, and is asked again.
        """
        moved = []
        for group in self._groups.values():
            for request in group.live:
                if len(request.tokens) <= request.asked:
                    continue
                try:
                    chosen = self._chosen(request)
                    if chosen != request.strategy and self._may_enter(request, chosen):
                        moved.append((request, chosen))
                except Exception as problem:
                    self._fail(request, problem)
        self._sweep()
        for request, chosen in moved:
            try:
                self._hand_over(request, chosen)
            except BaseException as problem:
                self._fail(request, problem)
                if not isinstance(problem, Exception):
                    raise

    def _chosen(self, request: Request) -> str:
        progress = Progress(
            sequence=request.place,
            prompt_tokens=len(request.prompt),
            tokens=tuple(request.tokens),
            cycles=len(request.accepted),
            strategy=request.strategy,
            live=self.live,
        )
        chosen = check_known(request.choose(progress), tuple(self.strategies))
        request.asked = len(request.tokens)
        return chosen

    def _may_enter(self, request: Request, chosen: str) -> bool:
        """Whether the chosen strategy can be given the sequence, now or when it is longer.

        Raises:
            PromptError: it never can.
        """
        source, target = (self.strategies[n].handover for n in (request.strategy, chosen))
        if source is None or target is None or not source.may_go_to(target):
            raise PromptError(
                f"a sequence cannot go from `{request.strategy}` to `{chosen}` between steps",
                "certificate.json of the artifact lists the switches that it may make, and why not",
            )
        given = 0 if request.embeddings is None else len(request.prompt)
        return target.can_enter(request.history(), request.eos, given)

    def _hand_over(self, request: Request, chosen: str) -> None:
        """Make the cache trail the text as the chosen strategy wants it, and let it go on there."""
        strategy = self.strategies[chosen]
        target = strategy.handover
        assert target is not None
        self._state.expect(strategy.reach, texts=strategy.looks_up)
        text = request.history()
        trails = len(text) - self.cache.length(request.slot)
        self.cache.forget(request.slot, (target.takes or 0) - trails)
        request.skips = target.skips
        self._groups[request.strategy].drop(request)
        self._state.carry.put(request.slot, target.carry_of(text))
        request.strategy = chosen
        self._groups[chosen].join(request)


def _in_a_step() -> NldcRuntimeError:
    return NldcRuntimeError(
        "the engine is in the midst of a step, and cannot step",
        "a processor, a chooser or a listener may submit and cancel, and no more",
    )


def _member(request: Request, slot: int) -> Member:
    return Member(
        slot=slot,
        key=request.key,
        sampling=request.sampling,
        eos=request.eos,
        prompt_length=len(request.prompt),
        last_position=request.last_position,
        thinking=request.thinking,
        thought=request.thought,
        embeddings=request.embeddings,
        history=request.history,
    )
