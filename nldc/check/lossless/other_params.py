"""A promise that is kept for the params as they are and not for others: a warning."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from nldc.check.lossless import codes
from nldc.check.lossless.certificate import Certificate, Problem
from nldc.check.lossless.outcomes import work_of
from nldc.check.lossless.proof import prove
from nldc.check.lossless.rule import unproved
from nldc.diagnostics import Diagnostic
from nldc.ir.build import build
from nldc.ir.graph import Graph
from nldc.source import Source

MOST_WORK = 30_000
"""Values of nodes, over all outcomes, up to which the proof is repeated for a large param."""


def other_params(
    graph: Graph, source: Source, certificate: Certificate | None
) -> Iterator[Diagnostic]:
    """Warn of the first whole param with which what is promised, and proved, cannot be proved.

    `certificate` is that of a graph which promises something.
    """
    if certificate is None or certificate.problems:
        return
    for name, declared in (source.data.get("params") or {}).items():
        if declared["type"] != "int" or name in graph.runtime:
            continue  # of what requests bring, the proof is for every value
        if not _is_named({**source.data, "params": None}, re.compile(rf"\b{name}\b")):
            continue
        tries = _Tries(graph, source, name)
        for value in tries.values(declared["min"], declared["max"]):
            if tries.problems(value):
                least = tries.least(value)
                note = f"with {name} = {least}; for the params as they are it is proved"
                for problem in tries.problems(least):
                    found = unproved(problem, source)
                    yield replace(found, severity="warning", notes=(note,))
                return


def _is_named(data: Any, name: re.Pattern[str]) -> bool:
    """Whether some text of a file has a name in it."""
    if isinstance(data, Mapping):
        return any(_is_named(part, name) for part in data.values())
    if isinstance(data, list):
        return any(_is_named(part, name) for part in data)
    return isinstance(data, str) and name.search(data) is not None


@dataclass
class _Tries:
    """A strategy with other values of one param; each is built, and proved, once."""

    graph: Graph
    source: Source
    name: str
    _built: dict[int, Graph | None] = field(default_factory=dict)
    _problems: dict[int, tuple[Problem, ...]] = field(default_factory=dict)

    @property
    def own(self) -> int:
        """The value for which the promise is proved."""
        return int(self.graph.params[self.name])

    def values(self, low: int, high: int) -> Iterator[int]:
        """Yield the other values to try: the two lowest, and a large one.

        That is the largest, or the largest of its halves for which the proof is little work.
        """
        yield from (value for value in (low, low + 1) if value <= high and value != self.own)
        large = high
        while large > self.own and self._work(large) > MOST_WORK:
            large = (self.own + large) // 2
        if large > max(self.own, low + 1):
            yield large

    def problems(self, value: int) -> tuple[Problem, ...]:
        """Return what forbids the proof for a value; none where it is too much to decide."""
        if value not in self._problems:
            graph = self._with(value)
            found = () if graph is None else prove(graph).problems
            decided = tuple(problem for problem in found if problem.code != codes.UNDECIDED)
            self._problems[value] = decided
        return self._problems[value]

    def least(self, value: int) -> int:
        """Return the least value for which the proof fails, if from there on up to `value` all do.

        It is `value` itself if that is below the own.
        """
        proved = self.own
        while value - proved > 1:
            middle = (proved + value) // 2
            if self.problems(middle):
                value = middle
            else:
                proved = middle
        return value

    def _with(self, value: int) -> Graph | None:
        if value not in self._built:
            params = {**self.graph.settings, self.name: value}
            self._built[value] = build(self.source, params, self.graph.compat).graph
        return self._built[value]

    def _work(self, value: int) -> int:
        graph = self._with(value)
        if graph is None:
            return 0
        return sum(work_of(graph, step) for step in (None, *graph.steps))
