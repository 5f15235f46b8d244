"""One call's requests on their way through an engine that others may use at the same time."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Sequence
from functools import partial

from nldc.runtime.engine.engine import Engine
from nldc.runtime.engine.observe import Observer, StepRecord, as_observer
from nldc.runtime.engine.request import Event, Request


class Call:
    """Submits requests, at most so many at a time, and yields what comes of them.

    `on_step` is told of every step in which one of them had a part, by the thread that iterates.
    """

    def __init__(
        self,
        engine: Engine,
        requests: Sequence[Request],
        at_most: int | None = None,
        on_step: Observer | None = None,
    ) -> None:
        self._engine = engine
        self._waiting = deque(requests)
        self._at_most = len(requests) if at_most is None else at_most
        self._on_step = None if on_step is None else as_observer(on_step)
        self._ids: set[int] = set()
        self._running: dict[int, Request] = {}
        self._news: deque[tuple[Request, Event]] = deque()
        self._records: deque[StepRecord] = deque()
        self._closed = False

    def events(self) -> Generator[tuple[Request, Event], None, None]:
        """Yield the requests' events until all are done.

        However this ends, no request of the call goes on.
        """
        start = time.perf_counter()
        for request in self._waiting:
            request.started = start
        try:
            if self._on_step is not None:
                self._engine.observe(self._note)
            while not self._closed and (self._waiting or self._running):
                self._submit()
                self._engine.advance(self._has_news)
                self._tell_steps()
                while self._news:
                    request, event = self._news.popleft()
                    self._tell_steps()  # those of other calls' steps as well
                    if event.finish is not None:
                        self._running.pop(request.place, None)
                    yield request, event
                if self._engine.idle and not self._news:  # an interrupt may swallow the last news
                    self._running.clear()
        finally:
            self.close()
            if self._on_step is not None:
                self._engine.ignore(self._note)

    def close(self) -> None:
        """End what still runs; in any thread, and without waiting."""
        self._closed = True
        for request in list(self._running.values()):
            self._engine.cancel(request.id)

    def _submit(self) -> None:
        while self._waiting and len(self._running) < self._at_most:
            request = self._waiting[0]
            self._running[request.place] = request  # before it is one: an interrupt ends it, too
            self._ids.add(self._engine.submit(request, partial(self._hear, request)))
            self._waiting.popleft()

    def _hear(self, request: Request, event: Event) -> None:
        self._news.append((request, event))

    def _has_news(self) -> bool:
        return self._closed or bool(self._news or self._records)

    def _note(self, record: StepRecord) -> None:
        if not self._ids.isdisjoint(record.ids):
            self._records.append(record)

    def _tell_steps(self) -> None:
        while self._records and self._on_step is not None:
            self._on_step(self._records.popleft())
