"""What the symbolic run holds for each type of the language: terms instead of tokens."""

from __future__ import annotations

from dataclasses import dataclass

from nldc.check.lossless.sight import Rowset
from nldc.check.lossless.terms import Term

Tokens = tuple[Term, ...]

NAMELESS: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Entry:
    """A row that is computed: all of it but its token, which depends on the outcome.

    `position` counts from the end of the committed prefix. `rows` says what it saw: of its own
    forward, whose row `first` has that number among the entries, and of the `cached` entries that
    were there before.
    """

    number: int
    node: str
    row: int
    position: int
    adapted: bool
    predicts_next: bool
    rows: Rowset
    first: int
    cached: tuple[int, ...]

    def sees(self) -> tuple[bool | None, tuple[int, ...]]:
        """Return whether it sees the committed prefix, and the entries that it sees.

        Raises:
            UndecidedError: the predicate may have no value.
        """
        sight = self.rows.sight(self.row)
        before = tuple(self.cached[place] for place in sight.cached)
        return sight.prefix, (*before, *(self.first + row for row in sight.own))


@dataclass(frozen=True)
class RowState:
    """One row: masked for sure, not masked for sure, or not known; and what it holds.

    `filled` is what it holds if it is not masked (None: it is), `blank` what it holds if it is
    (None: it is not); `token` is whichever it is.
    """

    token: Term
    masked: bool | None
    filled: Term | None
    blank: Term | None


@dataclass(frozen=True)
class HeldRows:
    """Rows, and how they relate to the rows that they were made from, which go by node name.

    Every masked row of these is masked in each of `within` too; every row that is filled in one of
    `keeps` is filled with the same token here. `ended`: if a row is masked, a filled row before the
    first such holds an EOS.
    """

    rows: tuple[RowState, ...]
    within: frozenset[str] = NAMELESS
    keeps: frozenset[str] = NAMELESS
    ended: bool = False

    @property
    def tokens(self) -> Tokens:
        """What each row holds."""
        return tuple(row.token for row in self.rows)

    @property
    def masked(self) -> tuple[bool | None, ...]:
        """Whether each row is masked."""
        return tuple(row.masked for row in self.rows)


@dataclass(frozen=True)
class HeldLogits:
    """Logits: the entry of which each row are the logits, or None where they are changed.

    `positions` are those that they predict, counted from the end of the committed prefix; None
    where that is not known.
    """

    entries: tuple[int | None, ...]
    positions: tuple[int | None, ...]


@dataclass(frozen=True)
class HeldMask:
    """A choice of rows: chosen for sure, not chosen for sure, or not known.

    Every chosen row is masked in each of `within`, and every masked row of each of `covers` is
    chosen; both name rows by node.
    """

    rows: tuple[bool | None, ...]
    within: frozenset[str] = NAMELESS
    covers: frozenset[str] = NAMELESS


@dataclass(frozen=True)
class HeldScores:
    """Scores: nothing is known of them but how many there are."""

    size: int


@dataclass(frozen=True)
class HeldAccepted:
    """What `accept` found, for one number of matches, in one of its branches."""

    tokens: Tokens
    drafted: Tokens
    rows: int
    matches: int
    bonus: Tokens
    branch: int = 0


@dataclass(frozen=True)
class HeldSomeAccepted:
    """What `accept` found in a round of a loop: it is not known how much."""

    bonus: Tokens


@dataclass(frozen=True)
class Nothing:
    """A value of an op that this analysis does not know."""


Held = (
    Tokens
    | HeldRows
    | HeldLogits
    | HeldMask
    | HeldScores
    | HeldAccepted
    | HeldSomeAccepted
    | Nothing
    | int
)
