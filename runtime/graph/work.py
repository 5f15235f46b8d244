"""A captured step as a program: pieces that are replayed in order, and rounds of them.

A loop goes on as long as one of its sequences does. The host reads who does between two rounds, and
nothing else: the rows of a loop lie where they lay when it was captured, and so do those who go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

from torch import Tensor

from nldc.runtime.graph.recorder import Recorded
from nldc.runtime.step.host import Copy


@dataclass(frozen=True, eq=False)
class Rounds:
    """Rounds of a loop, up to `most`, while any of `active`, bool [B], is true; `least` are sure.

    `each` has the work of every round, or of all where they are the same.
    """

    active: Tensor
    most: int
    least: int
    each: tuple[Work, ...]


Work: TypeAlias = "tuple[Recorded | Rounds, ...]"


def replay(work: Work) -> None:
    """Do captured work again; the host waits for the device once a round."""
    for _ in played(work):
        pass


def played(work: Work) -> Iterator[None]:
    """Do captured work again, and yield wherever the host is about to wait for the device."""
    for part in work:
        if not isinstance(part, Rounds):
            part.replay()
            continue
        for number in range(part.most):
            if number >= part.least:
                active = Copy.of(part.active)
                yield
                if not any(active.read()):
                    break
            yield from played(part.each[min(number, len(part.each) - 1)])


class Nothing:
    """Work that is done and not captured."""

    def replay(self) -> None:
        """See `Recorded`."""


NOTHING = Nothing()


@dataclass(eq=False)
class Taking:
    """Work while it is captured: `cut` ends the piece so far, returns it, and begins the next."""

    cut: Callable[[], Recorded]
    _open: list[list[Recorded | Rounds]] = field(default_factory=lambda: [[]])

    def piece(self) -> None:
        """Let what was captured since the last piece be one."""
        self._open[-1].append(self.cut())

    @contextmanager
    def round(self, into: list[Work]) -> Iterator[None]:
        """Capture a round of a loop into a list."""
        self._open.append([])
        yield
        self.piece()
        into.append(tuple(self._open.pop()))

    def add(self, rounds: Rounds) -> None:
        """Let a loop follow what was captured so far."""
        self._open[-1].append(rounds)

    def whole(self, last: Recorded) -> Work:
        """Return all of it, of which this is the last piece."""
        (parts,) = self._open
        return (*parts, last)
