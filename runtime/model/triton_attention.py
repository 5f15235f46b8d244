"""The triton backend of attention: stores the rows' keys and values, then one launch a layer.

Only this module and `runtime.kernels` import triton, and only when the backend is asked for.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nldc.runtime.cache.kv_cache import KVCache, Places
from nldc.runtime.errors import BackendError
from nldc.runtime.invariant.line_tiles import KEY_TILE
from nldc.runtime.kernels.attention import attention
from nldc.runtime.kernels.device import interpreted
from nldc.runtime.rows.plan import Plan


class TritonAttention:
    """Attention of one forward of the whole batch; see `attention.Attention`."""

    def __init__(self, plan: Plan, cache: KVCache, places: Places) -> None:
        if plan.pattern.kernel is None:
            raise BackendError(
                f"the pattern `{plan.pattern.name}` was compiled without a kernel",
                "use backend torch",
            )
        self.plan = plan
        self.cache = cache
        self.places = places
        self.predicate = plan.pattern.kernel()
        self.facts = plan.facts
        rows = torch.arange(plan.layout.size, device=cache.device)
        targets = places.start.unsqueeze(1) + rows
        self.table = cache.table
        self.pages = self.table[places.slot_index.unsqueeze(1), targets // KEY_TILE].long()
        self.rows = targets % KEY_TILE
        self.upcast = cache.dtype == torch.float32 or interpreted()

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
        """Return what `__call__` does where the rows' keys and values are in the cache already."""
        return attention(
            query,
            self.cache.keys[layer],
            self.cache.values[layer],
            self.table,
            self.places.slot_index,
            self.places.start,
            factor.reshape(-1),
            self.facts,
            self.predicate,
            sees_prefix=self.plan.pattern.sees_prefix,
            upcast=self.upcast,
        )
