"""Biases and penalties of requests as processors of logits.

Each decides by a row's logits, position and text alone, so that an exact strategy emits what AR
does under the same ones. Two that say the same are equal, and their sequences share a call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Bias:
    """Adds to the logits of some tokens: `pairs` are tokens and what is added."""

    pairs: tuple[tuple[int, float], ...]

    def __call__(self, logits: Tensor, positions: Tensor) -> Tensor:  # noqa: ARG002
        """Return biased logits [B, n, V]."""
        tokens, added = zip(*self.pairs, strict=True)
        logits[..., list(tokens)] += logits.new_tensor(added)
        return logits


@dataclass(frozen=True)
class AtLeast:
    """Lets none of the tokens `ends` stand before position `first`."""

    ends: tuple[int, ...]
    first: int

    def __call__(self, logits: Tensor, positions: Tensor) -> Tensor:
        """Return logits [B, n, V] that allow no early end."""
        ends = list(self.ends)
        early = (positions < self.first).unsqueeze(-1)
        logits[..., ends] = logits[..., ends].masked_fill(early, float("-inf"))
        return logits


@dataclass(frozen=True)
class Penalties:
    """Makes tokens less likely that have come already.

    `repetition` divides the logits of tokens of the prompt and the answer that are above 0, and
    multiplies the others; then `frequency` is taken off for each time that a token stands in the
    answer, which begins at position `begin`, and `presence` once.
    """

    frequency: float
    presence: float
    repetition: float
    begin: int
    sees_tokens: ClassVar[bool] = True

    def __call__(self, logits: Tensor, positions: Tensor, tokens: Tensor) -> Tensor:  # noqa: ARG002
        """Return logits [B, n, V] by the text that each row saw, `tokens` [B, n, length]."""
        seen = tokens >= 0
        if self.repetition != 1:
            scaled = logits.where(logits <= 0, logits / self.repetition)
            scaled = scaled.where(logits > 0, logits * self.repetition)
            logits = logits.where(_counts(logits, tokens, seen) == 0, scaled)
        if self.frequency or self.presence:
            seen[..., : self.begin] = False
            counts = _counts(logits, tokens, seen)
            logits = logits - self.frequency * counts - self.presence * (counts > 0)
        return logits


def _counts(logits: Tensor, tokens: Tensor, which: Tensor) -> Tensor:
    """Return how often each token of the vocabulary is among those chosen, [B, n, V]."""
    zeros = logits.new_zeros(logits.shape)
    return zeros.scatter_add_(-1, tokens.clamp(min=0), which.to(logits.dtype))
