"""What a config says of rotary positions: default, linear or YaRN, and the query temperature.

YaRN is eq. 17 to 22 of arXiv 2309.00071 with the attention factor of its released code; the
temperature is the `1 + beta * ln(1 + floor(position / original context))` of the released configs.
Everything is float64; whoever rotates rounds once.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nldc.runtime.checkpoint.config import RopeConfig


def inverse_frequencies(rope: RopeConfig, head_dim: int) -> Tensor:
    """Return the rotation per position of each pair of features: float64 [head_dim / 2]."""
    pair = torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim
    plain = rope.theta**-pair
    if rope.rope_type == "default":
        return plain
    if rope.rope_type == "linear":
        return plain / rope.factor

    def dimension(rotations: float) -> float:
        turns = rope.original_context / (rotations * 2 * math.pi)
        return head_dim * math.log(turns) / (2 * math.log(rope.theta))

    low, high = dimension(rope.beta_fast), dimension(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    if low == high:
        high += 0.001
    index = torch.arange(head_dim // 2, dtype=torch.float64)
    interpolated = ((index - low) / (high - low)).clamp(0, 1)
    return plain / rope.factor * interpolated + plain * (1 - interpolated)


def attention_factor(rope: RopeConfig) -> float:
    """Return the factor on cosine and sine that YaRN asks for; 1 for the other types."""
    if rope.rope_type != "yarn":
        return 1.0
    if rope.attention_factor is not None:
        return rope.attention_factor

    def scale(mscale: float) -> float:
        return 0.1 * mscale * math.log(rope.factor) + 1.0 if rope.factor > 1 else 1.0

    if rope.mscale and rope.mscale_all_dim:
        return scale(rope.mscale) / scale(rope.mscale_all_dim)
    return scale(1.0)


def query_factors(rope: RopeConfig, head_dim: int, positions: Tensor) -> Tensor:
    """Return the softmax scale times the temperature of queries at float64 positions [...]."""
    factors = torch.full_like(positions, head_dim**-0.5)
    if rope.llama_4_beta:
        spans = torch.floor(positions / rope.original_context)
        factors *= 1 + rope.llama_4_beta * torch.log1p(spans)
    return factors
