"""Prove that a strategy is exact, or say why not.

The prefill is traced for every prompt length that matters, and a step for every outcome of its
accepts; the facts about carried values that all of them preserve are found first, because each
step may rely on them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from nldc.check.lossless import codes
from nldc.check.lossless.alike import alike
from nldc.check.lossless.blame import Blame, Cause, target_help
from nldc.check.lossless.certificate import Boundary, Certificate, Ground, Problem
from nldc.check.lossless.closure import Closer, Closure, TooMuchError, possible
from nldc.check.lossless.codes import KINDS, OBLIGATIONS, Obligation
from nldc.check.lossless.prompts import prompt_lengths
from nldc.check.lossless.terms import Invariant, Term, ar, carried, choice, invariant, meet
from nldc.check.lossless.trace import Trace, Tracer, UnknowableError, outcomes
from nldc.check.lossless.ways import Ways, affordable
from nldc.diagnostics import Span, counted
from nldc.ir.graph import Graph
from nldc.ir.ops import Accept, Value
from nldc.ir.ranges import UndecidedError
from nldc.ir.types import Tokens


def prove(graph: Graph) -> Certificate:
    """Return a certificate that the graph is exact, or one with the problems that forbid it.

    The certificate does not depend on what the file promises, but for `claimed`.
    """
    return _Prover(graph).run()


def solve(graph: Graph, *, text_is_given: bool = False, entered_with: int = 0) -> Solution:
    """Prove a graph and return what the proof found, without a certificate.

    With `text_is_given`, whatever is emitted counts as if it were part of the prompt: what is
    proved is that the cache holds the rows of that text, and what is known of the carried values
    against AR's choice after it. With `entered_with`, that many tokens behind the cache may be
    given ones at every step, and not only behind the prefill.
    """
    prover = _Prover(graph, text_is_given, entered_with)
    boundary = prover.solve()
    return Solution(boundary, tuple(prover.runs), tuple(prover.problems.values()))


@dataclass(frozen=True)
class Run:
    """One region in one outcome: what came out and what stays in the cache.

    `start` is the offset of the first token that may be emitted.
    """

    graph: Graph
    closure: Closure
    emitted: tuple[Term, ...]
    kept: tuple[int, ...]
    start: int

    @property
    def frontier(self) -> int:
        """How many emitted tokens have no row in the cache afterwards."""
        return self.start + len(self.emitted) - len(self.kept)


@dataclass(frozen=True)
class Solution:
    """What a proof found: the state between steps if there is one, the steps, the problems."""

    boundary: Boundary | None
    runs: tuple[Run, ...]
    problems: tuple[Problem, ...]


@dataclass
class _Prover:
    graph: Graph
    text_is_given: bool = False
    entered_with: int = 0
    problems: dict[tuple[str, str, str | None], Problem] = field(default_factory=dict)
    prefills: list[Run] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    history: list[Invariant] = field(default_factory=list)
    prompt: int = 0
    _step_traces: dict[int, list[Trace]] = field(default_factory=dict)

    def run(self) -> Certificate:
        return self._certificate(self.solve())

    def solve(self) -> Boundary | None:
        """Return the state between steps, or None and leave the problems."""
        self.alike = alike(self.graph)
        self.tracer, self.closer = Tracer(self.graph), Closer(self.alike.flaws)
        self.variants = [(graph, Tracer(graph)) for graph in self.graph.variants]
        lengths = prompt_lengths(self.graph)
        self.lengths = lengths or ()
        try:
            affordable(self.graph.prefill, *(graph.step for graph in self.graph.variants))
            if lengths is None:
                text = "rows of the prompt are chosen by numbers too large to try"
                self._undecided(text)
            else:
                return self._prove()
        except TooMuchError as reason:
            self._undecided(str(reason), "use fewer or smaller `accept`s, or promise less")
        except UndecidedError as reason:
            self._undecided(str(reason))
        except UnknowableError as problem:
            kind = KINDS[codes.CHANGED]
            self._add(
                Problem(
                    codes.CHANGED, kind.obligation, kind.message, problem.use.node, None,
                    "nothing is known of this value", span=problem.use.span,
                )
            )  # fmt: skip
        return None

    # The proof

    def _prove(self) -> Boundary | None:
        self.prefills = [run for length in self.lengths for run in self._prefill(length)]
        self._check_first(self.prefills)
        self._check_kept()
        start = self.prefills[0].frontier
        if not self.problems and any(run.frontier != start for run in self.prefills):
            self._frontiers([run.frontier for run in self.prefills])
        if self.problems:
            return None
        behind = (run.start - len(run.kept) for run in self.prefills)
        self.prompt = max(self.entered_with, *behind)
        self.history = [self._carry_of(self.prefills, initial=True)]
        self.runs = list(self._steps(self.history[0], start))
        # What fails even with all that the prefill promises is the fault of the step itself.
        self._check_first(self.runs)
        while not self.problems:
            known = self.history[-1]
            after = meet(known, self._carry_of(self.runs, initial=False))
            if after == known:
                return self._boundary(known, start)
            self.history.append(after)
            self.runs = list(self._steps(after, start))
            self._check_first(self.runs)
        return None

    def _check_kept(self) -> None:
        """Note how much of the prompt stays, where that differs with its length."""
        for name, flaw in self.alike.kept.items() if not self.problems else ():
            kind = KINDS[flaw.code]
            self._add(Problem(flaw.code, kind.obligation, kind.message, name, flaw.key, flaw.text))

    def _prefill(self, length: int) -> Iterator[Run]:
        for outcome in outcomes(self.graph.prefill):
            trace = self.tracer.prefill(length, outcome)
            closure = self.closer.close(trace, frozenset(), length)
            if closure.possible:
                tokens = self.graph.prefill_tokens
                emitted = () if tokens is None else self._terms(tokens, closure, self.tracer)
                run = Run(self.graph, closure, emitted, trace.cache, length)
                yield self._decreed(run, frozenset()) if self.text_is_given else run

    def _steps(self, known: Invariant, start: int) -> Iterator[Run]:
        for graph, tracer in self.variants:
            emit = graph.emit
            for trace in self._traces(graph, tracer):
                closure = self.closer.close(trace, known, self.prompt)
                if not closure.possible:
                    continue
                keep = len(trace.cache) if emit.keep is None else tracer.value(trace, emit.keep)
                if not isinstance(keep, int):
                    raise UnknowableError(emit.keep or emit.tokens)
                emitted = self._terms(emit.tokens, closure, tracer)
                run = Run(graph, closure, emitted, trace.cache[:keep], start)
                yield self._decreed(run, known) if self.text_is_given else run

    def _traces(self, graph: Graph, tracer: Tracer) -> Sequence[Trace]:
        """Return the traces of a step whose outcomes do not contradict themselves at once.

        They are the same whatever is known of the carried values.
        """
        if id(graph) not in self._step_traces:
            traced = (tracer.step(outcome) for outcome in outcomes(graph.step))
            self._step_traces[id(graph)] = possible(traced)
        return self._step_traces[id(graph)]

    def _decreed(self, run: Run, known: Invariant) -> Run:
        """Return the run with what it emits taken for the text: AR chooses only what follows.

        What was known of AR's choices from `start` on was about another text.
        """
        stays = (frozenset(t for t in group if not _follows(t, run.start)) for group in known)
        known = frozenset(group for group in stays if len(group) > 1)
        given = {ar(run.start + i): term for i, term in enumerate(run.emitted)}
        end = run.start + len(run.emitted)
        return replace(run, closure=self.closer.close(run.closure.trace, known, end, given))

    def _terms(self, value: Value, closure: Closure, tracer: Tracer) -> tuple[Term, ...]:
        held = tracer.value(closure.trace, value, closure.trace.prompt_length)
        held = getattr(held, "tokens", held)
        if not isinstance(held, tuple):
            raise UnknowableError(value)
        return held

    def _tracer(self, run: Run) -> Tracer:
        return next((t for graph, t in self.variants if graph is run.graph), self.tracer)

    def _carry_of(self, runs: Sequence[Run], *, initial: bool) -> Invariant:
        """Return what is known of the carried values after every one of the runs."""
        found: Invariant | None = None
        for run in runs:
            values: dict[Term, Term] = {}
            for item in run.graph.carry:
                value = item.initial if initial else item.next
                for i, term in enumerate(self._terms(value, run.closure, self._tracer(run))):
                    values[carried(item.name, i)] = term
            known = invariant(run.closure.equalities, values, len(run.kept))
            found = known if found is None else meet(found, known)
        return found or frozenset()

    def _boundary(self, known: Invariant, start: int) -> Boundary:
        carry: dict[str, tuple[tuple[int, ...], ...]] = {}
        offsets = {
            member: tuple(sorted(int(m[1]) for m in group if m[0] == "ar"))
            for group in known
            for member in group
        }
        for item in self.graph.carry:
            size = item.type.size.at(0) if isinstance(item.type, Tokens) else 0
            carry[item.name] = tuple(offsets.get(carried(item.name, i), ()) for i in range(size))
        return Boundary(start, carry)

    # The obligations

    def _check_first(self, runs: Sequence[Run]) -> None:
        """Note the problems of the first run that has any: those of others follow from them."""
        for run in runs:
            self._check(run)
            if self.problems:
                return

    def _check(self, run: Run) -> None:
        self._unknown_ops(run.closure)
        is_step = run.closure.trace.prompt_length == 0
        emit = run.graph.emit
        tokens = emit.tokens if is_step else run.graph.prefill_tokens
        if is_step and not run.emitted:
            cause = Cause(codes.EMITS_NOTHING, emit.tokens.node, None, "this may hold no token")
            self._problem(cause, run, "", emit.tokens.span, at_value=True)
            return
        for i, term in enumerate(run.emitted):
            if tokens is not None and not run.closure.equalities.equal(term, ar(run.start + i)):
                cause = self._cause(run, term, run.start + i, tokens.node)
                if cause.code == codes.UNVERIFIED and cause.help is None:
                    cause = replace(cause, help=target_help(run.graph, tokens.node))
                self._problem(cause, run, f"token {i} is emitted from here", tokens.span)
                break
        if is_step and run.frontier != run.start:
            code = codes.KEEPS_TOO_MANY if run.frontier < run.start else codes.KEEPS_TOO_FEW
            verb = "is" if len(run.kept) == 1 else "are"
            kept, emitted = counted(len(run.kept), "row"), counted(len(run.emitted), "token")
            text = f"{kept} {verb} kept and {emitted} emitted"
            value = emit.keep or emit.tokens
            self._problem(Cause(code, value.node, None, text), run, "", value.span, at_value=True)
            return
        for place, number in enumerate(run.kept):
            entry = run.closure.trace.entries[number]
            if number in run.closure.pure and entry.position == place:
                continue
            cause = self._kept(run, number, place)
            if (codes.UNVERIFIED, cause.node, cause.key) not in self.problems:
                span = emit.keep.span if is_step and emit.keep else None
                context = f"row {entry.row} of `{_short(entry.node)}` is kept"
                self._problem(cause, run, context, span)
            break

    def _kept(self, run: Run, number: int, place: int) -> Cause:
        """Return why an entry may not be kept as the cache's row at a place."""
        entry = run.closure.trace.entries[number]
        if number in run.closure.pure:
            text = f"row {entry.row} lies at offset {entry.position} and is kept as {place}"
            return Cause(codes.CACHE_ORDER, entry.node, "cache", text)
        blame = Blame(run.graph, self.closer, run.closure)
        cause = self._carried(run, blame.row(entry, place))
        if cause.code == codes.UNVERIFIED:
            cause = blame.shifted() or cause
        if cause.code in (codes.UNVERIFIED, codes.WRONG_PLACE):
            return replace(cause, code=codes.KEEPS_REJECTED)
        return cause

    def _cause(self, run: Run, term: Term, offset: int, node: str) -> Cause:
        blame = Blame(run.graph, self.closer, run.closure)
        cause = blame.token(term, offset, node)
        shifted = blame.shifted() if cause.code == codes.UNVERIFIED else None
        return self._carried(run, shifted or cause)

    def _carried(self, run: Run, cause: Cause) -> Cause:
        """Follow a fault that lies in a carried value to where that value was made."""
        done: set[tuple[str, int, int]] = set()
        while cause.needs is not None and cause.needs not in done:
            done.add(cause.needs)
            name, element, offset = cause.needs
            term, wanted = carried(name, element), ar(offset)
            lost = [not _holds(known, term, wanted) for known in self.history]
            if True not in lost:
                return replace(cause, needs=None)  # AR's token, and not the text's
            if lost[0] and offset > max(_offsets(self.history[0]), default=offset):
                text = f"`{name}` is carried, and no verifier row chose this token of it"
                return Cause(codes.UNVERIFIED, cause.node, None, text)
            if lost[0]:
                runs: Sequence[Run] = self.prefills
            else:
                runs = list(self._steps(self.history[lost.index(True) - 1], run.start))
            cause = self._maker(runs, name, element, offset, cause, initial=lost[0])
        return cause

    def _maker(
        self, runs: Sequence[Run], name: str, element: int, offset: int, cause: Cause,
        *, initial: bool,
    ) -> Cause:  # fmt: skip
        for run in runs:
            item = next(c for c in run.graph.carry if c.name == name)
            value = item.initial if initial else item.next
            term = self._terms(value, run.closure, self._tracer(run))[element]
            place = offset + len(run.kept)
            if run.closure.equalities.equal(term, ar(place)):
                continue
            found = Blame(run.graph, self.closer, run.closure).token(term, place, value.node)
            if found.code in (codes.UNVERIFIED, codes.WRONG_PLACE, codes.SEED):
                return replace(found, code=codes.SEED, span=value.span)
            return found
        return replace(cause, needs=None)

    def _unknown_ops(self, closure: Closure) -> None:
        for node in closure.trace.unknown:
            kind = KINDS[codes.CHANGED]
            self._add(
                Problem(
                    codes.CHANGED, kind.obligation, kind.message, node.name, None,
                    "what this op does to rows and cache is not known to the proof",
                )
            )  # fmt: skip

    # What was found

    def _problem(
        self, cause: Cause, run: Run, context: str, span: Span | None, at_value: bool = False
    ) -> None:
        kind = KINDS[cause.code]
        when = _when(run.closure.trace.outcome)
        self._add(
            Problem(
                code=cause.code,
                obligation=kind.obligation,
                message=kind.message,
                node=cause.node,
                key=cause.key,
                text=cause.text + (when if at_value else ""),
                context=context + when if context else "",
                context_span=None if at_value else span,
                span=span if at_value else cause.span,
                help=cause.help,
            )
        )

    def _frontiers(self, found: Sequence[int]) -> None:
        kind = KINDS[codes.FRONTIER]
        text = f"it is {min(found)} for one length of the prompt and {max(found)} for another"
        self._add(Problem(codes.FRONTIER, kind.obligation, kind.message, "prefill", None, text))

    def _undecided(self, reason: str, help_text: str | None = None) -> None:
        kind = KINDS[codes.UNDECIDED]
        self._add(
            Problem(
                codes.UNDECIDED, kind.obligation, kind.message, "guarantee", None, reason,
                help=help_text,
            )
        )  # fmt: skip

    def _add(self, problem: Problem) -> None:
        self.problems.setdefault((problem.code, problem.node, problem.key), problem)

    # The certificate

    def _certificate(self, boundary: Boundary | None) -> Certificate:
        proved = boundary is not None and not self.problems
        return Certificate(
            strategy=self.graph.name,
            params=self.graph.params,
            claimed=self.graph.guarantee,
            proved="exact" if proved else "none",
            prompt_lengths=self.lengths,
            outcomes=len(self.runs),
            boundary=boundary if proved else None,
            grounds=tuple(self._grounds(boundary)) if proved and boundary else (),
            sampled_by=self._sampled_by(),
            problems=tuple(self.problems.values()),
        )

    def _sampled_by(self) -> tuple[str, ...]:
        """Return the nodes that choose what is emitted; none where that cannot be told."""
        steps = list(self._step_traces.values())
        try:
            return Ways(
                self.graph, steps if len(steps) == len(self.variants) else None
            ).sampled_by()
        except (UndecidedError, UnknowableError):
            return ()

    def _grounds(self, boundary: Boundary) -> Iterator[Ground]:
        chosen, kept = _Rows(), _Rows()
        for run in (*self.prefills, *self.runs):
            for i, _ in enumerate(run.emitted):
                chosen.note(run, self._source(run, run.start + i - 1))
            for number in run.kept:
                kept.note(run, number)
        both = _Rows(chosen.rows, kept.rows)
        emit, keep = [], []
        for graph in self.graph.variants:
            emit += [n.name for n in graph.step.nodes if isinstance(n.op, Accept)]
            emit.append(graph.emit.tokens.node)
            keep += [] if graph.emit.keep is None else [graph.emit.keep.node]
        carry = [f"carry.{item.name}" for item in self.graph.carry]
        nodes: Mapping[Obligation, tuple[list[str], _Rows, str]] = {
            "source": (emit, chosen, "every emitted token equals the choice of one of these rows"),
            "visibility": (
                list(both.rows),
                both,
                "each sees the prefix and AR's row at every earlier place",
            ),
            "purity": (
                list(both.rows),
                both,
                "no adapter and no changed logits on these, nor on what they see",
            ),
            "cache": (keep, kept, _rows_of_tokens(boundary.frontier)),
            "seed": (carry, _Rows(), "what is known of carried values holds after every outcome"),
            "progress": (emit, _Rows(), "every outcome emits a token, and every loop is bounded"),
        }
        for name in OBLIGATIONS:
            named, rows, reason = nodes[name]
            yield Ground(name, tuple(dict.fromkeys(named)), rows.data(), reason)

    def _source(self, run: Run, position: int) -> int | None:
        """Return the row of AR whose choice is the token after `position`."""
        for number in sorted(run.closure.pure):
            entry = run.closure.trace.entries[number]
            if entry.position == position and run.closure.equalities.equal(
                choice(number), ar(position + 1)
            ):
                return number
        return None


