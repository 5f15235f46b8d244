"""Which rows a proof rests on, one by one, for one length of the prompt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from nldc.check.lossless.grounds import choosing
from nldc.check.lossless.runs import Run
from nldc.check.lossless.solve import Solution


@dataclass(frozen=True)
class Need:
    """What rests on a row: the tokens of those emitted that it chooses, counted from 0, and whether
    its key and value stay in the cache. Either is so in `outcomes` of the `of` that can happen.
    """

    tokens: tuple[int, ...]
    stays: bool
    outcomes: int
    of: int


@dataclass
class _Found:
    tokens: set[int] = field(default_factory=set)
    outcomes: set[int] = field(default_factory=set)
    stays: bool = False


def needed_rows(solution: Solution, length: int) -> Mapping[str, Mapping[int, Need]]:
    """Return the rows that are needed, by forward: of steps, and of a prefill of `length` tokens.

    There are none where nothing is proved. Rows inside loops are never needed: they only draft.
    """
    if solution.boundary is None or solution.problems:
        return {}
    prefills = [r for r in solution.prefills if r.closure.trace.prompt_length == length]
    steps = [[run for run in solution.runs if run.step is step] for step in solution.graph.steps]
    return {node: rows for runs in (prefills, *steps) for node, rows in _needed(runs).items()}


def _needed(runs: list[Run]) -> dict[str, dict[int, Need]]:
    found: dict[tuple[str, int], _Found] = {}
    for outcome, run in enumerate(runs):
        for number, token in _used(run):
            entry = run.closure.trace.entries[number]
            each = found.setdefault((entry.node, entry.row), _Found())
            each.outcomes.add(outcome)
            if token is None:
                each.stays = True
            else:
                each.tokens.add(token)
    needed: dict[str, dict[int, Need]] = {}
    for (node, row), each in sorted(found.items()):
        need = Need(tuple(sorted(each.tokens)), each.stays, len(each.outcomes), len(runs))
        needed.setdefault(node, {})[row] = need
    return needed


def _used(run: Run) -> Iterator[tuple[int, int | None]]:
    """Yield entries with the token that they choose, and with None those that stay."""
    for token, _ in enumerate(run.emitted):
        number = choosing(run, run.start + token - 1)
        if number is not None:
            yield number, token
    for number in run.kept:
        yield number, None
