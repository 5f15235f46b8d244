"""Terms that stand for one of several, and the rows that hold them.

What a loop or a selection leaves open becomes a term of its own, with all that it may be. Two of
these need an excuse to be emitted: a row that a loop left masked, and an EOS that a loop copied
behind the one that was chosen. Where it is known that an EOS then stands in one of some other
tokens, those are noted: if all of them are emitted before, nothing that follows is text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from nldc.check.lossless.held import HeldMask, HeldRows, RowState, Tokens
from nldc.check.lossless.terms import MASK, Term, copied, made, unfilled


@dataclass
class Choices:
    """What is known of the terms of one trace.

    `origins` are all that a term may be. `ends` are for a term groups of others, the first
    so many of some: in each, one is an EOS if the term is what a loop left masked or copied.
    """

    origins: dict[Term, frozenset[Term]] = field(default_factory=dict)
    ends: dict[Term, tuple[tuple[Tokens, int], ...]] = field(default_factory=dict)

    def either(self, term: Term, *terms: Term) -> Term:
        """Return the term, which from now on may be any of `terms` too."""
        self.origins[term] = self.origins.get(term, frozenset()) | (frozenset(terms) - {term})
        return term

    def one_of(self, term: Term, *terms: Term | None) -> Term | None:
        """Return what is one of `terms`: the only one there is, None if there is none."""
        known = dict.fromkeys(other for other in terms if other is not None)
        return self.either(term, *known) if len(known) > 1 else next(iter(known), None)

    def row(
        self, term: Term, masked: bool | None, filled: Term | None, blank: Term | None
    ) -> RowState:
        """Return a row; `term` is what it holds if it is not known whether it is masked."""
        if masked is False:
            assert filled is not None
            return RowState(filled, False, filled, None)
        blank = MASK if blank is None else blank
        if masked or filled is None:
            return RowState(blank, True, None, blank)
        return RowState(self.either(term, filled, blank), None, filled, blank)

    # Ops

    def fill(
        self, node: str, rows: HeldRows, name: str, where: HeldMask, tokens: Tokens
    ) -> HeldRows:
        """Write tokens where chosen, over the rows of that name."""
        larger = rows.within | {name}
        covered = bool(where.covers & larger)
        filled = tuple(
            self._filled(node, number, row, take, new, covered=covered)
            for number, (row, take, new) in enumerate(
                zip(rows.rows, where.rows, tokens, strict=True)
            )
        )
        untouched = all(take is False for take in where.rows)
        keeps = rows.keeps | {name}
        result = HeldRows(
            filled,
            within=larger,
            keeps=keeps if untouched else keeps & where.within,
            ended=rows.ended and (untouched or name in where.within),
        )
        self.note_end(result)
        return result

    def _filled(
        self, node: str, number: int, row: RowState, take: bool | None, new: Term, *, covered: bool
    ) -> RowState:
        if take:
            return RowState(new, False, new, None)
        masked = False if covered and (take is None or row.filled is not None) else row.masked
        if take is False:
            return row if masked is row.masked else self.row(row.token, masked, row.filled, None)
        filled = self.one_of(made(node, number, "filled"), row.filled, new)
        masked = None if masked else masked
        return self.row(made(node, number), masked, filled, row.blank)

    def mask(self, node: str, rows: HeldRows, name: str, where: HeldMask) -> HeldRows:
        """Mask rows again where chosen, of the rows of that name.

        What a chosen row held is gone, an EOS too; where only masked rows are chosen, nothing is.
        """
        masked = tuple(
            row if take is False else self._masked(node, number, row, surely=take is True)
            for number, (row, take) in enumerate(zip(rows.rows, where.rows, strict=True))
        )
        untouched = all(take is False for take in where.rows)
        within, keeps = rows.within | {name}, rows.keeps | {name}
        result = HeldRows(
            masked,
            within=within if untouched else within & where.within,
            keeps=keeps if untouched else keeps & where.within,
            ended=rows.ended and (untouched or name in where.within),
        )
        self.note_end(result)
        return result

    def _masked(self, node: str, number: int, row: RowState, *, surely: bool) -> RowState:
        if row.masked:
            return row
        masked = True if surely else None
        filled = None if surely else row.filled
        return self.row(made(node, number), masked, filled, row.blank)

    def note_end(self, rows: HeldRows) -> None:
        """Note for rows that ended what an EOS stands in if a row is masked: those before it."""
        if rows.ended:
            tokens = rows.tokens
            for number, row in enumerate(rows.rows):
                if row.masked is None:
                    self._ends_with(row.token, tokens, number)

    def _ends_with(self, term: Term, tokens: Tokens, count: int) -> None:
        self.ends[term] = (*self.ends.get(term, ()), (tokens, count))

    # Loops. The terms of a loop's rows inside and after it are different ones: what a row holds as
    # a round begins is not what it holds in the end.

    def copy_end(self, loop: str, rows: HeldRows) -> HeldRows:
        """Return rows of which the masked ones may have become the first EOS before them."""
        copies = tuple(
            row
            if row.masked is False or number == 0
            else self.row(
                made(loop, number, "round", "open"),
                None,
                self.either(
                    made(loop, number, "copy"), *filter(None, (row.filled, copied(loop)))
                ),
                row.blank,
            )
            for number, row in enumerate(rows.rows)
        )  # fmt: skip
        return replace(rows, rows=copies)

    def join(self, loop: str, head: HeldRows, after: HeldRows) -> HeldRows:
        """Return the rows as a round begins: those of a round before, or of one more."""
        rows = tuple(
            old if (old.token, old.masked) == (new.token, new.masked) else self._joined(
                loop, number, old, new
            )
            for number, (old, new) in enumerate(zip(head.rows, after.rows, strict=True))
        )  # fmt: skip
        return HeldRows(rows)

    def _joined(self, loop: str, number: int, old: RowState, new: RowState) -> RowState:
        masked = old.masked if old.masked is new.masked else None
        fills = [term for term in (old.filled, new.filled) if term is not None]
        filled = self.either(made(loop, number, "round", "filled"), *fills) if fills else None
        blanks = {term for term in (old.blank, new.blank) if term is not None}
        blank = blanks.pop() if len(blanks) == 1 else unfilled(loop)
        return self.row(made(loop, number, "round"), masked, filled, blank)

    def leave(
        self,
        loop: str,
        initial: HeldRows,
        held: HeldRows,
        masked: Sequence[bool | None],
        offered: Tokens | None,
    ) -> tuple[RowState, ...]:
        """Return the rows after a loop: `held`, as a round may begin, but for what is `masked`.

        `offered` is written into masked rows at last, if the rounds run out.
        """
        rows: list[RowState] = []
        for number, row in enumerate(held.rows):
            left = masked[number]
            if row == initial.rows[number] and left is row.masked:
                rows.append(row)
                continue
            fills = [term for term in (row.filled,) if term is not None]
            if offered is not None and row.masked is not False:
                fills.append(offered[number])
            filled = self.either(made(loop, number, "filled"), *fills) if fills else None
            left = left if fills else row.masked
            rows.append(self.row(made(loop, number), left, filled, unfilled(loop)))
        return tuple(rows)

    def note_copies(self, loop: str, rows: HeldRows) -> None:
        """Note that an EOS which was copied into a row still stands in a row before it.

        So it does in rows that keep what the loop filled, whatever fills the masked ones later.
        """
        tokens = rows.tokens
        for number in range(1, len(tokens)):
            copy = made(loop, number, "copy")
            if copy in self.origins:
                self._ends_with(copy, tokens, number)


def laid(tokens: Sequence[Term | None]) -> HeldRows:
    """Return rows as they are laid out: a token each, or a mask."""
    return HeldRows(
        tuple(
            RowState(MASK, True, None, MASK)
            if token is None
            else RowState(token, False, token, None)
            for token in tokens
        )
    )