class _Rows:
    """Rows by node."""

    def __init__(self, *others: Mapping[str, set[int]]) -> None:
        self.rows: dict[str, set[int]] = {}
        for other in others:
            for node, rows in other.items():
                self.rows.setdefault(node, set()).update(rows)

    def note(self, run: Run, number: int | None) -> None:
        if number is not None:
            entry: Any = run.closure.trace.entries[number]
            self.rows.setdefault(entry.node, set()).add(entry.row)

    def data(self) -> dict[str, tuple[int, ...]]:
        return {node: tuple(sorted(rows)) for node, rows in sorted(self.rows.items())}


def _rows_of_tokens(frontier: int) -> str:
    if frontier == 0:
        return "every token of the text has its row"
    last = "the last one" if frontier == 1 else f"the last {frontier}"
    return f"every token of the text but {last} has its row"


def _holds(known: Invariant, term: Term, wanted: Term) -> bool:
    return any(term in group and wanted in group for group in known)


def _follows(term: Term, start: int) -> bool:
    return term[0] == "ar" and int(term[1]) >= start


def _offsets(known: Invariant) -> Iterator[int]:
    """Yield the offsets at which a carried element is known to be AR's token."""
    for group in known:
        yield from (int(member[1]) for member in group if member[0] == "ar")


def _when(outcome: Mapping[str, int]) -> str:
    if not outcome:
        return ""
    parts = [f"{_short(node)}.matches == {count}" for node, count in outcome.items()]
    return f", when {' and '.join(parts)}"


def _short(node: str) -> str:
    return node.rsplit(".", 1)[-1]
