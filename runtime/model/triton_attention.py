"""The triton backend of attention: stores the rows' keys and values, then a launch or two a layer.

Only this module and `runtime.kernels` import triton, and only when the backend is asked for.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nldc.runtime.cache.kv_cache import KVCache, Places
from nldc.runtime.errors import BackendError
from nldc.runtime.invariant.line_tiles import KEY_TILE
from nldc.runtime.kernels.attention import attention, room_for
from nldc.runtime.kernels.attention_tiles import divide
from nldc.runtime.kernels.device import interpreted
from nldc.runtime.kernels.launchable import Target
from nldc.runtime.rows.plan import Plan


class TritonAttention:
    """Attention of one forward of the whole batch; see `attention.Attention`.

    `max_keys` is the most keys that a sequence may have when a launch is replayed with other
    lengths, its rows counted; None: those of `places`. Bits do not depend on it.
    """

    def __init__(
        self, plan: Plan, cache: KVCache, places: Places, max_keys: int | None = None
    ) -> None:
        if plan.pattern.kernel is None:
            raise BackendError(
                f"the pattern `{plan.pattern.name}` was compiled without a kernel",
                "use backend torch",
            )
        config, count = cache.config, plan.layout.size
        self.plan = plan
        self.cache = cache
        self.places = places
        self.predicate = plan.pattern.kernel()
        self.target = Target.of(cache.device)
        self.facts = plan.facts
        rows = torch.arange(count, device=cache.device)
        targets = places.start.unsqueeze(1) + rows
        self.table = cache.table
        self.pages = self.table[places.slot_index.unsqueeze(1), targets // KEY_TILE].long()
        self.rows = targets % KEY_TILE
        self.upcast = cache.dtype == torch.float32 or (
            interpreted() and cache.dtype == torch.bfloat16
        )
        batch, heads, dim = len(places.slots), config.num_kv_heads, config.head_dim
        self.division = divide(
            count,
            config.num_heads // heads,
            batch,
            heads,
            dim,
            2 if interpreted() else cache.dtype.itemsize,  # there, the fewest programs
            max(places.lengths) + count if max_keys is None else max_keys,
        )
        self.begin: Tensor | None = None
        if plan.pattern.asks_prompt:
            assert places.begin is not None
            self.begin = places.begin.contiguous()
        self.room = room_for(self.division, batch * heads, dim, cache.device)

    def __call__(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, factor: Tensor
    ) -> Tensor:
        """See `attention.Attention`."""
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        shape = (*self.rows.shape, *key.shape[1:])
        keys[self.pages, :, self.rows] = key.reshape(shape)
        values[self.pages, :, self.rows] = value.reshape(shape)
        return self.attend(layer, query, factor)

    def attend(self, layer: int, query: Tensor, factor: Tensor) -> Tensor:
        """Return [n, heads * head_dim] for query [n, heads, head_dim], rotated but not scaled.

        The rows' keys and values lie in the cache already. `factor` [n, 1, 1] scales the queries.
        """
        return attention(
            query,
            self.cache.keys[layer],
            self.cache.values[layer],
            self.table,
            self.places.slot_index,
            self.places.start,
            factor.reshape(-1),
            self.facts,
            self.plan.seen,
            self.predicate,
            self.division,
            self.room,
            self.target,
            sees_prefix=self.plan.pattern.sees_prefix,
            upcast=self.upcast,
            begin=self.begin,
        )
