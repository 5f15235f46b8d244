"""The backbone in plain, differentiable torch: the one truth about what a released config computes.

It has no cache, no batch of its own and nothing that makes rows independent of their company: rows
[..., rows], at any positions, through every layer. Which rows see which is said from outside.
Training computes with it, and the backbone that decodes is tested against it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from nldc.runtime.checkpoint.adapter import Adapter
from nldc.runtime.checkpoint.config import ModelConfig
from nldc.runtime.checkpoint.rope_frequencies import (
    attention_factor,
    inverse_frequencies,
    query_factors,
)
from nldc.runtime.checkpoint.weights import Weights, load_weights
from nldc.runtime.invariant.linear import Weight
from nldc.runtime.reference.attention import Attention


def plain(weight: Weight) -> Tensor:
    """Return a weight as the matrix [out, in] that it is, whatever its form."""
    return weight if isinstance(weight, Tensor) else weight.to_dense()


@dataclass(frozen=True, eq=False)
class PlainBackbone:
    """A config and the weights that it describes, in any dtype; gradients reach them."""

    config: ModelConfig
    weights: Weights

    @staticmethod
    def load(folder: str | Path, dtype: torch.dtype) -> PlainBackbone:
        """Read a checkpoint's folder, on the CPU.

        Raises:
            CheckpointError: a file or tensor is missing, damaged or not of the config.
        """
        config = ModelConfig.load(folder)
        weights = load_weights(folder, config, dtype, torch.device("cpu"), form=plain)
        weights = replace(weights, embedding=plain(weights.embedding))
        return PlainBackbone(config, weights)

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        return self.weights.embedding.dtype

    def embed(self, tokens: Tensor) -> Tensor:
        """Return the embeddings [..., rows, hidden] of token ids, int64 [..., rows]."""
        return F.embedding(tokens, plain(self.weights.embedding))

    def forward(
        self,
        states: Tensor,
        positions: Tensor,
        attention: Attention,
        adapter: Adapter | None = None,
        adapter_rows: Tensor | None = None,
    ) -> Tensor:
        """Run all layers over embeddings [..., rows, hidden] at positions int64 [..., rows].

        `adapter` adds its products on the rows of bool `adapter_rows` [..., rows] (None: on all).
        Returns [..., rows, hidden] before the last norm, which `head` applies.
        """
        config, weights = self.config, self.weights
        heads, kv_heads = config.num_heads, config.num_kv_heads
        cos, sin, scale = self._rotation(positions)
        lora = _OnRows(adapter, adapter_rows)
        for number, layer in enumerate(weights.layers):
            x = self._norm(states, layer.input_norm)
            qkv = lora.linear(number, "qkv", x, layer.qkv)
            qkv = torch.unflatten(qkv, -1, (-1, config.head_dim)).transpose(-3, -2)
            turned, value = torch.split(qkv, [heads + kv_heads, kv_heads], -3)
            query, key = torch.split(_rotate(turned, cos, sin), [heads, kv_heads], -3)
            found = attention(number, query * scale, key, value)
            x = found.transpose(-3, -2).flatten(-2)
            states = states + lora.linear(number, "output", x, layer.output)
            x = self._norm(states, layer.post_norm)
            gate = F.silu(lora.linear(number, "gate", x, layer.gate))
            x = gate * lora.linear(number, "up", x, layer.up)
            states = states + lora.linear(number, "down", x, layer.down)
        return states

    def head(self, states: Tensor) -> Tensor:
        """Return logits [..., vocabulary] of states [..., hidden] as `forward` returns them."""
        return F.linear(self._norm(states, self.weights.norm), plain(self.weights.head))

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, weight.shape, weight, self.config.rms_norm_eps)

    def _rotation(self, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return cosine and sine [..., 1, rows, head_dim / 2] and queries' scale [..., 1, rows, 1].

        YaRN's factor is in the first two; the softmax's scale and the temperature are in the last.
        """
        rope, dim = self.config.rope, self.config.head_dim
        at = positions.double()
        angle = at.unsqueeze(-1) * inverse_frequencies(rope, dim).to(at.device)
        factor = attention_factor(rope)
        turn = torch.stack((angle.cos() * factor, angle.sin() * factor)).unsqueeze(-3)
        cos, sin = turn.to(self.dtype).unbind()
        scale = query_factors(rope, dim, at).to(self.dtype)
        return cos, sin, scale.unsqueeze(-1).unsqueeze(-3)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair of features half a head apart: x [..., heads, rows, head_dim]."""
    left, right = x.chunk(2, -1)
    return torch.cat((left * cos - right * sin, right * cos + left * sin), -1)


@dataclass(frozen=True, eq=False)
class _OnRows:
    """An adapter on some rows (None: on all), or none."""

    adapter: Adapter | None
    rows: Tensor | None

    def linear(self, layer: int, module: str, x: Tensor, weight: Weight) -> Tensor:
        """Return `x` [..., in] times a layer's weight, and the adapter's products beside it."""
        product = F.linear(x, plain(weight))
        if self.adapter is None:
            return product
        for low in self.adapter.products.get((layer, module), ()):
            delta = low.scale * F.linear(F.linear(x, plain(low.down)), plain(low.up))
            if self.rows is not None:
                delta = delta.masked_fill(~self.rows.unsqueeze(-1), 0.0)
            product = product + F.pad(delta, (low.start, product.shape[-1] - low.stop))
        return product
