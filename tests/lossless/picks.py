"""Who makes the choices of a random file: a seed, or hypothesis, which can shrink them."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Protocol

from hypothesis import strategies as st


class Pick(Protocol):
    """Takes one of several options, the first more often than the others."""

    def __call__(self, options: Sequence[str], /) -> str: ...

    def even(self, options: Sequence[str], /) -> str:
        """Take one of equals: the first option is not favoured."""
        ...


class RandomPick:
    """A pick that is the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.care = self.random.choice((0.95, 0.88, 0.8, 0.5))

    def __call__(self, options: Sequence[str], /) -> str:
        if self.random.random() < self.care:
            return options[0]
        return self.random.choice(list(options))

    def even(self, options: Sequence[str], /) -> str:
        """Take one of equals."""
        return self.random.choice(list(options))


class DrawnPick:
    """A pick that hypothesis makes, and can shrink."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.care = draw(st.sampled_from((10, 4, 2, 0)))

    def __call__(self, options: Sequence[str], /) -> str:
        if len(options) == 1 or (self.care and self.draw(st.integers(0, self.care)) < self.care):
            return options[0]
        return self.even(options)

    def even(self, options: Sequence[str], /) -> str:
        """Take one of equals."""
        return self.draw(st.sampled_from(list(options)))
