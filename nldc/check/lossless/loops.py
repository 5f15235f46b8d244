"""What a loop leaves: rows of which it is known, in every outcome, who may have filled them.

The body is walked with what may hold as a round begins, which grows until a round adds nothing:
an invariant that the body keeps. Three things can end a loop: no row is masked, or none changed;
an EOS stands before the first masked row; the rounds are over. The last needs a proof that they
suffice (`fills.py`), or the loop may leave any row masked. After the second, masked rows lie behind
that EOS, which is noted, so that whoever emits the one without the other is caught.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from nldc.check.lossless.choices import Choices
from nldc.check.lossless.fills import fills_all
from nldc.check.lossless.held import NAMELESS, HeldRows, Tokens
from nldc.ir.by_request import Declared
from nldc.ir.effects import last_fill
from nldc.ir.ops import Repeat, Value


class Walk(Protocol):
    """The values of a region, and of the body as it was walked last."""

    values: dict[str, Any]

    @property
    def declared(self) -> Declared:
        """The params that requests bring."""
        ...

    def tokens(self, value: Value) -> Tokens:
        """Return the terms of a use of tokens or rows."""
        ...


def leave_loop(
    name: str,
    op: Repeat,
    initial: HeldRows,
    choices: Choices,
    body: Callable[[HeldRows], Any],
    walk: Walk,
) -> HeldRows | None:
    """Return the rows after a loop; None if nothing is known of them.

    `body` walks one round over the rows that it is given and returns what they become.
    """
    head = HeldRows(initial.rows)
    while True:
        after = body(head)
        if not isinstance(after, HeldRows):
            return None
        ended = choices.copy_end(name, after) if op.eos == "fills" else after
        joined = choices.join(name, head, ended)
        if joined == head:
            break
        head = joined
    variable = f"{name}:{op.variable}"
    fill = last_fill(op) if op.exhausted == "fill" else None
    offered = None if fill is None else walk.tokens(fill.tokens)
    masks = range(initial.masked.count(True), len(head.rows) - initial.masked.count(False) + 1)
    if op.until == "unchanged":  # a round surely ran
        full = all(row.masked is False for row in after.rows)
    else:
        full = offered is not None or fills_all(
            op, variable, masks, walk.values, after, walk.declared
        )
    masked = _masked(op, initial, head) if full else head.masked
    rows = HeldRows(
        choices.leave(name, initial, head, masked, offered),
        within=initial.within | {op.initial.node} if variable in after.within else NAMELESS,
        keeps=initial.keeps | {op.initial.node} if variable in after.keeps else NAMELESS,
        ended=full,
    )
    choices.note_end(rows)
    if op.eos == "fills" and variable in after.keeps:
        choices.note_copies(name, rows)
    for earlier in sorted(rows.keeps):
        choices.note_copies(earlier, rows)
    return rows


def _masked(op: Repeat, initial: HeldRows, head: HeldRows) -> tuple[bool | None, ...]:
    """Return which rows may be masked in the end: none, or some behind an EOS, so not the first."""
    may_not_run = op.at_least == 0 and initial.rows[0].masked is not True
    early = op.eos == "stops" or (op.eos == "fills" and may_not_run)
    return tuple(
        False if row.masked is False or number == 0 or not early else None
        for number, row in enumerate(head.rows)
    )
