"""What a run cost: forwards, tokens a forward, and the tokens accepted in each cycle."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass


@dataclass(frozen=True)
class Stats:
    """One sequence's run.

    `nfe` counts forwards; `accepted` the tokens committed in each cycle before the cut at EOS or
    `max_new_tokens` (the prefill is no cycle). Times are in seconds from the call to `generate`.
    `adapters` are those that the strategy had; without one it computes with base weights.
    """

    nfe: int
    tokens: int
    accepted: list[int]
    seconds: float
    time_to_first_token: float
    adapters: tuple[str, ...] = ()

    @property
    def tpf(self) -> float:
        """Tokens per forward."""
        return self.tokens / self.nfe if self.nfe else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Tokens emitted per second of the run."""
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def histogram(self) -> dict[int, int]:
        """How many cycles accepted how many tokens, by number of tokens."""
        return dict(sorted(Counter(self.accepted).items()))
