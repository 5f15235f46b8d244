"""What every run must do for a strategy to be exact, and who is to blame where one does not.

The obligations: what is emitted are AR's choices, what is kept are AR's rows in their places, and
the cache trails the text as before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from nldc.check.lossless import codes
from nldc.check.lossless.blame import Blame, Cause, target_help
from nldc.check.lossless.certificate import Fault, Problem
from nldc.check.lossless.closure import Closure
from nldc.check.lossless.codes import KINDS
from nldc.check.lossless.outcomes import in_words
from nldc.check.lossless.runs import Run, Runner, left_by
from nldc.check.lossless.terms import Invariant, Term, ar, carried
from nldc.diagnostics import Span, counted
from nldc.ir.graph import Graph


class Problems:
    """What is wrong, each code once at a key of a node."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str, str | None], Problem] = {}

    def __bool__(self) -> bool:
        return bool(self._found)

    def __contains__(self, place: tuple[str, str, str | None]) -> bool:
        return place in self._found

    def add(
        self,
        code: str,
        node: str,
        key: str | None,
        text: str,
        *,
        context: str = "",
        context_span: Span | None = None,
        span: Span | None = None,
        help_text: str | None = None,
        fault: Fault | None = None,
    ) -> None:
        """Add a problem unless that code is known at that place; see `Problem`."""
        kind = KINDS[code]
        problem = Problem(
            code, kind.obligation, kind.message, node, key, text, context, context_span, span,
            help_text, fault,
        )  # fmt: skip
        self._found.setdefault((code, node, key), problem)

    def all(self) -> tuple[Problem, ...]:
        """Return them in the order in which they were found."""
        return tuple(self._found.values())


@dataclass
class Obligations:
    """Checks runs, and notes the problems.

    `prefills` are the runs of the prefill; `given` tokens behind the cache may be others than AR's
    as a step begins. `history` is what was known of carried values each time the steps were run,
    less from one time to the next.
    """

    runner: Runner
    problems: Problems
    prefills: Sequence[Run]
    given: int = 0
    history: list[Invariant] = field(default_factory=list)

    def check_first(self, runs: Sequence[Run]) -> None:
        """Note the problems of the first run that has any: those of others follow from them."""
        for run in runs:
            self._check(run)
            if self.problems:
                return

    def _check(self, run: Run) -> None:
        self._unknown_ops(run.closure)
        emit = None if run.step is None else run.step.emit
        tokens = self.runner.graph.prefill_tokens if emit is None else emit.tokens
        if emit is not None and not run.emitted:
            cause = Cause(codes.EMITS_NOTHING, emit.tokens.node, None, "this may hold no token")
            self._problem(cause, run, "", emit.tokens.span, at_value=True)
            return
        for i, term in enumerate(run.emitted):
            if tokens is not None and not run.closure.equalities.equal(term, ar(run.start + i)):
                cause = self._cause(run, term, run.start + i, tokens.node)
                if cause.code == codes.UNVERIFIED and cause.help is None:
                    cause = replace(cause, help=target_help(run.step, tokens.node))
                self._problem(cause, run, f"token {i} is emitted from here", tokens.span)
                break
        if emit is not None and run.frontier != run.start:
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
                span = emit.keep.span if emit is not None and emit.keep else None
                context = f"row {entry.row} of `{_short(entry.node)}` is kept"
                self._problem(cause, run, context, span)
            break

    def _blame(self, run: Run) -> Blame:
        return Blame(self.runner.graph, run.step, self.runner.closer, run.closure)

    def _kept(self, run: Run, number: int, place: int) -> Cause:
        """Return why an entry may not be kept as the cache's row at a place."""
        entry = run.closure.trace.entries[number]
        blame = self._blame(run)
        if number in run.closure.pure:
            text = f"row {entry.row} lies at offset {entry.position} and is kept as {place}"
            return Cause(codes.CACHE_ORDER, entry.node, "cache", text, fault=blame.fault(entry))
        cause = self._carried(run, blame.row(entry, place))
        if cause.code == codes.UNVERIFIED:
            cause = blame.shifted() or cause
        if cause.code in (codes.UNVERIFIED, codes.WRONG_PLACE):
            return replace(cause, code=codes.KEEPS_REJECTED)
        return cause

    def _cause(self, run: Run, term: Term, offset: int, node: str) -> Cause:
        blame = self._blame(run)
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
                known = self.history[lost.index(True) - 1]
                runs = list(self.runner.steps(known, run.start, self.given))
            cause = self._maker(runs, name, element, offset, cause)
        return cause

    def _maker(
        self, runs: Sequence[Run], name: str, element: int, offset: int, cause: Cause
    ) -> Cause:
        for run in runs:
            value = dict(left_by(self.runner.graph, run.step))[name]
            term = self.runner.terms(value, run)[element]
            place = offset + len(run.kept)
            if run.closure.equalities.equal(term, ar(place)):
                continue
            found = self._blame(run).token(term, place, value.node)
            if found.code in (codes.UNVERIFIED, codes.WRONG_PLACE, codes.SEED):
                return replace(found, code=codes.SEED, span=value.span)
            return found
        return replace(cause, needs=None)

    def _unknown_ops(self, closure: Closure) -> None:
        for node in closure.trace.unknown:
            text = "what this op does to rows and cache is not known to the proof"
            self.problems.add(codes.CHANGED, node.name, None, text)

    def _problem(
        self, cause: Cause, run: Run, context: str, span: Span | None, at_value: bool = False
    ) -> None:
        when = _when(run, self.runner.graph)
        self.problems.add(
            cause.code,
            cause.node,
            cause.key,
            cause.text + (when if at_value else ""),
            context=context + when if context else "",
            context_span=None if at_value else span,
            span=span if at_value else cause.span,
            help_text=cause.help,
            fault=cause.fault,
        )


def _holds(known: Invariant, term: Term, wanted: Term) -> bool:
    return any(term in group and wanted in group for group in known)


def _offsets(known: Invariant) -> Iterator[int]:
    """Yield the offsets at which a carried element is known to be AR's token."""
    for group in known:
        yield from (int(member[1]) for member in group if member[0] == "ar")


def _when(run: Run, graph: Graph) -> str:
    outcome = run.closure.trace.outcome
    return f", when {in_words(outcome, graph)}" if outcome else ""


def _short(node: str) -> str:
    return node.rsplit(".", 1)[-1]
