"""What computes a model's layers and its head: the seam behind which kernels are written.

A backend belongs to one `Backbone`. Whatever it fuses, it keeps to what `TorchBackend` says: the
same rows in the cache, a row's bits whatever is computed with it, and of a head the very token that
the choice would take of its logits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from torch import Tensor

from nldc.runtime.cache.kv_cache import KVCache, Places
from nldc.runtime.checkpoint.adapter import Adapter
from nldc.runtime.model.backbone import Backbone
from nldc.runtime.model.sampler import Sampler
from nldc.runtime.model.scores import Scores
from nldc.runtime.rows.plan import Plan

R = TypeVar("R")
Program = tuple[tuple[Any, ...], ...]
"""Instructions that a kernel does for each sequence, see `kernels/between.py`."""
Between = Callable[[Program, Sequence[Tensor], Tensor], None]
"""Does a program on memory, for the sequences of slots int64 [B]."""


@dataclass(frozen=True, eq=False)
class Drawing:
    """How each of B sequences is sampled, in numbers on the device, which may change in place.

    `temperature` float64 [B], of which the lowest are greedy. What stays of a row: the `top_k`
    likeliest tokens, int64 [B]; those that together have `top_p` of the probability, float64 [B];
    and those that are no further below the best than `reach`, float64 [B], which is not positive.
    Where nothing is to go, these are above any vocabulary, 1 and -inf.
    """

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    reach: Tensor


@dataclass(frozen=True, eq=False)
class Choice:
    """How one token is chosen of the logits of each row: in numbers, and as a function.

    `positions` int64 [B, n] are those of the tokens; `keys` int64 [B] and `seeds` int64 [B, 1] key
    the noise of each sequence. `drawing` None: all are greedy; `filters`: something may go of what
    somebody draws of. The token `barred` is never chosen. `of` maps logits [B, n, vocabulary] to
    tokens int64 [B, n], and says what all these numbers mean.
    """

    positions: Tensor
    keys: Tensor
    seeds: Tensor
    drawing: Drawing | None
    filters: bool
    barred: int | None
    of: Callable[[Tensor], Tensor]


Chooser = Callable[[Tensor], Tensor]
"""Maps logits [B, n, vocabulary] to tokens int64 [B, n]: a choice for which somebody sees them."""


class Backend(Protocol[R]):
    """Computes with one model's weights; `R` is what it knows of the rows of one forward.

    `capturable`: a forward asks the host for nothing but what is the same whatever the lengths
    and the pages are, up to the lengths of its `places`. So it can be captured and replayed.
    `between` does what a step's ops noted between two calls of the model; None: they note nothing,
    and each is torch's own.
    """

    capturable: bool
    between: Between | None

    @property
    def backbone(self) -> Backbone:
        """The weights, the config, and the rotary tables."""
        ...

    def rows(
        self,
        plan: Plan,
        cache: KVCache,
        places: Places,
        positions: Tensor,
        adapter: Adapter | None = None,
        adapter_rows: Tensor | None = None,
    ) -> R:
        """Return what all layers share in a forward of `plan` behind `places`, prepared once.

        `positions` int64 [n] are absolute, one sequence after another. `adapter` adds its products
        on the rows with the numbers `adapter_rows`, int64 (None: on all).
        """
        ...

    def layer(self, number: int, states: Tensor, rows: R) -> Tensor:
        """Return the states [n, hidden] behind a layer, of those before it, [n, hidden].

        The rows' keys and values are written to the cache; what `states` holds may be lost.
        """
        ...

    def move(self, cache: KVCache, places: Places, path: Tensor, keep: Tensor) -> None:
        """Move rows behind `places`, the first `keep` [B] of `path` [B, r], to the first places.

        A path's rows, int64, are numbers that rise. Nobody waits for the device.
        """
        ...

    def head(self, states: Tensor) -> Tensor:
        """Return logits [n, vocabulary] of states [n, hidden] behind the last layer."""
        ...

    def choose(self, values: Tensor, choice: Choice) -> Tensor:
        """Return what `choice` takes of logits [B, n, vocabulary]: tokens [B, n]."""
        ...

    def measured(self, values: Tensor, scores: Scores) -> tuple[Tensor, ...]:
        """Return each score, [B, n], of logits [B, n, vocabulary].

        Where a probability is among them, `tokens` are given.
        """
        ...

    def mix(self, parts: Sequence[Tensor], weights: Sequence[float | Tensor]) -> Tensor:
        """Return the sum of logits [B, n, vocabulary], each times its weight, see `scores.mixed`.

        A weight is a number, or float32 [B, 1].
        """
        ...

    def candidates(self, values: Tensor, count: int) -> Tensor:
        """Return the `count` likeliest tokens, int64 [n, count], of logits [n, vocabulary].

        See `scores.candidates`.
        """
        ...

    def safety(self, sampler: Sampler, logits: Tensor, tokens: Tensor, masked: Tensor) -> Tensor:
        """Return how safe it is to commit each row's likeliest token, float32 [B, n] in 0 to 1.

        Of `logits` [B, n, vocabulary] and rows of `tokens` int64 [B, n], some `masked`, bool
        [B, n]. A sequence's scores have the same bits in any batch.
        """
        ...

    def head_choose(self, states: Tensor, choice: Choice) -> Tensor:
        """Return what `choice` takes of the logits of states [B * n, hidden]: tokens [B, n]."""
        ...

    def head_choose_scored(
        self, states: Tensor, choice: Choice | Chooser, scores: Scores
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the tokens of states [B, n, hidden], int64 [B, n], and each score, [B, n].

        A row's scores have the same bits however its token is chosen.
        """
        ...

    def scored(self, states: Tensor, tokens: Tensor) -> Tensor:
        """Return the log-probabilities, float32 [n], of tokens int64 [n] in states [n, hidden].

        The tokens are of the vocabulary. Nobody needs the logits.
        """
        ...


def through_layers(backend: Backend[R], states: Tensor, rows: R) -> Tensor:
    """Return the states [n, hidden] behind all layers, of embeddings [n, hidden]."""
    for number in range(backend.backbone.config.num_layers):
        states = backend.layer(number, states, rows)
    return states
