"""The triton backend of attention: stores the rows' keys and values, then one launch a layer.

Only this module and `runtime.kernels` import triton, and only when the backend is asked for.
"""

from __future__ import annotations

import os

import numpy
import torch
import triton
from torch import Tensor

from nldc.runtime.attention import Plan
from nldc.runtime.errors import BackendError
from nldc.runtime.kernels.attention import attention
from nldc.runtime.kv_cache import KEY_TILE, KVCache, Places


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
        self.slots = places.slot_index.unsqueeze(1)
        rows = torch.arange(plan.layout.size, device=cache.device)
        targets = places.start.unsqueeze(1) + rows
        self.tiles, self.rows = targets // KEY_TILE, targets % KEY_TILE
        self.upcast = cache.dtype == torch.float32 or interpreted()

    def __call__(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, factor: Tensor
    ) -> Tensor:
        """See `attention.Attention`."""
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        shape = (*self.rows.shape, *key.shape[1:])
        keys[self.slots, self.tiles, :, self.rows] = key.reshape(shape)
        values[self.slots, self.tiles, :, self.rows] = value.reshape(shape)
        return attention(
            query,
            keys,
            values,
            self.places.slot_index,
            self.places.start,
            factor.reshape(-1),
            self.facts,
            self.predicate,
            sees_prefix=self.plan.pattern.sees_prefix,
            upcast=self.upcast,
        )


def interpreted() -> bool:
    """Whether triton runs its kernels as Python, on the CPU."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def check_device(device: torch.device) -> None:
    """Raise BackendError unless the kernels can run on `device`."""
    if device.type != "cuda" and not interpreted():
        raise BackendError(
            f"triton kernels cannot run on {device.type}",
            "use backend torch, or set TRITON_INTERPRET=1 to interpret them slowly",
        )
    if interpreted() and not can_interpret():
        raise BackendError(
            f"triton {triton.__version__} cannot interpret loops with numpy {numpy.__version__}",
            "install numpy below 2.4, or a newer triton",
        )


def can_interpret() -> bool:
    """Whether this triton's interpreter works with this numpy."""

    def version(text: str) -> tuple[int, ...]:
        return tuple(int(part) for part in text.split(".")[:2])

    return version(triton.__version__) > (3, 6) or version(numpy.__version__) < (2, 4)
