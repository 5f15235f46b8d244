"""The decoder backbone: embedding, pre-norm layers, and the head, over rows of any pattern.

One set of weights serves causal and bidirectional forwards alike; only the attention differs, and
that comes from outside. Rows of all sequences are stacked to [n, hidden], so that every product
is one call.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from nldc.runtime.checkpoint.adapter import Adapter, Selected
from nldc.runtime.checkpoint.config import ModelConfig
from nldc.runtime.checkpoint.weights import Weights
from nldc.runtime.invariant.linear import linear, pack
from nldc.runtime.invariant.norm import RMSNorm, silu
from nldc.runtime.model.attention import Attention
from nldc.runtime.model.rope import RopeTable, rotate


class Backbone:
    """Weights and rotary tables of one model, on one device in one dtype."""

    def __init__(
        self, config: ModelConfig, weights: Weights, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.config = config
        self.weights = _packed(weights)
        eps = config.rms_norm_eps
        self.norms = tuple(
            (RMSNorm(layer.input_norm, eps), RMSNorm(layer.post_norm, eps))
            for layer in weights.layers
        )
        self.last_norm = RMSNorm(weights.norm, eps)
        self.dtype = dtype
        self.device = device
        wide = torch.promote_types(dtype, torch.float32)
        self.rope = RopeTable(config.rope, config.head_dim, wide, device)

    def embed(self, tokens: Tensor) -> Tensor:
        """Return the embeddings [n, hidden] of token ids [n]."""
        return F.embedding(tokens, self.weights.embedding)

    def forward(
        self,
        states: Tensor,
        positions: Tensor,
        attention: Attention,
        adapter: Adapter | None = None,
        adapter_rows: Tensor | None = None,
    ) -> Tensor:
        """Run all layers over embeddings [n, hidden] at absolute positions int64 [n].

        `adapter` adds its products on the rows with the numbers `adapter_rows` (None: on all).
        Returns [n, hidden] before the last norm, which `head` applies.
        """
        config = self.config
        heads, kv_heads, dim = config.num_heads, config.num_kv_heads, config.head_dim
        rotated = heads + kv_heads
        cos, sin, factor = self.rope.at(positions)
        lora = Selected(adapter, adapter_rows)
        for number, layer in enumerate(self.weights.layers):
            input_norm, post_norm = self.norms[number]
            x = input_norm(states)
            qkv = lora.linear(number, "qkv", x, layer.qkv).view(-1, rotated + kv_heads, dim)
            turned = rotate(qkv[:, :rotated], cos, sin)
            x = attention(number, turned[:, :heads], turned[:, heads:], qkv[:, rotated:], factor)
            states = lora.linear(number, "output", x, layer.output).add_(states)
            x = post_norm(states)
            gate = silu(lora.linear(number, "gate", x, layer.gate))
            x = lora.linear(number, "up", x, layer.up).mul_(gate)
            states = lora.linear(number, "down", x, layer.down).add_(states)
        return states

    def head(self, states: Tensor) -> Tensor:
        """Return logits [n, vocabulary] of states [n, hidden] as `forward` returns them."""
        return linear(self.last_norm(states), self.weights.head)


def _packed(weights: Weights) -> Weights:
    layers = tuple(
        replace(
            layer,
            qkv=pack(layer.qkv),
            output=pack(layer.output),
            gate=pack(layer.gate),
            up=pack(layer.up),
            down=pack(layer.down),
        )
        for layer in weights.layers
    )
    return replace(weights, layers=layers, head=pack(weights.head))
