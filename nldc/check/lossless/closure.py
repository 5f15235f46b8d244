"""Which rows are computed as AR would compute them, and which tokens are AR's: the least such sets.

A row is AR's row at offset o if it holds AR's token there, lies there, has no adapter, and sees the
committed prefix and exactly AR's rows at the offsets before, once each, and itself. What is sampled
from it is AR's token at o + 1, unless that is a token of the prompt. Both rules are applied until
nothing new follows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from nldc.check.lossless.alike import Flaw
from nldc.check.lossless.held import Entry
from nldc.check.lossless.outcomes import TooMuchError
from nldc.check.lossless.prefill_rows import Class, class_of
from nldc.check.lossless.terms import MASK, Equalities, Invariant, Term, ar, choice
from nldc.check.lossless.trace import Trace

MOST_CLOSED = 200_000
"""Rows of tokens and equal pairs, over all outcomes of a step, that are followed up."""


@dataclass(frozen=True)
class Closure:
    """What follows: equalities of tokens, and the entries that are AR's rows (at their position).

    An outcome that contradicts itself cannot happen.
    """

    trace: Trace
    equalities: Equalities
    pure: frozenset[int]

    @property
    def possible(self) -> bool:
        """Whether the outcome can happen: no pair that differed is known to be equal."""
        return not any(self.equalities.equal(*pair) for pair in self.trace.different)


def contradicts(trace: Trace) -> bool:
    """Whether an outcome contradicts itself by what its accepts compared alone."""
    if not set(trace.equal).isdisjoint(trace.different):
        return True
    equalities = Equalities(trace.equal)
    return any(equalities.equal(*pair) for pair in trace.different)


def possible(traces: Iterable[Trace]) -> list[Trace]:
    """Return the traces whose outcomes do not contradict themselves at once.

    Raises:
        TooMuchError: there is too much to be closed in them.
    """
    found: list[Trace] = []
    work = 0
    for trace in traces:
        if contradicts(trace):
            continue
        work += len(trace.equal) + sum(token != MASK for token in trace.tokens)
        if work > MOST_CLOSED:
            raise TooMuchError(
                f"the rows and comparisons of its outcomes come to more than {MOST_CLOSED}"
            )
        found.append(trace)
    return found


@dataclass
class Closer:
    """Closes traces of one graph; the shape of a row's sight is found once for all outcomes.

    Rows of the prefill with one of the `flaws` are not AR's at every length of the prompt, and so
    are taken for others.
    """

    flaws: Mapping[Class, Flaw] = field(default_factory=dict)
    _others: dict[tuple[object, ...], tuple[int, ...] | None] = field(default_factory=dict)

    def close(
        self, trace: Trace, known: Invariant, prompt: int, given: Mapping[Term, Term] | None = None
    ) -> Closure:
        """Return everything that follows from what is known before the region runs.

        Tokens at offsets below `prompt` may be the prompt's, and those AR did not choose. `given`
        are equalities that hold by decree.
        """
        equalities = Equalities(sorted(sorted(group, key=str) for group in known))
        for pair in (*trace.equal, *(given or {}).items()):
            equalities.join(*pair)
        candidates = [e for e in trace.entries if not e.adapted]
        masked = [e for e in candidates if trace.tokens[e.number] == MASK]
        left = [e for e in candidates if trace.tokens[e.number] != MASK]
        left.sort(key=lambda e: (e.position, e.number))
        pure: set[int] = set()
        news = True
        while news:
            news = False
            waiting = []
            if masked and equalities.offsets(MASK):
                left = sorted((*left, *masked), key=lambda e: (e.position, e.number))
                masked = []
            for entry in left:
                token = trace.tokens[entry.number]
                if not equalities.equal(token, ar(entry.position)):
                    waiting.append(entry)
                    continue
                others = self.others(entry, trace)
                if others is None:
                    continue
                if not all(number in pure for number in others):
                    waiting.append(entry)
                    continue
                pure.add(entry.number)
                news = True
                if entry.predicts_next and entry.position + 1 >= prompt:
                    equalities.join(ar(entry.position + 1), choice(entry.number))
            left = waiting
        return Closure(trace, equalities, frozenset(pure))

    def others(self, entry: Entry, trace: Trace) -> tuple[int, ...] | None:
        """Return the entries that the entry sees beside itself; None if they cannot be right.

        Right are the whole committed prefix, and one entry at each offset from 0 to its own.
        """
        key = (entry.node, entry.row, trace.prompt_length, entry.first, entry.cached)
        if key not in self._others and self.flaw(entry, trace) is not None:
            self._others[key] = None
        if key not in self._others:
            prefix, seen = entry.sees()
            others = tuple(number for number in seen if number != entry.number)
            positions = sorted(trace.entries[number].position for number in others)
            fits = (
                (prefix or trace.prompt_length > 0)
                and len(others) == len(seen) - 1
                and positions == list(range(entry.position))
            )
            self._others[key] = others if fits else None
        return self._others[key]

    def flaw(self, entry: Entry, trace: Trace) -> Flaw | None:
        """Return why a row of the prefill is not AR's at every length, if it is not."""
        if not self.flaws or not trace.prompt_length:
            return None
        rows = entry.rows
        row = rows.rows[entry.row]
        return self.flaws.get(class_of(entry.node, rows.op.layout, row, trace.prompt_length))
