"""The outcomes of a region: what is only known when it runs, and changes what it does.

That are how many drafts each `accept` matches, and every Count that chooses rows, or says how many
stay, without one: a carried one, and one of a `leading`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product
from math import prod

from nldc.check.lossless.fixed import is_followed, rows_of
from nldc.ir.graph import Graph, Step, uses, walk
from nldc.ir.ops import Accept, Leading, Node, Reckon, Repeat
from nldc.ir.ranges import UndecidedError
from nldc.ir.size import Size
from nldc.ir.types import Accepted, Count


class TooMuchError(UndecidedError):
    """There is more to follow up than a proof may."""


@dataclass(frozen=True, order=True)
class Agreed:
    """How many drafts an `accept` matches, and in which of its branches."""

    matches: int
    branch: int = 0


Outcome = Mapping[str, Agreed | int]
"""What agrees in each `accept`, by node, and what Counts are: `carry.last`, by node."""

MOST_OUTCOMES = 5000
"""More combinations of accepted counts than this are not examined."""
MOST_WORK = 2_000_000
"""Nor are more values of nodes than this, over all those combinations."""


def outcomes(graph: Graph, step: Step | None) -> Iterator[Outcome]:
    """Yield every combination of counts in the prefill (None), or in a step."""
    ranges = _ranges(graph, step)
    for combination in product(*ranges.values()):
        yield dict(zip(ranges, combination, strict=True))


def agreeing(kind: Accepted) -> list[Agreed]:
    """Return all that may agree in an `accept`, branch by branch.

    That no branch has more matches than the one that is taken is left open.
    """
    return [Agreed(n, branch) for branch in range(kind.branches or 1) for n in range(kind.most)]


def _ranges(graph: Graph, step: Step | None) -> dict[str, Sequence[Agreed | int]]:
    nodes = (graph.prefill if step is None else step.region).nodes
    found: dict[str, Sequence[Agreed | int]] = {}
    for node in nodes:
        if isinstance(node.op, Accept) and isinstance(node.type, Accepted):
            found[node.name] = agreeing(node.type)
        elif isinstance(node.op, Leading) and isinstance(node.type, Count):
            found[node.name] = range(node.type.low, node.type.high + 1)
    if step is None:
        return found
    asked = [node.op for node in walk(nodes) if not isinstance(node.op, Reckon)]
    named = {value.node for part in (*asked, step.emit) for value in uses(part)}
    for name, type_ in graph.counts.items():
        if f"carry.{name}" in named:
            found[f"carry.{name}"] = range(type_.low, type_.high + 1)
    return found


def affordable(graph: Graph, steps: Sequence[Step | None]) -> list[Outcome]:
    """Return every outcome of some steps, or of the prefill (None), one after another.

    Raises:
        TooMuchError: there are too many, or too many rows to follow in all of them.
    """
    for step in steps:
        if len(list(islice(outcomes(graph, step), MOST_OUTCOMES + 1))) > MOST_OUTCOMES:
            raise TooMuchError(f"there are more than {MOST_OUTCOMES} outcomes")
    work = sum(work_of(graph, step) for step in steps)
    if work > MOST_WORK:
        raise TooMuchError(
            f"its rows in all outcomes of its accepts come to {work}, more than {MOST_WORK}"
        )
    return [outcome for step in steps for outcome in outcomes(graph, step)]


def work_of(graph: Graph, step: Step | None) -> int:
    """Return how many rows and tokens there are to follow, over all outcomes."""
    nodes = (graph.prefill if step is None else step.region).nodes
    counts = map(len, _ranges(graph, step).values())
    loops = (node.op for node in nodes if isinstance(node.op, Repeat))
    rounds = sum(rows_of(loop) for loop in loops if is_followed(loop))
    return prod(counts) * (rounds + sum(_rows(node) for node in walk(nodes)))


def _rows(node: Node) -> int:
    size = getattr(node.type, "size", None)
    return size.at(1) if isinstance(size, Size) else 1


def in_words(outcome: Outcome, graph: Graph) -> str:
    """Return an outcome as a condition: `kept.matches == 3 and last == 2`."""
    parts = []
    for name, known in outcome.items():
        short = name.rsplit(".", 1)[-1]
        if isinstance(known, int):
            parts.append(f"{short} == {known}")
            continue
        op = graph.node(name).op
        if isinstance(op, Accept) and op.branches:
            parts.append(f"{short}.branch == {known.branch}")
        parts.append(f"{short}.matches == {known.matches}")
    return " and ".join(parts)
