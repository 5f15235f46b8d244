"""A trained sampler as it decodes: a sequence's scores have the same bits in any batch.

What it computes is defined in `runtime/reference/sampler.py`; here by torch, 176 launches of the
demo's shape. Where kernels compute they compute this too, in bits of their own
(`runtime/kernels/safety.py`), unless the network is wider than one program is quick with.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nldc.runtime.checkpoint.sampler import SamplerWeights
from nldc.runtime.errors import AdapterError
from nldc.runtime.invariant.linear import Weight, linear, pack
from nldc.runtime.invariant.norm import RMSNorm, exp, sigmoid, silu
from nldc.runtime.model.attention import sum_by_halves
from nldc.runtime.reference.sampler import EPS, features


@dataclass(frozen=True, eq=False)
class _Layer:
    attention_norm: RMSNorm
    qkv: Weight
    output: Weight
    mlp_norm: RMSNorm
    up: Weight
    down: Weight


class Sampler:
    """A trained sampler, ready to score the rows of a batch."""

    def __init__(self, weights: SamplerWeights) -> None:
        tensors = weights.tensors
        self.weights = weights
        self.shape = weights.shape
        self._input = pack(tensors["input.weight"])
        self._places = tensors["places.weight"]
        self._norm = RMSNorm(tensors["norm.weight"], EPS)
        self._output = pack(tensors["output.weight"])
        self._bias = tensors["output.bias"]
        self._layers = [
            _Layer(
                RMSNorm(tensors[f"layers.{layer}.attention_norm.weight"], EPS),
                pack(tensors[f"layers.{layer}.qkv.weight"]),
                pack(tensors[f"layers.{layer}.output.weight"]),
                RMSNorm(tensors[f"layers.{layer}.mlp_norm.weight"], EPS),
                pack(tensors[f"layers.{layer}.up.weight"]),
                pack(tensors[f"layers.{layer}.down.weight"]),
            )
            for layer in range(self.shape.layers)
        ]

    def check_rows(self, rows: int) -> None:
        """Raise AdapterError if a block has more rows than the sampler was trained for."""
        if rows > self.shape.rows:
            raise AdapterError(
                f"the sampler was trained for blocks of at most {self.shape.rows} rows, not {rows}",
                "compile the strategy with a shorter block, or train another sampler",
            )

    def __call__(
        self, logits: Tensor, tokens: Tensor, masked: Tensor, mask_token_id: int
    ) -> Tensor:
        """Return how safe it is to commit each row's likeliest token, float32 [B, n] in 0 to 1.

        `logits` [B, n, V]; `tokens` int64 [B, n] and `masked` bool [B, n] are those of the rows.
        """
        batch, n = masked.shape
        self.check_rows(n)
        x = features(logits, tokens, masked, mask_token_id, self.shape.top).flatten(0, 1)
        h = linear(x, self._input) + self._places[:n].repeat(batch, 1)
        for layer in self._layers:
            qkv = linear(layer.attention_norm(h), layer.qkv)
            h = h + linear(self._attend(qkv.view(batch, n, -1)), layer.output)
            h = h + linear(silu(linear(layer.mlp_norm(h), layer.up)), layer.down)
        found = linear(self._norm(h), self._output) + self._bias
        return sigmoid(found.view(batch, n))

    def _attend(self, qkv: Tensor) -> Tensor:
        """Return what each row sees of its block's rows, [B * n, width], of [B, n, 3 width].

        Sums are by halves: no value depends on who is beside it.
        """
        query, key, value = (
            torch.unflatten(part, -1, (self.shape.heads, -1)).transpose(1, 2)
            for part in qkv.chunk(3, -1)
        )
        n = query.shape[2]
        none = (1 << (n - 1).bit_length()) - n
        products = sum_by_halves(query.unsqueeze(3) * key.unsqueeze(2))
        scores = products * query.shape[-1] ** -0.5
        scores = scores - scores.amax(-1, keepdim=True)
        weights = F.pad(exp(scores.flatten(0, 2)).view_as(scores), (0, none))
        value = F.pad(value, (0, 0, 0, none)).transpose(2, 3)
        seen = sum_by_halves(weights.unsqueeze(3) * value.unsqueeze(2))
        seen = seen / sum_by_halves(weights).unsqueeze(-1)
        return seen.transpose(1, 2).flatten(2).flatten(0, 1)
