"""Where one strategy may hand a sequence to another: between steps, if the cache is the text's.

A cache entry is *committed-causal* if it is the row that a causal forward over the text computes
there; then any strategy can go on from it, whoever wrote it, and an exact one emits AR's
continuation of the text so far. Exact strategies leave nothing else; of the others it is proved
with what they emit taken as given.

A strategy that is handed a sequence finds the cache trailing the text by `takes` tokens, which it
gets as its carried values. Whoever leaves may trail by less: forgetting committed entries is always
right. It may not trail by more, since nobody computes what is missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nldc.check.lossless.certificate import Boundary
from nldc.check.lossless.proof import Proof
from nldc.check.lossless.runs import Run
from nldc.check.lossless.solve import solve
from nldc.check.lossless.terms import Term, carried
from nldc.ir.graph import Graph
from nldc.ir.types import Tokens

Places = tuple[int | None, ...]
"""For each element of a carried value, the token of the text that it holds, counted from the end
of the cache; None for a guess."""


@dataclass(frozen=True)
class Handover:
    """How one strategy leaves a sequence, and how it is given one.

    It leaves the cache trailing the text by `trails` tokens, or None: it may not leave, because of
    `stays`. It wants the cache to trail by `takes`, its carried values to hold the tokens at the
    places of `carry`, and the first `skips` tokens that it then emits to be dropped, for they are
    in the text already; or `takes` is None: it cannot be given a sequence, because of `closed`.
    Its carried `counts` begin anew: it is proved for every value of them.
    """

    trails: int | None
    stays: str | None
    takes: int | None
    closed: str | None
    skips: int
    carry: Mapping[str, Places]
    counts: Mapping[str, int] = field(default_factory=dict)

    def reason_against(self, other: Handover) -> str | None:
        """Return why a sequence cannot go from this strategy to the other, or None if it can."""
        if self.trails is None:
            return self.stays
        if other.takes is None:
            return other.closed
        if self.trails > other.takes:
            behind = f"{self.trails} token{'' if self.trails == 1 else 's'}"
            return f"the cache trails the text by {behind}, and only {other.takes} can be given"
        return None


def handover_of(proof: Proof) -> Handover:
    """Return how a strategy hands sequences over, for the params that it was proved for."""
    solution, graph = proof.solution, proof.solution.graph
    is_exact = solution.boundary is not None
    if not is_exact:
        solution = solve(graph, text_is_given=True)
    if solution.boundary is None:
        first = solution.problems[0]
        stays = f"{first.message} ({first.code} at `{first.node}`): {first.text}"
        return Handover(None, stays, None, "what it needs between steps is not known", 0, {})
    trails = solution.boundary.frontier
    entered = _entered(graph, solution.boundary, solution.runs)
    if isinstance(entered, str):
        return Handover(trails, None, None, entered, 0, {})
    takes, skips, carry = entered
    if is_exact and solve(graph, entered_with=takes).boundary is None:
        text = "it is proved for sequences of its own prefill only"
        return Handover(trails, None, None, text, 0, {})
    starts = {item.name: item.start for item in graph.carry if item.start is not None}
    return Handover(trails, None, takes, None, skips, carry, starts)


def handover_data(given: Mapping[str, Handover]) -> dict[str, dict[str, Any]]:
    """Return handovers as plain data, each with the `switches` it may make, and why no others."""
    found: dict[str, dict[str, Any]] = {}
    for name, one in given.items():
        against = {n: one.reason_against(other) for n, other in given.items() if n != name}
        found[name] = {
            "trails": one.trails,
            "takes": one.takes,
            "skips": one.skips,
            "carry": {value: list(places) for value, places in one.carry.items()},
            **({"counts": dict(one.counts)} if one.counts else {}),
            "switches": [other for other, reason in against.items() if reason is None],
            "refused": {other: reason for other, reason in against.items() if reason is not None},
        }
    return found


def _entered(
    graph: Graph, boundary: Boundary, runs: Sequence[Run]
) -> tuple[int, int, dict[str, Places]] | str:
    """Return `takes`, `skips` and `carry` of a handover, or why there can be none."""
    wanted: dict[Term, set[int]] = {}
    for name, elements in boundary.carry.items():
        for element, offsets in enumerate(elements):
            wanted[carried(name, element)] = set(offsets)
    for run in runs:
        for i, emitted in enumerate(run.emitted):
            for term in _as_found(run, emitted):
                wanted.setdefault(term, set()).add(run.start + i)
    torn = next((term for term, offsets in wanted.items() if len(offsets) > 1), None)
    if torn is not None:
        return f"`{torn[1]}` is needed as two tokens of the text at once"
    places = {term: min(offsets) for term, offsets in wanted.items() if offsets}
    takes = max((boundary.frontier, *(offset + 1 for offset in places.values())))
    for offset in range(boundary.frontier, takes):
        if not all(_holds(run, offset, places) for run in runs):
            return "it would not begin with the tokens that it is given"
    carry = {
        item.name: tuple(places.get(carried(item.name, i)) for i in range(_size(item.type)))
        for item in graph.carry
        if item.name not in graph.counts
    }
    return takes, takes - boundary.frontier, carry


def _as_found(run: Run, term: Term) -> Iterator[Term]:
    """Yield the carried elements that a token may be without being chosen by the step itself.

    They were sampled where they come from; a guess in their place would go around `sample`.
    """
    origins = run.closure.trace.origins
    left, seen = [term], set[Term]()
    while left:
        members = run.closure.equalities.members(left.pop())
        if seen.issuperset(members):
            continue
        seen.update(members)
        if any(m[0] == "choice" or (m[0] == "made" and m not in origins) for m in members):
            continue
        yield from (member for member in members if member[0] == "carry")
        left += [origin for member in members for origin in origins.get(member, ())]


def _holds(run: Run, offset: int, places: Mapping[Term, int]) -> bool:
    """Whether a run emits, as the token at an offset, a carried element that holds it."""
    number = offset - run.start
    if number >= len(run.emitted):
        return False
    members: Sequence[Term] = run.closure.equalities.members(run.emitted[number])
    return any(places.get(member) == offset for member in members)


def _size(kind: object) -> int:
    return kind.size.at(0) if isinstance(kind, Tokens) else 0
