"""The backend with kernels: nine launches a layer, each of which does all between two products.

What `TorchBackend` computes, with fewer roundings: sums stay in float32 until a value is stored.
A layer is product (query, key, value), rotary, attention, product, sum and norm, gated product,
product, sum and norm; the last of these norms for the layer behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from nldc.runtime.cache.kv_cache import KVCache, Places
from nldc.runtime.checkpoint.adapter import Adapter
from nldc.runtime.errors import BackendError
from nldc.runtime.invariant.line_tiles import KEY_TILE
from nldc.runtime.kernels.asked import Asked, Found
from nldc.runtime.kernels.between import between
from nldc.runtime.kernels.candidates import candidates
from nldc.runtime.kernels.filtered import Filters, filtered
from nldc.runtime.kernels.head import head
from nldc.runtime.kernels.launchable import TYPES, Target
from nldc.runtime.kernels.library import Products
from nldc.runtime.kernels.mixed import mixed
from nldc.runtime.kernels.moved import moved
from nldc.runtime.kernels.noise import Noise
from nldc.runtime.kernels.rotary import Heads, Pages, rotary
from nldc.runtime.kernels.safety import Network, fits, safety
from nldc.runtime.kernels.scanned import scanned
from nldc.runtime.kernels.summed import added, added_normed, normed
from nldc.runtime.model.backbone import Backbone
from nldc.runtime.model.backend import Between, Choice, Chooser
from nldc.runtime.model.sampler import Sampler
from nldc.runtime.model.scores import Scores
from nldc.runtime.model.triton_adapter import GATED, Adapted, KernelAdapter
from nldc.runtime.model.triton_attention import TritonAttention
from nldc.runtime.model.triton_weights import KernelLayer, matrix_of
from nldc.runtime.rows.plan import Plan

S = TypeVar("S")
T = TypeVar("T")


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
        self._networks: dict[int, tuple[Sampler, Network]] = {}
        self.between: Between | None = partial(between, target=self.target)

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

    def move(self, cache: KVCache, places: Places, path: Tensor, keep: Tensor) -> None:
        """See `Backend`."""
        pages = Pages(cache.table, places.slot_index, places.start)
        moved(cache.data, pages, path, keep, self.heads, self.target)

    def head(self, states: Tensor) -> Tensor:
        """See `Backend`."""
        return _there(self._found(states, Asked(logits=True)).logits)

    def choose(self, values: Tensor, choice: Choice) -> Tensor:
        """See `Backend`; filters look at whole rows."""
        if choice.filters:
            tokens = self._filtered(values, choice)
        else:
            noise = _noise_of(choice)
            asked = Asked(token=True, noisy=noise is not None)
            tokens = _there(scanned(values, asked, self.target, noise, choice.barred).tokens)
        return tokens.view(choice.positions.shape)

    def measured(self, values: Tensor, scores: Scores) -> tuple[Tensor, ...]:
        """See `Backend`."""
        given = None
        if "probability" in scores.names:
            given = _there(scores.tokens).reshape(-1)
        asked = Asked(measures=True, given=given is not None)
        found = scanned(values, asked, self.target, given=given, uncounted=scores.uncounted)
        return _scores_of(found, scores, values.shape[:2])

    def mix(self, parts: Sequence[Tensor], weights: Sequence[float | Tensor]) -> Tensor:
        """See `Backend`."""
        return mixed(parts, weights, self.target)

    def candidates(self, values: Tensor, count: int) -> Tensor:
        """See `Backend`."""
        return candidates(values, count, self.target)

    def safety(self, sampler: Sampler, logits: Tensor, tokens: Tensor, masked: Tensor) -> Tensor:
        """See `Backend`; torch has the networks that are too wide for one program."""
        mask_token = self._backbone.config.mask_token_id
        if not fits(sampler.shape):
            return sampler(logits, tokens, masked, mask_token)
        sampler.check_rows(masked.shape[1])
        network = self._network_of(sampler)
        return safety(logits.contiguous(), tokens, masked, mask_token, network, self.target)

    def head_choose(self, states: Tensor, choice: Choice) -> Tensor:
        """See `Backend`; filters look at whole rows, and so go through logits."""
        if choice.filters:
            logits = self.head(states)
            tokens = self._filtered(logits.view(*choice.positions.shape, logits.shape[-1]), choice)
        else:
            noise = _noise_of(choice)
            asked = Asked(token=True, noisy=noise is not None)
            tokens = _there(self._found(states, asked, noise, choice.barred).tokens)
        return tokens.view(choice.positions.shape)

    def head_choose_scored(
        self, states: Tensor, choice: Choice | Chooser, scores: Scores
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `Backend`; where somebody looks at logits, they are measured where they lie."""
        shape, states = states.shape[:2], states.flatten(0, 1)
        if not isinstance(choice, Choice) or choice.filters:
            logits = self.head(states)
            logits = logits.view(*shape, logits.shape[-1])
            tokens = self.choose(logits, choice) if isinstance(choice, Choice) else choice(logits)
            given = tokens if scores.tokens is None else scores.tokens
            return tokens, self.measured(logits, replace(scores, tokens=given))
        noise, uncounted = _noise_of(choice), scores.uncounted
        own = None if scores.tokens is None else scores.tokens.reshape(-1)
        asked = Asked(token=True, noisy=noise is not None, measures=True, given=own is not None)
        found = self._found(states, asked, noise, choice.barred, own, uncounted)
        return _there(found.tokens).view(shape), _scores_of(found, scores, shape)

    def scored(self, states: Tensor, tokens: Tensor) -> Tensor:
        """See `Backend`."""
        found = self._found(states, Asked(measures=True, given=True), given=tokens)
        return _there(found.picked) - _there(found.logsumexp)

    def _found(
        self,
        states: Tensor,
        asked: Asked,
        noise: Noise | None = None,
        barred: int | None = None,
        given: Tensor | None = None,
        uncounted: int | None = None,
    ) -> Found:
        """Return what the head finds of states [n, hidden] behind the last layer."""
        eps = self._backbone.config.rms_norm_eps
        x = normed(states.contiguous(), self._backbone.weights.norm, eps, self.target)
        return head(
            x,
            self.head_weight,
            asked,
            self.target,
            noise,
            barred,
            given=given,
            uncounted=uncounted,
        )

    def _filtered(self, logits: Tensor, choice: Choice) -> Tensor:
        """Return the tokens, int64 [B * n], of logits [B, n, vocabulary] that a filter looks at."""
        drawing = _there(choice.drawing)
        filters = Filters(drawing.top_k, drawing.top_p, drawing.reach)
        return filtered(logits, filters, _there(_noise_of(choice)), self.target, choice.barred)

    def adapter_of(self, adapter: Adapter) -> KernelAdapter:
        """Return an adapter as kernels take it, made when it is first used."""
        config = self._backbone.config
        return _kept(self._adapters, adapter, lambda: KernelAdapter.of(adapter, config))

    def _network_of(self, sampler: Sampler) -> Network:
        """Return a sampler's network as the kernel takes it, made when it is first used."""
        return _kept(self._networks, sampler, lambda: Network.of(sampler.weights))


def _kept(known: dict[int, tuple[S, T]], of: S, make: Callable[[], T]) -> T:
    """Return what was made of an object, which is held with it, so that no other has its id."""
    if id(of) not in known:
        known[id(of)] = of, make()
    return known[id(of)][1]


def _noise_of(choice: Choice) -> Noise | None:
    """Return what keys the noise; None: the choice is greedy."""
    if choice.drawing is None:
        return None
    places, heat = choice.positions.reshape(-1), choice.drawing.temperature
    return Noise(places, choice.keys, choice.seeds.squeeze(1), heat)


def _scores_of(found: Found, scores: Scores, shape: torch.Size) -> tuple[Tensor, ...]:
    """Return scores of the shape of rows, of what was found of them."""
    measured = {
        "probability": found.probability,
        "entropy": found.entropy,
        "margin": found.margin,
    }
    return tuple(_there(measured[name]).view(shape) for name in scores.names)


def _there(found: T | None) -> T:
    """Return what was asked for."""
    assert found is not None
    return found
