"""A sequence of a batch, as whoever runs the batch knows it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from nldc.runtime.cache.prefix import Known
from nldc.runtime.step.params import Given
from nldc.runtime.step.sampling import Sampling
from nldc.runtime.step.thinking import ThinkingLimit


@dataclass(frozen=True, eq=False)
class Member:
    """What one sequence brings to every forward and choice; nothing of it changes while it lives.

    `slot` is its place in the cache, `key` keys its noise. `sampling` says how its tokens are
    chosen, processors included, and `eos` which ids end it, the first first. Its prompt has
    `prompt_length` tokens, of which `embeddings` [P, hidden] stand in for the tokens' own, and
    `known` says what they are if somebody does; `carries_prompt`: rows of it may be computed in
    steps as well. No token lies behind `last_position`. `thinking` is
    its budget, and `thought` where the thought at the prompt's end begins, see
    `ThinkingLimit.thought`. `history` returns every token so far; it need not be a copy, and is
    asked for its length before every step of a strategy that looks text up. `params` are the values
    that it brings of its strategies' params.

    A sequence keeps its member: what the device knows of it is written when a batch first sees it.
    """

    slot: int
    key: int
    sampling: Sampling = field(default_factory=Sampling)
    eos: tuple[int, ...] = ()
    prompt_length: int = 1
    last_position: int = 2**62
    thinking: ThinkingLimit | None = None
    thought: int | None = None
    embeddings: Tensor | None = None
    known: Known | None = None
    carries_prompt: bool = True
    history: Callable[[], Sequence[int]] = list
    params: Given = field(default_factory=dict)
