"""Prefills and steps of requests: computed, written down, and undone where they come to nothing.

Rows have the same bits in any company, so a step that fails is tried again for each of its
sequences by itself, and an interrupted one is taken up where it began.

Of steps that are replayed, one more than is read may be begun. Everything else waits until that is
written down too: who has ended meanwhile is in it still, and nothing is made of its part.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from torch import Tensor

from nldc.runtime.engine.begun import Begun, surely_goes_on
from nldc.runtime.engine.computing import Stepped, ahead, begun, computed, finish, landed
from nldc.runtime.engine.ends import Ends
from nldc.runtime.engine.failures import tears_the_books
from nldc.runtime.engine.group import Groups
from nldc.runtime.engine.ledger import Ledger
from nldc.runtime.engine.request import Request
from nldc.runtime.engine.scores import Scores
from nldc.runtime.engine.seats import Seats
from nldc.runtime.engine.strategy import Strategy
from nldc.runtime.engine.switch import Switch
from nldc.runtime.graph.flight import Flight
from nldc.runtime.graph.step_graphs import StepGraphs
from nldc.runtime.step.batch import Batch, Model
from nldc.runtime.step.values import Emit


class Steps:
    """Runs the strategies of an engine on `model`, for the requests in their groups."""

    def __init__(
        self,
        strategies: Mapping[str, Strategy],
        model: Model,
        seats: Seats,
        groups: Groups,
        ends: Ends,
        ledger: Ledger,
        graphs: StepGraphs,
    ) -> None:
        self._strategies = strategies
        self._model = model
        self._seats = seats
        self._groups = groups
        self._ends = ends
        self._ledger = ledger
        self._graphs = graphs
        self._switch = Switch(strategies, seats, groups, ends)
        self._scores = Scores(model, seats, ends)
        self._begun: Begun | None = None

    def begin(self, request: Request, rows: int) -> None:
        """Prefill a request that may need so many rows, and let it join those of its strategy."""
        since = time.perf_counter()
        outcome = None
        try:
            request.open()
            self._seats.take(request, rows)
            self._scores.score_prompt(request)
            if not request.max_new_tokens:
                self._ends.end(request, "length")
                return
            name = request.strategy = self._switch.chosen(request)
            strategy = self._strategies[name]
            self._seats.state.expect(strategy.reach, texts=strategy.looks_up, asked=strategy.asked)

            def prefill(batch: Batch) -> Emit:
                return strategy.prefill(batch, batch.prompt(request.prompt))

            watch = self._ledger.watches
            emitted = computed(self._model, self._seats, [request], prefill, watch=watch)
            outcome = self._scores.scored(emitted)
            self._ledger.write("prefill", name, outcome, since)
            if not request.done:
                self._groups.join(name, request)
        except Exception as problem:
            self._ends.fail(request, problem)
        except BaseException as problem:
            if outcome is not None:
                self._ends.fail(request, problem)
            elif not tears_the_books(problem):
                self._ends.put_back(request)
            raise

    def advance(self, *, may_go_ahead: bool) -> None:
        """Step all live requests once.

        Where nothing else can come between (`may_go_ahead`), the device is given their next step
        before the tokens of this one are read, so that it works while the host does.
        """
        first = self._first()
        if first is not None:
            together = first.live is self._groups.of(first.name)
            self._advance(first.name, first.live, may_go_ahead=may_go_ahead and together)
            return
        if len(self._strategies) > 1:
            self._switch.regroup()
            self.sweep()
        names = [name for name in self._strategies if self._groups.of(name)]
        for name in names:
            for live in self._parted(name):
                self._advance(name, live, may_go_ahead=may_go_ahead and len(names) == 1)

    def _taken(self, name: str, request: Request) -> str | None:
        """Return the step that a request takes next, where that is told by what it carries."""
        strategy = self._strategies[name]
        if strategy.route is None:
            return None
        return strategy.route(len(self._groups.of(name)), request.told)

    def _parted(self, name: str) -> list[list[Request]]:
        """Return those who take the same step, for each step that anybody takes."""
        live = self._groups.of(name)
        if self._strategies[name].route is None:
            return [live]
        parts: dict[str | None, list[Request]] = {}
        for request in live:
            parts.setdefault(self._taken(name, request), []).append(request)
        return list(parts.values())

    def land(self) -> None:
        """Write down what the device was given already, so that others may come in."""
        while (first := self._first()) is not None:
            self._advance(first.name, first.live, may_go_ahead=False)
            self.sweep()

    def forget(self) -> None:
        """Let go of what the device was given: nobody waits for it."""
        self._begun = None

    def sweep(self) -> None:
        """Let those leave their groups that have ended."""
        if self._ends.any_new:
            self._groups.sweep()
            if self._begun is not None and self._begun.is_nobodys:
                self._graphs.wasted += len(self._begun.live)
                self._begun = None
            self._ends.any_new = False

    def _first(self) -> Begun | None:
        """Return the step that is to be written down next, if the device was given one.

        It is undone where somebody has come to watch it, since its forwards are not counted, and
        where it did not begin with what the host has made of the step before.
        """
        first = self._begun
        if first is None:
            return None
        flight = first.flight
        if flight is None or not self._is_watched(flight) or not self._follows(first.live):
            self._graphs.wasted += len(first.live) if flight is not None else 0
            self._drop(first)
        return self._begun

    def _is_watched(self, flight: Flight) -> bool:
        """Whether a step counts its forwards by node, or nobody is there to be told."""
        return flight.moment.watched or not self._ledger.watches

    def _follows(self, live: Sequence[Request]) -> bool:
        """Whether the device has of those that are live what the host has of them."""
        cache, state = self._seats.cache, self._seats.state
        return all(
            state.knows(request.slot, cache.length(request.slot), request.length)
            for request in live
            if not request.done
        )

    def _drop(self, first: Begun) -> None:
        """Undo what the device was given, from this step on; an interrupt does not stop that."""
        first.flight = None
        self._seats.undo(first.live, first.carried)
        self._begun = None

    def _advance(self, name: str, live: Sequence[Request], *, may_go_ahead: bool) -> None:
        """Step all sequences of a strategy: together, or if that fails each by itself."""
        problem = self._stepped(name, live, may_go_ahead=may_go_ahead)
        if problem is not None and len(live) == 1:
            self._ends.fail(live[0], problem)
        elif problem is not None:
            for request in live:
                alone = None if request.done else self._stepped(name, [request])
                if alone is not None:
                    self._ends.fail(request, alone)

    def _stepped(
        self, name: str, live: Sequence[Request], *, may_go_ahead: bool = False
    ) -> Exception | None:
        """Step sequences, or write down the step of theirs that was begun.

        Returns what went wrong, if that was before anything came of the step.
        """
        since = time.perf_counter()
        before: dict[str, Tensor] = {}
        first, outcome, goes_on = self._begun, None, False
        try:
            emitted = None
            if first is None:
                given = self._given(name, live, before)
                if isinstance(given, Stepped):
                    emitted = given
                else:
                    first = self._begun = Begun(name, live, given, before)
            if first is not None and first.flight is not None:
                finish(first.flight)
                goes_on = True
                if may_go_ahead and first.behind is None:
                    self._go_ahead(first, first.flight)
                goes_on = False
                emitted = landed(self._graphs, self._seats, live, first.flight)
            assert emitted is not None
            outcome = self._scores.scored(emitted)
            self._begun = None if first is None else first.behind
            self._ledger.write("step", name, outcome, since)
        except Exception as problem:
            if outcome is not None:
                raise
            self._undo(first, live, before)
            return problem
        except BaseException as problem:
            if outcome is not None:
                self._begun = None if first is None else first.behind
                for request, *_ in outcome.left:
                    self._ends.fail(request, problem)
            elif not goes_on and not tears_the_books(problem):
                self._undo(first, live, before)
            raise
        return None

    def _given(
        self, name: str, live: Sequence[Request], before: dict[str, Tensor]
    ) -> Flight | Stepped:
        """Give the device a step; `before` gets what the sequences carry."""
        return begun(
            self._graphs,
            self._model,
            self._seats,
            live,
            name,
            self._strategies[name],
            self._taken(name, live[0]),
            before,
            watch=self._ledger.watches,
        )

    def _go_ahead(self, first: Begun, flight: Flight) -> None:
        """Give the device the step behind one that is not read, if it is surely wanted."""
        may = self._graphs.overlap and self._is_watched(flight) and not flight.moment.routes
        may = may and self._strategies[first.name].route is None
        only = len(self._strategies) == 1
        if not may or not all(surely_goes_on(one, flight, only=only) for one in first.live):
            return
        carried: dict[str, Tensor] = {}
        try:
            following = ahead(self._graphs, flight, carried)
            if following is not None:
                first.behind = Begun(first.name, first.live, following, carried)
        except BaseException as problem:  # it is done again when its turn comes
            first.behind = Begun(first.name, first.live, None, carried)
            if not isinstance(problem, Exception):
                raise

    def _undo(
        self, first: Begun | None, live: Sequence[Request], before: dict[str, Tensor]
    ) -> None:
        if first is None:
            self._seats.undo(live, before)
        else:
            self._drop(first)
