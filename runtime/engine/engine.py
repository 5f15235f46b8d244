"""The engine: requests are submitted, join, step together, and leave when they are done.

A waiting request is prefilled alone and joins the live ones; every step runs over all live ones of
one strategy; whoever is done gives its place in the cache back. Between two steps a sequence may go
on with another strategy. The device is waited for once a step, for the tokens; where steps are
replayed and nobody joins or changes, it has been given the next step by then.

What goes wrong in a request ends that request alone. Here stand who may step, and what a step does
next; `waiting`, `steps`, `ledger`, `switch`, `ends`, `news` and `seats` each do a part of it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from itertools import count
from threading import get_ident

from nldc.runtime.cache.kv_cache import KVCache
from nldc.runtime.engine.ends import Ends
from nldc.runtime.engine.failures import tears_the_books
from nldc.runtime.engine.group import Groups
from nldc.runtime.engine.ledger import Ledger
from nldc.runtime.engine.news import Listener, News
from nldc.runtime.engine.observe import Observer, as_observer
from nldc.runtime.engine.ownership import Ownership, device_lock, is_within_a_step, stepping
from nldc.runtime.engine.request import Event, Request
from nldc.runtime.engine.seats import Seats
from nldc.runtime.engine.steps import Steps
from nldc.runtime.engine.strategy import Room, Strategy
from nldc.runtime.engine.waiting import Waiting
from nldc.runtime.errors import NldcRuntimeError, OutOfMemoryError, PromptError, QueueFullError
from nldc.runtime.graph.recorder import Recorder
from nldc.runtime.graph.step_graphs import StepGraphs
from nldc.runtime.step.batch import Model
from nldc.runtime.whole_numbers import whole

PREFILLS = 8
"""The most prompts that are prefilled before those that are being decoded go on."""


class Engine:
    """Decodes requests for `model` by any of `strategies`, whose sequences need so much `room`.

    At most `max_live` of them are decoded at a time (None: as many as the cache has room for, of
    `kv_memory` bytes; None: a share of what is free), and at most `max_queue` wait (None: any
    number). Of prompts that have left, `keep_prefixes` bytes stay in the cache for those that begin
    alike, until they are needed. `observer` is told of every step; without one nothing is recorded.
    With `graphs`, steps are captured and replayed (None: where they can be, on a GPU and a backend
    that is `capturable`) by a `recorder` (None: CUDA's).

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
        graphs: bool | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        hint = "use 1 or more, or None"
        bounds = range(1, 2**63)
        self.strategies = dict(strategies)
        self.max_live = None if max_live is None else whole(max_live, "max_live", bounds, hint)
        self.max_queue = None if max_queue is None else whole(max_queue, "max_queue", bounds, hint)
        self._room = room
        backbone = model.backbone
        self._computing = device_lock(backbone.device)
        self.graphs = StepGraphs.on(model, graphs, recorder)
        cache = KVCache(
            backbone.config,
            backbone.dtype,
            backbone.device,
            kv_memory,
            keep_prefixes=keep_prefixes,
            steady=not self.graphs.off,
        )
        self._ids = count()
        self._gate = threading.RLock()
        self._owner = Ownership()
        self._leaving: deque[int] = deque()
        self._has_prefilled = False
        carries_prompt = any(each.carries_prompt for each in self.strategies.values())
        self._seats = seats = Seats(cache, carries_prompt=carries_prompt)
        self._groups = Groups(self.strategies)
        self._news = News()
        self._ends = Ends(seats, self._news)
        self._ledger = Ledger(seats, self._ends, self._news)
        if observer is not None:
            self._ledger.observers = (as_observer(observer),)
        self._steps = Steps(
            self.strategies, model, seats, self._groups, self._ends, self._ledger, self.graphs
        )
        self._waiting = Waiting(self._waits)

    # What callers may ask

    @property
    def cache(self) -> KVCache:
        """The pages of all live requests."""
        return self._seats.cache

    @property
    def live(self) -> int:
        """How many requests are being decoded."""
        return len(self._seats.members)

    @property
    def waiting(self) -> int:
        """How many requests have not begun."""
        return len(self._ends.known) - len(self._seats.members)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to be done."""
        return not self._ends.known

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
                self._news.listen(request.id, listener)
            self._ends.known[request.id] = request
            self._waiting.add(request)
        return request.id

    def cancel(self, request_id: int) -> bool:
        """End a request early; return whether there was something to end.

        Its place in the cache is free when this returns, or if a step is running in another thread,
        when that is over. Never waits, and may be called from a finalizer.
        """
        if request_id not in self._ends.known:
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
        return self._news.take()

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
        if self._ledger.raised is not None:
            raised, self._ledger.raised = self._ledger.raised, None
            raise raised

    def observe(self, observer: Observer) -> None:
        """Tell one more observer of every step from now on.

        What it raises comes out of whatever call steps, once the step is over; the step's events
        come with the next.
        """
        told = as_observer(observer)
        with self._gate:
            self._ledger.observers = (*self._ledger.observers, told)

    def ignore(self, observer: Observer) -> None:
        """Tell an observer no more."""
        with self._gate:
            left = tuple(one for one in self._ledger.observers if one != observer)
            self._ledger.observers = left

    # Rounds: what follows runs in the thread that has taken the engine

    def _round(self) -> None:
        if self._waiting.arrived or self._leaving:
            self._let_go()
        self._reconcile()
        may_begin = not (self._has_prefilled and self.live)
        first = self._next() if may_begin and self._waiting else None
        if first is not None:
            self._has_prefilled = True
            self._steps.land()
            first = self._next()
            scores = first is not None and not first.max_new_tokens  # a prompt, and no more
            left = PREFILLS if self.live or scores else len(self._ends.known)
            while first is not None and left > 0:
                self._steps.begin(first, self._rows(first))
                first, left = self._next(), left - 1
            return
        self._has_prefilled = False
        try:
            self._steps.advance(may_go_ahead=not self._may_change())
        finally:
            self._steps.sweep()

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
        known = self._ends.known
        begun = [known[each] for each in self._seats.members if each in known]
        joined = [*self._groups.everyone()]
        self._seats.renew()
        self.graphs.forget()
        self._steps.forget()
        self._groups.clear()
        for request in begun:
            if request in joined:
                self._ends.fail(request, problem)
            else:
                self._ends.put_back(request)

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
        self._waiting.admit(self.waiting)
        while self._leaving:
            request = self._ends.known.get(self._leaving[0])
            if request is not None:
                self._ends.end(request, "cancelled")
            self._leaving.popleft()
        self._steps.sweep()

    def _reconcile(self) -> None:
        """Do what an interrupt kept from being done: ends, news, places that are free."""
        if self._ends.any_new:
            self._ends.finish_all()
            self._steps.sweep()
        self._ends.tell()
        self._seats.reconcile()

    # Who may begin

    def _may_change(self) -> bool:
        """Whether somebody is to join or leave before the next step."""
        if self._leaving or self._waiting.arrived:
            return True
        return bool(self._waiting) and self._next() is not None

    def _waits(self, request: Request) -> bool:
        return request.id in self._ends.known and request.id not in self._seats.members

    def _next(self) -> Request | None:
        """Return the request that may begin now; None: none may."""
        self._waiting.admit(self.waiting)
        request = self._waiting.first()
        if request is None or (self.max_live is not None and self.live >= self.max_live):
            return None
        rows = self._rows(request), request.beside
        if self.live and not self.cache.has_room(*rows) and self._may_fit(*rows):
            return None
        return request

    def _may_fit(self, *rows: int) -> bool:
        try:
            self.cache.check(*rows)
        except OutOfMemoryError:
            return False
        return True

    def _rows(self, request: Request) -> int:
        return self._room.rows(len(request.prompt), request.max_new_tokens)


def _in_a_step() -> NldcRuntimeError:
    return NldcRuntimeError(
        "the engine is in the midst of a step, and cannot step",
        "a processor, a chooser or a listener may submit and cancel, and no more",
    )
