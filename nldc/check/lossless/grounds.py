"""The certificate of what was solved: what each obligation rests on, in nodes and rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from nldc.check.lossless.certificate import Boundary, Certificate, Ground
from nldc.check.lossless.codes import OBLIGATIONS, Obligation
from nldc.check.lossless.runs import Run
from nldc.check.lossless.solve import Solution
from nldc.check.lossless.terms import ar, choice
from nldc.check.lossless.trace import UnknowableError
from nldc.check.lossless.ways import Ways
from nldc.ir.ops import Accept
from nldc.ir.ranges import UndecidedError


def certificate_of(solution: Solution) -> Certificate:
    """Return what was solved as a certificate: exact if there are no problems."""
    graph, boundary = solution.graph, solution.boundary
    proved = boundary is not None and not solution.problems
    return Certificate(
        strategy=graph.name,
        params=graph.settings,
        runtime=graph.runtime,
        claimed=graph.guarantee,
        proved="exact" if proved else "none",
        prompt_lengths=solution.lengths,
        outcomes=len(solution.runs),
        boundary=boundary if proved else None,
        grounds=tuple(_grounds(solution, boundary)) if proved and boundary else (),
        sampled_by=_sampled_by(solution),
        problems=solution.problems,
    )


def _sampled_by(solution: Solution) -> tuple[str, ...]:
    """Return the nodes that choose what is emitted; none where that cannot be told."""
    try:
        return Ways(solution.graph, solution.traces, solution.tracer).sampled_by()
    except (UndecidedError, UnknowableError):
        return ()


def _grounds(solution: Solution, boundary: Boundary) -> Iterator[Ground]:
    chosen, kept = _Rows(), _Rows()
    for run in (*solution.prefills, *solution.runs):
        for i, _ in enumerate(run.emitted):
            chosen.note(run, choosing(run, run.start + i - 1))
        for number in run.kept:
            kept.note(run, number)
    both = _Rows(chosen.rows, kept.rows)
    emit, keep = [], []
    for step in solution.graph.steps:
        emit += [n.name for n in step.region.nodes if isinstance(n.op, Accept)]
        emit.append(step.emit.tokens.node)
        keep += [] if step.emit.keep is None else [step.emit.keep.node]
    carry = [f"carry.{item.name}" for item in solution.graph.carry]
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


def choosing(run: Run, position: int) -> int | None:
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
            entry = run.closure.trace.entries[number]
            self.rows.setdefault(entry.node, set()).add(entry.row)

    def data(self) -> dict[str, tuple[int, ...]]:
        return {node: tuple(sorted(rows)) for node, rows in sorted(self.rows.items())}


def _rows_of_tokens(frontier: int) -> str:
    if frontier == 0:
        return "every token of the text has its row"
    last = "the last one" if frontier == 1 else f"the last {frontier}"
    return f"every token of the text but {last} has its row"
