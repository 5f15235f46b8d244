"""What has been emitted before a token: if an EOS is among it, the token is no text any more.

So a row that a loop left masked behind an EOS is no fault where that EOS is emitted first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nldc.check.lossless.closure import Closure
from nldc.check.lossless.parts import Part
from nldc.check.lossless.terms import Term, carried
from nldc.ir.types import Tokens


@dataclass(frozen=True)
class Said:
    """What one region has emitted, and the carried elements `before` it that are text already."""

    closure: Closure
    roots: frozenset[Term]
    before: frozenset[Term]

    def __contains__(self, term: Term) -> bool:
        equalities = self.closure.equalities
        return equalities.find(term) in self.roots or any(
            member in self.before for member in equalities.members(term)
        )

    def open_origins(self, term: Term) -> frozenset[Term]:
        """Return what a term may be while it is text: not what stands behind an emitted EOS."""
        trace = self.closure.trace
        origins = trace.origins[term]
        if any(all(other in self for other in group) for group in trace.ends.get(term, ())):
            return frozenset(o for o in origins if o[0] not in ("unfilled", "copied"))
        return origins


def said(closure: Closure, emitted: Iterable[Term], before: frozenset[Term]) -> Said:
    """Return what a region has said after so many tokens."""
    return Said(closure, frozenset(map(closure.equalities.find, emitted)), before)


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
                here = said(closure, part.emitted(closure), frozenset() if part.begins else left)
                for name, value in part.carries():
                    for i, term in enumerate(part.terms(value, closure)):
                        if term not in here:
                            kept.discard(carried(name, i))
        if kept == left:
            return left
        left = frozenset(kept)
