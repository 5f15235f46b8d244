"""Which strategy decodes a request that names none: by how many sequences are live."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nldc.runtime.engine.handover import Chooser, Handover, Progress, check_known
from nldc.runtime.errors import PromptError
from nldc.serve.artifacts import Way

BUSY = 8
"""Live sequences from which on drafting by default no longer pays."""
_RULE = re.compile(r"(\w+)\s*:\s*live\s*>\s*(\d{1,9})", re.ASCII)


@dataclass(frozen=True)
class Route:
    """The first of the `rules`, each a strategy and the number of live sequences above which it is
    taken, that holds; else the `last`.
    """

    rules: tuple[tuple[str, int], ...]
    last: str

    def at(self, live: int) -> str:
        """Return the strategy for so many live sequences."""
        return next((name for name, most in self.rules if live > most), self.last)

    def __str__(self) -> str:
        rules = [f"{name}: live > {most}" for name, most in self.rules]
        return ", ".join([*rules, self.last])


def parse(text: str, known: Sequence[str]) -> Route:
    """Return the route of a text such as `ar: live > 8, linear_ss`.

    Raises:
        PromptError: it is of another form, or names an unknown strategy.
    """
    *rules, last = (part.strip() for part in text.split(","))
    found = []
    for rule in rules:
        match = _RULE.fullmatch(rule)
        if match is None:
            raise PromptError(
                f"the route {rule!r} is not of the form NAME: live > N",
                "write as in `ar: live > 8, linear_ss`: the last strategy stands alone",
            )
        found.append((check_known(match[1], known), int(match[2])))
    return Route(tuple(found), check_known(last, known))


def by_default(ways: Mapping[str, Way], handovers: Mapping[str, Handover | None]) -> Route:
    """Return the route where nobody says: the first strategy, and if that is exact, one that is
    exact as well and drafts nothing while many sequences are live.

    Both emit the same tokens, so that no answer depends on the load.
    """
    first = next(iter(ways))
    if ways[first].guarantee != "exact" or ways[first].bonus is None:
        return Route((), first)
    for name, way in ways.items():
        if way.guarantee == "exact" and way.bonus is None and _may(handovers, first, name):
            return Route(((name, BUSY),), first)
    return Route((), first)


def chooser(route: Route, handovers: Mapping[str, Handover | None]) -> Chooser:
    """Return what chooses by a route; a sequence that may not go there stays where it is."""

    def choose(progress: Progress) -> str:
        wanted, here = route.at(progress.live), progress.strategy
        return wanted if not here or _may(handovers, here, wanted) else here

    return choose


def _may(handovers: Mapping[str, Handover | None], here: str, there: str) -> bool:
    source, target = handovers.get(here), handovers.get(there)
    if here == there:
        return True
    return source is not None and target is not None and source.may_go_to(target)
