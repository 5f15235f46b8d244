"""The backend with kernels: torch's layers around one launch of attention in each."""

from __future__ import annotations

from nldc.runtime.cache.kv_cache import KVCache, Places
from nldc.runtime.model.attention import Attention
from nldc.runtime.model.torch_backend import TorchBackend
from nldc.runtime.model.triton_attention import TritonAttention
from nldc.runtime.rows.plan import Plan


class TritonBackend(TorchBackend):
    """As torch's, but for the attention, which reads the tables of the device; imports triton."""

    capturable = True

    def attention(self, plan: Plan, cache: KVCache, places: Places) -> Attention:
        """Return the attention of one forward."""
        return TritonAttention(plan, cache, places)
