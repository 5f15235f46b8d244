"""The regions of a strategy, run in every outcome: what comes out and what stays in the cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from nldc.check.lossless.closure import Closer, Closure, possible
from nldc.check.lossless.outcomes import outcomes
from nldc.check.lossless.terms import Invariant, Term, ar, carried, invariant, meet
from nldc.check.lossless.trace import Trace, Tracer, UnknowableError
from nldc.ir.graph import Graph, Step
from nldc.ir.ops import Value


@dataclass(frozen=True)
class Run:
    """The prefill, or one step, in one outcome: what came out and what stays in the cache.

    `start` is the offset of the first token that may be emitted.
    """

    step: Step | None
    closure: Closure
    emitted: tuple[Term, ...]
    kept: tuple[int, ...]
    start: int

    @property
    def frontier(self) -> int:
        """How many emitted tokens have no row in the cache afterwards."""
        return self.start + len(self.emitted) - len(self.kept)


@dataclass
class Runner:
    """Runs the prefill and the steps of one graph; `closer` knows the flaws of its rows.

    With `text_is_given`, what is emitted is taken for the text: AR chooses only what follows.
    """

    graph: Graph
    closer: Closer
    text_is_given: bool = False
    _traces: dict[int, list[Trace]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tracer = Tracer(self.graph)

    def prefill(self, length: int) -> Iterator[Run]:
        """Run the prefill over a prompt of that many tokens."""
        for outcome in outcomes(self.graph, None):
            trace = self.tracer.prefill(length, outcome)
            closure = self.closer.close(trace, frozenset(), length)
            if closure.possible:
                tokens = self.graph.prefill_tokens
                emitted = () if tokens is None else terms_of(tokens, closure, self.tracer)
                run = Run(None, closure, emitted, trace.cache, length)
                yield self._decreed(run, frozenset()) if self.text_is_given else run

    def steps(self, known: Invariant, start: int, given: int) -> Iterator[Run]:
        """Run every step, where `known` holds of the carried values.

        The cache trails the text by `start` tokens, and `given` behind it may not be AR's.
        """
        tracer = self.tracer
        for number, step in enumerate(self.graph.steps):
            emit = step.emit
            for trace in self._traced(number):
                closure = self.closer.close(trace, known, given)
                if not closure.possible:
                    continue
                kept = tracer.kept(step, trace)
                emitted = terms_of(emit.tokens, closure, tracer)
                run = Run(step, closure, emitted, kept, start)
                yield self._decreed(run, known) if self.text_is_given else run

    @property
    def traces(self) -> tuple[Sequence[Trace], ...] | None:
        """The traces of each step; None where not all of them were run."""
        numbers = range(len(self.graph.steps))
        return (
            tuple(map(self._traces.__getitem__, numbers)) if numbers[-1] in self._traces else None
        )

    def terms(self, value: Value, run: Run) -> tuple[Term, ...]:
        """Return what a use of tokens holds after a run."""
        return terms_of(value, run.closure, self.tracer)

    def carry_of(self, runs: Sequence[Run]) -> Invariant:
        """Return what is known of the carried values after every one of the runs."""
        found: Invariant | None = None
        for run in runs:
            values: dict[Term, Term] = {}
            for name, value in left_by(self.graph, run.step):
                for i, term in enumerate(self.terms(value, run)):
                    values[carried(name, i)] = term
            known = invariant(run.closure.equalities, values, len(run.kept))
            found = known if found is None else meet(found, known)
        return found or frozenset()

    def _traced(self, number: int) -> Sequence[Trace]:
        """Return the traces of a step whose outcomes do not contradict themselves at once.

        They are the same whatever is known of the carried values.
        """
        if number not in self._traces:
            step = self.graph.steps[number]
            traced = (self.tracer.step(step, outcome) for outcome in outcomes(self.graph, step))
            self._traces[number] = possible(traced)
        return self._traces[number]

    def _decreed(self, run: Run, known: Invariant) -> Run:
        """Return the run with what it emits taken for the text: AR chooses only what follows.

        What was known of AR's choices from `start` on was about another text.
        """
        stays = (frozenset(t for t in group if not _follows(t, run.start)) for group in known)
        known = frozenset(group for group in stays if len(group) > 1)
        given = {ar(run.start + i): term for i, term in enumerate(run.emitted)}
        end = run.start + len(run.emitted)
        return replace(run, closure=self.closer.close(run.closure.trace, known, end, given))


def left_by(graph: Graph, step: Step | None) -> tuple[tuple[str, Value], ...]:
    """Return each carried value's name, and what the prefill (None) or a step leaves for it.

    Of Counts nothing is known between steps: a step is right for every value of them.
    """
    begun = tuple((item.name, item.initial) for item in graph.carry)
    left = begun if step is None else step.next
    return tuple((name, value) for name, value in left if name not in graph.counts)


def terms_of(value: Value, closure: Closure, tracer: Tracer) -> tuple[Term, ...]:
    """Return what a use of tokens holds in one outcome.

    Raises:
        UnknowableError: not even their number is known.
    """
    held = tracer.value(closure.trace, value, closure.trace.prompt_length)
    held = getattr(held, "tokens", held)
    if not isinstance(held, tuple):
        raise UnknowableError(value)
    return held


def _follows(term: Term, start: int) -> bool:
    return term[0] == "ar" and int(term[1]) >= start
