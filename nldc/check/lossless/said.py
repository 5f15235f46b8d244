"""What has been emitted before a token: if an EOS is among it, the token is no text any more.

So a row that a loop left masked behind an EOS is no fault where that EOS is emitted first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from nldc.check.lossless.closure import Closure
from nldc.check.lossless.parts import Part
from nldc.check.lossless.terms import Term, carried
from nldc.ir.types import Tokens

NEVER = 1 << 62


@dataclass(eq=False)
class Emitted:
    """What one region emits, and the carried elements `before` it that are text already."""

    closure: Closure
    tokens: Sequence[Term]
    before: frozenset[Term]
    _places: dict[Term, int] = field(default_factory=dict)
    _reached: dict[int, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for place, term in enumerate(self.tokens):
            self._places.setdefault(self.closure.equalities.find(term), place)

    def place(self, term: Term) -> int:
        """Return where a term is emitted: -1 if it was before, NEVER if it is not."""
        equalities = self.closure.equalities
        if any(member in self.before for member in equalities.members(term)):
            return -1
        return self._places.get(equalities.find(term), NEVER)

    def reached(self, terms: Sequence[Term], count: int) -> int:
        """Return the last place where one of the first `count` terms is emitted."""
        if id(terms) not in self._reached:
            self._reached[id(terms)] = [-1, *accumulate(map(self.place, terms), max)]
        return self._reached[id(terms)][count]


@dataclass(frozen=True)
class Said:
    """What has been emitted before a place."""

    emitted: Emitted
    place: int

    def open_origins(self, term: Term) -> frozenset[Term]:
        """Return what a term may be while it is text: not what stands behind an emitted EOS."""
        trace = self.emitted.closure.trace
        origins = trace.origins[term]
        for terms, count in trace.ends.get(term, ()):
            if self.emitted.reached(terms, count) < self.place:
                return frozenset(o for o in origins if o[0] not in ("unfilled", "copied"))
        return origins


def text_before(parts: Sequence[Part]) -> frozenset[Term]:
    """Return the carried elements that are always a token of the text when a step begins.

    The prefill and every step have emitted what they carry, or found it carried so.
    """
    left = frozenset(
        carried(item.name, i)
        for item in parts[0].graph.carry
        if isinstance(item.type, Tokens)
        for i in range(item.type.size.at(0))
    )
    while True:
        kept = set(left)
        for part in parts:
            for closure in part.closures:
                before = frozenset[Term]() if part.step is None else left
                here = Emitted(closure, part.emitted(closure), before)
                for name, value in part.carries():
                    for i, term in enumerate(part.terms(value, closure)):
                        if here.place(term) == NEVER:
                            kept.discard(carried(name, i))
        if kept == left:
            return left
        left = frozenset(kept)
