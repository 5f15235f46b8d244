"""What came of a step is written down: in the requests, in the cache, and for observers."""

from __future__ import annotations

import time
from collections.abc import Sequence

from nldc.runtime.engine.computing import Stepped
from nldc.runtime.engine.ends import Ends
from nldc.runtime.engine.failures import without_token
from nldc.runtime.engine.news import News
from nldc.runtime.engine.observe import Kind, Observer, SequenceStep, StepRecord, counts_nodes
from nldc.runtime.engine.request import Request
from nldc.runtime.engine.seats import Seats
from nldc.runtime.step.record import Outcome


class Ledger:
    """`observers` are told of every step; without one nothing is recorded. Where one of them wants
    it (`watches`), steps count their forwards by node.

    `raised` is what one of them raised since somebody last looked: nothing that went wrong in the
    step itself.
    """

    def __init__(self, seats: Seats, ends: Ends, news: News) -> None:
        self.observers: tuple[Observer, ...] = ()
        self.raised: BaseException | None = None
        self._seats = seats
        self._ends = ends
        self._news = news
        self._steps = 0

    @property
    def watches(self) -> bool:
        """Whether somebody wants forwards by their nodes."""
        return any(map(counts_nodes, self.observers))

    def write(self, kind: Kind, strategy: str, stepped: Stepped, since: float) -> None:
        """Write down what a step emitted that began at `since`, and tell it.

        Who hears of a request's end has heard of its steps before.
        """
        self._news.held = True
        try:
            self._write_all(kind, strategy, stepped, since)
        finally:
            self._news.held = False
            self._ends.tell()

    def _write_all(self, kind: Kind, strategy: str, stepped: Stepped, since: float) -> None:
        parts: list[SequenceStep] = []
        while stepped.left:
            request, came, failed = stepped.left[-1]
            part = None
            try:
                if failed is not None:
                    self._ends.fail(request, failed)
                else:
                    part = self._written(kind, request, came, stepped.width)
            except Exception as problem:
                self._ends.fail(request, problem)
            stepped.left.pop()
            if part is not None:
                parts.append(part)
        number, self._steps = self._steps, self._steps + 1
        if self.observers:
            self._record(kind, strategy, number, parts, since)

    def _written(
        self, kind: Kind, request: Request, came: Outcome, width: int
    ) -> SequenceStep | None:
        if request.done:
            return None
        cache = self._seats.cache
        before = cache.committed[request.slot]
        cache.keep(request.slot, came.keep)
        kept = cache.committed[request.slot] - before
        request.nfe += came.forwards
        request.told = came.told
        known = min(request.skips, len(came.tokens))
        request.skips -= known
        accepted = len(came.tokens) - known
        if kind == "step":
            request.accepted.append(accepted)
        tokens, text, broken = request.add(came.tokens[known:])
        if tokens and not request.first_token:
            request.first_token = time.perf_counter()
        if broken is not None:
            self._ends.fail(request, without_token(request, broken), tokens, text)
        elif request.finish is not None:
            self._ends.end(request, request.finish, tokens, text)
        elif tokens:
            self._news.add(request.news(tokens, text))
        if not self.observers:
            return None
        return SequenceStep(request.id, width, accepted, kept, came.forwards, came.by_node)

    def _record(
        self, kind: Kind, strategy: str, number: int, parts: Sequence[SequenceStep], since: float
    ) -> None:
        live = len(self._seats.members)
        record = StepRecord(
            number=number,
            kind=kind,
            strategy=strategy,
            sequences=tuple(parts),
            seconds=time.perf_counter() - since,
            live=live,
            waiting=len(self._ends.known) - live,
            pages=self._seats.cache.used,
        )
        for observer in self.observers:
            try:
                observer(record)
            except Exception as problem:
                self.raised = problem
