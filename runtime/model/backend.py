"""What computes a model's layers and its head: the seam behind which kernels are written.

A backend belongs to one `Backbone`. Whatever it fuses, it keeps to what `TorchBackend` says: the
same rows in the cache, a row's bits whatever is computed with it, and of a head the very token that
the choice would take of its logits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from torch import Tensor

from nldc.runtime.cache.kv_cache import KVCache, Places
from nldc.runtime.checkpoint.adapter import Adapter
from nldc.runtime.model.backbone import Backbone
from nldc.runtime.rows.plan import Plan

R = TypeVar("R")


@dataclass(frozen=True, eq=False)
class Choice:
    """How one token is chosen of the logits of each row: in numbers, and as a function.

    `positions` int64 [B, n] are those of the tokens; `keys` int64 [B] and `seeds` int64 [B, 1] key
    the noise of each sequence. `temperature` 0 is greedy, and then no filter applies. The token
    `barred` is never chosen. `of` maps logits [B, n, vocabulary] to tokens int64 [B, n], and says
    what all these numbers mean.
    """

    positions: Tensor
    keys: Tensor
    seeds: Tensor
    temperature: float
    top_k: int | None
    top_p: float | None
    min_p: float | None
    barred: int | None
    of: Callable[[Tensor], Tensor]


class Backend(Protocol[R]):
    """Computes with one model's weights; `R` is what it knows of the rows of one forward.

    `capturable`: a forward asks the host for nothing but what is the same whatever the lengths
    and the pages are, up to the lengths of its `places`. So it can be captured and replayed.
    """

    capturable: bool

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

    def head(self, states: Tensor) -> Tensor:
        """Return logits [n, vocabulary] of states [n, hidden] behind the last layer."""
        ...

    def head_choose(self, states: Tensor, choice: Choice) -> Tensor:
        """Return what `choice` takes of the logits of states [B * n, hidden]: tokens [B, n]."""
        ...


def through_layers(backend: Backend[R], states: Tensor, rows: R) -> Tensor:
    """Return the states [n, hidden] behind all layers, of embeddings [n, hidden]."""
    for number in range(backend.backbone.config.num_layers):
        states = backend.layer(number, states, rows)
    return states
