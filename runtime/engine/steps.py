"""Prefills and steps of requests: computed, written down, and undone where they come to nothing.

Rows have the same bits in any company, so a step that fails is tried again for each of its
sequences by itself, and an interrupted one is taken up where it began.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from torch import Tensor

from nldc.runtime.engine.computing import computed, stepped
from nldc.runtime.engine.ends import Ends
from nldc.runtime.engine.failures import tears_the_books
from nldc.runtime.engine.group import Groups
from nldc.runtime.engine.ledger import Ledger
from nldc.runtime.engine.request import Request
from nldc.runtime.engine.seats import Seats
from nldc.runtime.engine.strategy import Strategy
from nldc.runtime.engine.switch import Switch
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

    def begin(self, request: Request, rows: int) -> None:
        """Prefill a request that may need so many rows, and let it join those of its strategy."""
        since = time.perf_counter()
        outcome = None
        try:
            self._seats.take(request, rows)
            name = request.strategy = self._switch.chosen(request)
            strategy = self._strategies[name]
            self._seats.state.expect(strategy.reach, texts=strategy.looks_up)

            def prefill(batch: Batch) -> Emit:
                return strategy.prefill(batch, batch.prompt(request.prompt))

            watch = bool(self._ledger.observers)
            outcome = computed(self._model, self._seats, [request], prefill, watch=watch)
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

    def advance(self) -> None:
        """Step all live requests once."""
        if len(self._strategies) > 1:
            self._switch.regroup()
            self.sweep()
        for name in self._strategies:
            live = self._groups.of(name)
            if live:
                self._advance(name, live)

    def sweep(self) -> None:
        """Let those leave their groups that have ended."""
        if self._ends.any_new:
            self._groups.sweep()
            self._ends.any_new = False

    def _advance(self, name: str, live: Sequence[Request]) -> None:
        """Step all sequences of a strategy: together, or if that fails each by itself."""
        problem = self._stepped(name, live)
        if problem is not None and len(live) == 1:
            self._ends.fail(live[0], problem)
        elif problem is not None:
            for request in live:
                alone = self._stepped(name, [request])
                if alone is not None:
                    self._ends.fail(request, alone)

    def _stepped(self, name: str, live: Sequence[Request]) -> Exception | None:
        """Step sequences.

        Returns what went wrong, if that was before anything came of the step.
        """
        since = time.perf_counter()
        before: dict[str, Tensor] = {}
        outcome = None
        try:
            watch = bool(self._ledger.observers)
            outcome = stepped(
                self._graphs,
                self._model,
                self._seats,
                live,
                name,
                self._strategies[name],
                before,
                watch=watch,
            )
            self._ledger.write("step", name, outcome, since)
        except Exception as problem:
            if outcome is not None:
                raise
            self._seats.undo(live, before)
            return problem
        except BaseException as problem:
            if outcome is not None:
                for request, *_ in outcome.left:
                    self._ends.fail(request, problem)
            elif not tears_the_books(problem):
                self._seats.undo(live, before)
            raise
        return None
