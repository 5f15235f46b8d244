"""The backend with kernels: nine launches a layer, each of which does all between two products.

What `TorchBackend` computes, with fewer roundings: sums stay in float32 until a value is stored.
A layer is product (query, key, value), rotary, attention, product, sum and norm, gated product,
product, sum and norm; the last of these norms for the layer behind it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nldc.runtime.cache.kv_cache import KVCache, Places
from nldc.runtime.checkpoint.adapter import Adapter
from nldc.runtime.errors import BackendError
from nldc.runtime.invariant.line_tiles import KEY_TILE
from nldc.runtime.kernels.head import Asked, Found, Noise, head
from nldc.runtime.kernels.launchable import TYPES, Target
from nldc.runtime.kernels.library import Products
from nldc.runtime.kernels.rotary import Heads, Pages, rotary
from nldc.runtime.kernels.summed import added, added_normed, normed
from nldc.runtime.model.backbone import Backbone
from nldc.runtime.model.backend import Choice
from nldc.runtime.model.triton_adapter import GATED, Adapted, KernelAdapter
from nldc.runtime.model.triton_attention import TritonAttention
from nldc.runtime.model.triton_weights import KernelLayer, matrix_of
from nldc.runtime.rows.plan import Plan


@dataclass(eq=False)
class TritonRows:
    """What the layers share of the n rows of a forward.

    `ahead` holds the states that the last layer left, and what the norm of the next makes of them:
    that was computed when the states were at hand.
    """

    positions: Tensor
    cos: Tensor
    sin: Tensor
    factor: Tensor
    pages: Pages
    cache: KVCache
    attention: TritonAttention
    adapted: Adapted
    ahead: tuple[Tensor, Tensor | None] | None = None

    def normed(self, states: Tensor) -> tuple[bool, Tensor | None]:
        """Return whether a layer of this forward made `states`, and what is known of their norm."""
        if self.ahead is None or self.ahead[0] is not states:
            return False, None
        return True, self.ahead[1]


class TritonBackend:
    """Computes with the kernels on a GPU, or in Triton's interpreter; imports triton."""

    capturable = True

    def __init__(self, backbone: Backbone) -> None:
        if backbone.dtype not in TYPES:
            raise BackendError(
                f"the kernels do not compute in {backbone.dtype}", "use backend torch"
            )
        config = backbone.config
        self._backbone = backbone
        self.target = Target.of(backbone.device)
        self.products = Products.on(self.target)
        self.layers = tuple(KernelLayer.of(layer) for layer in backbone.weights.layers)
        self.heads = Heads(config.num_heads, config.num_kv_heads, config.head_dim, KEY_TILE)
        self.head_weight = matrix_of(backbone.weights.head)
        self._adapters: dict[int, tuple[Adapter, KernelAdapter]] = {}

    @property
    def backbone(self) -> Backbone:
        """See `Backend`."""
        return self._backbone

    def rows(
        self,
        plan: Plan,
        cache: KVCache,
        places: Places,
        positions: Tensor,
        adapter: Adapter | None = None,
        adapter_rows: Tensor | None = None,
    ) -> TritonRows:
        """See `Backend`."""
        cos, sin, factor = self._backbone.rope.whole()
        own = None if adapter is None else self.adapter_of(adapter)
        return TritonRows(
            positions=positions,
            cos=cos,
            sin=sin,
            factor=factor[positions],
            pages=Pages(cache.table, places.slot_index, places.start),
            cache=cache,
            attention=TritonAttention(plan, cache, places),
            adapted=Adapted.on(own, adapter_rows, len(positions), self.target),
        )

    def layer(self, number: int, states: Tensor, rows: TritonRows) -> Tensor:
        """See `Backend`."""
        layer, target, adapted = self.layers[number], self.target, rows.adapted
        product = self.products.product
        eps = self._backbone.config.rms_norm_eps
        is_own, x = rows.normed(states)
        if x is None:
            states = states.contiguous()
            x = normed(states, layer.input_norm, eps, target)
        query = rotary(
            product(x, layer.qkv),
            rows.positions,
            rows.cos,
            rows.sin,
            rows.pages,
            rows.cache.keys[number],
            rows.cache.values[number],
            self.heads,
            target,
            adapted.beside(number, "qkv", x),
        )
        x = rows.attention.attend(number, query, rows.factor)
        beside = adapted.beside(number, "output", x)
        into = states if is_own else None  # what the caller brought stays as it is
        parts = product(x, layer.output)
        states, x = added_normed(parts, states, layer.post_norm, eps, target, beside, into)
        x = self.products.gated(x, layer.gate, layer.up, adapted.beside(number, GATED, x))
        beside = adapted.beside(number, "down", x)
        parts = product(x, layer.down)
        if number + 1 == len(self.layers):
            rows.ahead = added(parts, states, target, beside, states), None
        else:
            gamma = self.layers[number + 1].input_norm
            rows.ahead = added_normed(parts, states, gamma, eps, target, beside, states)
        return rows.ahead[0]

    def head(self, states: Tensor) -> Tensor:
        """See `Backend`."""
        logits = self._found(states, Asked(logits=True)).logits
        assert logits is not None
        return logits

    def head_choose(self, states: Tensor, choice: Choice) -> Tensor:
        """See `Backend`; filters look at whole rows, and so go through logits."""
        shape, size = choice.positions.shape, self.head_weight.out
        if choice.temperature and _filters(choice, size):
            return choice.of(self.head(states).view(*shape, size))
        noise = None
        if choice.temperature:
            heat = torch.full_like(choice.keys, choice.temperature, dtype=torch.float64)
            seeds = choice.seeds.reshape(-1)
            noise = Noise(choice.positions.reshape(-1), choice.keys, seeds, heat)
        asked = Asked(token=True, noisy=noise is not None)
        tokens = self._found(states, asked, noise, choice.barred).tokens
        assert tokens is not None
        return tokens.view(shape)

    def _found(
        self, states: Tensor, asked: Asked, noise: Noise | None = None, barred: int | None = None
    ) -> Found:
        """Return what the head finds of states [n, hidden] behind the last layer."""
        eps = self._backbone.config.rms_norm_eps
        x = normed(states.contiguous(), self._backbone.weights.norm, eps, self.target)
        return head(x, self.head_weight, asked, self.target, noise, barred)

    def adapter_of(self, adapter: Adapter) -> KernelAdapter:
        """Return an adapter as kernels take it, made when it is first used."""
        known = self._adapters.get(id(adapter))
        if known is None:
            known = (adapter, KernelAdapter.of(adapter, self._backbone.config))
            self._adapters[id(adapter)] = known
        return known[1]


def _filters(choice: Choice, vocabulary: int) -> bool:
    """Whether a filter may remove tokens."""
    cut = choice.top_k is not None and choice.top_k < vocabulary
    return cut or (choice.top_p is not None and choice.top_p < 1) or bool(choice.min_p)
