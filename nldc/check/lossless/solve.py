"""Solve for the state between steps: what every step may rely on, because every step leaves it.

The prefill is traced for every prompt length that matters, and a step for every outcome of its
accepts; the facts about carried values that all of them preserve are found first, because each
step may rely on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from nldc.check.lossless import codes
from nldc.check.lossless.alike import Alike, alike
from nldc.check.lossless.certificate import Boundary, Problem
from nldc.check.lossless.closure import Closer
from nldc.check.lossless.obligations import Obligations, Problems
from nldc.check.lossless.outcomes import TooMuchError, affordable
from nldc.check.lossless.prompts import prompt_lengths
from nldc.check.lossless.runs import Run, Runner
from nldc.check.lossless.terms import Invariant, carried, meet
from nldc.check.lossless.trace import Trace, Tracer, UnknowableError
from nldc.ir.graph import Graph
from nldc.ir.ranges import UndecidedError
from nldc.ir.types import Tokens


@dataclass(frozen=True)
class Solution:
    """What was found of a graph: the state between steps if there is one, or the problems.

    `lengths` are the prompt lengths that were tried, `prefills` and `runs` the regions' runs in all
    outcomes, `traces` those of each step, None where not every step was traced; `tracer` made them.
    """

    graph: Graph
    boundary: Boundary | None
    lengths: tuple[int, ...]
    prefills: tuple[Run, ...]
    runs: tuple[Run, ...]
    traces: tuple[Sequence[Trace], ...] | None
    tracer: Tracer
    problems: tuple[Problem, ...]


def solve(graph: Graph, *, text_is_given: bool = False, entered_with: int = 0) -> Solution:
    """Look for the state between steps in which a strategy is exact.

    With `text_is_given`, whatever is emitted counts as if it were part of the prompt: what is
    proved is that the cache holds the rows of that text, and what is known of the carried values
    against AR's choice after it. With `entered_with`, that many tokens behind the cache may be
    given ones at every step, and not only behind the prefill.
    """
    rows = alike(graph)
    runner = Runner(graph, Closer(rows.flaws), text_is_given)
    solver = _Solver(graph, rows, runner, entered_with, prompt_lengths(graph))
    boundary = solver.solve()
    return Solution(
        graph,
        boundary,
        solver.lengths or (),
        tuple(solver.prefills),
        tuple(solver.runs),
        runner.traces,
        runner.tracer,
        solver.problems.all(),
    )


@dataclass
class _Solver:
    graph: Graph
    alike: Alike
    runner: Runner
    entered_with: int
    lengths: tuple[int, ...] | None
    problems: Problems = field(default_factory=Problems)
    prefills: list[Run] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)

    def solve(self) -> Boundary | None:
        """Return the state between steps, or None and leave the problems."""
        try:
            affordable(self.graph, (None, *self.graph.steps))
            if self.lengths is None:
                self._undecided("rows of the prompt are chosen by numbers too large to try")
            else:
                return self._solve(self.lengths)
        except TooMuchError as reason:
            self._undecided(str(reason), "use fewer or smaller `accept`s, or promise less")
        except UndecidedError as reason:
            self._undecided(str(reason))
        except UnknowableError as problem:
            text, use = "nothing is known of this value", problem.use
            self.problems.add(codes.CHANGED, use.node, None, text, span=use.span)
        return None

    def _solve(self, lengths: Sequence[int]) -> Boundary | None:
        self.prefills = [run for length in lengths for run in self.runner.prefill(length)]
        obligations = Obligations(self.runner, self.problems, self.prefills)
        obligations.check_first(self.prefills)
        self._check_kept()
        start = self.prefills[0].frontier
        if not self.problems and any(run.frontier != start for run in self.prefills):
            self._frontiers([run.frontier for run in self.prefills])
        if self.problems:
            return None
        behind = (run.start - len(run.kept) for run in self.prefills)
        obligations.given = max(self.entered_with, *behind)
        # What fails even with all that the prefill promises is the fault of the step itself.
        known = self.runner.carry_of(self.prefills)
        while True:
            obligations.history.append(known)
            self.runs = list(self.runner.steps(known, start, obligations.given))
            obligations.check_first(self.runs)
            if self.problems:
                return None
            after = meet(known, self.runner.carry_of(self.runs))
            if after == known:
                return self._boundary(known, start)
            known = after

    def _check_kept(self) -> None:
        """Note how much of the prompt stays, where that differs with its length."""
        for name, flaw in self.alike.kept.items() if not self.problems else ():
            self.problems.add(flaw.code, name, flaw.key, flaw.text)

    def _frontiers(self, found: Sequence[int]) -> None:
        text = f"it is {min(found)} for one length of the prompt and {max(found)} for another"
        self.problems.add(codes.FRONTIER, "prefill", None, text)

    def _undecided(self, reason: str, help_text: str | None = None) -> None:
        self.problems.add(codes.UNDECIDED, "guarantee", None, reason, help_text=help_text)

    def _boundary(self, known: Invariant, start: int) -> Boundary:
        carry: dict[str, tuple[tuple[int, ...], ...]] = {}
        offsets = {
            member: tuple(sorted(int(m[1]) for m in group if m[0] == "ar"))
            for group in known
            for member in group
        }
        for item in self.graph.carry:
            if item.name in self.graph.counts:
                continue
            size = item.type.size.at(0) if isinstance(item.type, Tokens) else 0
            carry[item.name] = tuple(offsets.get(carried(item.name, i), ()) for i in range(size))
        return Boundary(start, carry)
