"""Which graph a step takes: what two steps have in common that one graph does for both."""

from __future__ import annotations

from dataclasses import dataclass

from nldc.runtime.invariant.line_tiles import KEY_TILE
from nldc.runtime.step.carry import Form
from nldc.runtime.step.choose import kind_of
from nldc.runtime.step.lineup import Lineup

FIRST_KEYS = 2 * KEY_TILE
"""The keys of the smallest graphs."""


@dataclass(frozen=True)
class Kind:
    """What a graph says of its sequences, whichever they are.

    `drawn`: somebody is sampled, `filters`: and something may go of what is drawn of. How each is
    sampled is read on the device, or where the host has a part in it, `groups` are those that are
    sampled alike, each with its sequences' numbers. `budgets`: somebody has a thinking budget;
    `starts`: with a token that begins a thought.
    """

    size: int
    drawn: bool
    filters: bool
    groups: tuple[tuple[tuple[object, ...], tuple[int, ...]], ...]
    budgets: bool
    starts: bool

    @staticmethod
    def of(lineup: Lineup, size: int, *, by_groups: bool) -> Kind:
        """Return the kind of a lineup in a graph of so many sequences, which its last one fills."""
        thoughts, rules = lineup.thoughts, lineup.rules
        count = len(lineup.members)
        filling = tuple(range(count, size))
        return Kind(
            size=size,
            drawn=rules.drawn,
            filters=rules.filters,
            groups=tuple(
                (kind_of(each.sampling), each.members + filling * (count - 1 in each.members))
                for each in rules.groups
                if by_groups
            ),
            budgets=thoughts is not None,
            starts=thoughts is not None and thoughts.starts,
        )


@dataclass(frozen=True)
class Key:
    """One graph: of a strategy, for sequences of a kind.

    None is longer in the cache than `keys`, nor are their texts longer than `texts` (0: the device
    has none). They carry values of the form `carry`; `watched`: forwards are counted by node.
    """

    strategy: str
    kind: Kind
    keys: int
    texts: int
    carry: Form
    watched: bool


def bucket(size: int, first: int = 1) -> int:
    """Return the smallest of `first` times 1, 2, 4, and so on that is not below `size`."""
    return first << max(0, -(-size // first) - 1).bit_length()
