"""Loops that end when nothing changes, followed round by round.

A body that does the same in every round, whatever its number, leaves a value that it does not
change as it is for ever. So a loop that ends there holds what it would hold after all its rounds,
and is followed as if it took them: every round's forward is computed, and what is said of rows
outside of loops is said of these.
"""

from __future__ import annotations

from nldc.ir.graph import walk
from nldc.ir.ops import Forward, Join, LayRows, Repeat, Sample
from nldc.ir.size import Size

MOST_ROWS = 4096
"""Of a loop whose rounds have more rows in all, nothing is known."""


def is_followed(loop: Repeat) -> bool:
    """Whether a loop ends when nothing changes, and its rounds can be followed.

    Its body is made of forwards, of tokens chosen from them, and of rows made of tokens: each
    round's choices are then those of its own rows, and nothing asks for the round's number.
    """
    if loop.until != "unchanged" or rows_of(loop) > MOST_ROWS:
        return False
    forwards = {node.name for node in loop.body.nodes if isinstance(node.op, Forward)}
    for node in loop.body.nodes:
        match node.op:
            case LayRows() | Join() | Forward():
                continue
            case Sample(logits, "allowed", None) if logits.node in forwards:
                continue
            case _:
                return False
    return True


def rows_of(loop: Repeat) -> int:
    """Return how many rows and tokens all rounds of a loop have."""
    sizes = (getattr(node.type, "size", None) for node in walk(loop.body.nodes))
    return loop.at_most * sum(size.at(1) for size in sizes if isinstance(size, Size))
