"""The decoder backbone: one set of weights for causal and bidirectional forwards alike.

What is computed with them is said in `backend`: only the attention differs, and that comes from
outside. Rows of all sequences are stacked to [n, hidden], so that every product is one call.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from nldc.runtime.checkpoint.config import ModelConfig
from nldc.runtime.checkpoint.weights import Weights
from nldc.runtime.invariant.norm import RMSNorm
from nldc.runtime.invariant.quantised import Quantised
from nldc.runtime.invariant.quantised_ways import pack_weight
from nldc.runtime.model.rope import RopeTable


class Backbone:
    """Weights, norms and rotary tables of one model, on one device in one dtype."""

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
        embedding = self.weights.embedding
        if isinstance(embedding, Quantised):
            return embedding.rows(tokens)
        return F.embedding(tokens, embedding)


def _packed(weights: Weights) -> Weights:
    layers = tuple(
        replace(
            layer,
            qkv=pack_weight(layer.qkv),
            output=pack_weight(layer.output),
            gate=pack_weight(layer.gate),
            up=pack_weight(layer.up),
            down=pack_weight(layer.down),
        )
        for layer in weights.layers
    )
    return replace(weights, layers=layers, head=pack_weight(weights.head))
