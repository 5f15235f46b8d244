"""What an engine says of each of its steps, to whoever asked to be told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from nldc.runtime.errors import PromptError
from nldc.runtime.whole_numbers import shown

Kind = Literal["prefill", "step"]


@dataclass(frozen=True)
class SequenceStep:
    """One sequence's part in a step.

    `drafted` is how many tokens the step offered, `accepted` how many of them were emitted (before
    the cut at EOS, a stop string or the length), `kept` how many rows of the cache stayed, `nfe`
    how many forwards counted. `forwards` are all of them by the names of the strategy's nodes,
    those that do not count included.
    """

    id: int
    drafted: int
    accepted: int
    kept: int
    nfe: int
    forwards: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class StepRecord:
    """One prefill, or one step of the sequences that one strategy decodes.

    `number` counts the engine's steps from 0. Then: `seconds` that it took, the wait for the device
    included; sequences `live` in the engine, and `waiting`; `pages` of the cache in use,
    those included that were given to a step ahead.
    """

    number: int
    kind: Kind
    strategy: str
    sequences: tuple[SequenceStep, ...]
    seconds: float
    live: int
    waiting: int
    pages: int

    @property
    def ids(self) -> tuple[int, ...]:
        """The requests that had a part in it."""
        return tuple(each.id for each in self.sequences)


Observer = Callable[[StepRecord], None]


def as_observer(observer: object) -> Observer:
    """Return an observer that was given.

    Raises:
        PromptError: it cannot be called.
    """
    if not callable(observer):
        raise PromptError(
            f"the observer {shown(observer)} cannot be called", "give a function of a StepRecord"
        )
    return observer


def counts_nodes(observer: Observer) -> bool:
    """Whether an observer wants forwards by their nodes: unless its `by_node` is False.

    To count them, steps do more; to tell the rest costs the device nothing.
    """
    return getattr(observer, "by_node", True) is not False
