"""The Pixtral encoder and the projector: from the pixels of a picture to rows of a prompt.

Attention sees the patches of one picture and nothing of another, so every picture is computed by
itself: what stands for it does not depend on its company, to the bit, and nothing is padded.
Activations reach the thousands, and half precision would lose a fifth of them: `dtype` of weights
and pixels is float32 or wider.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nldc.runtime.vision.config import NORM_EPS, VisionConfig
from nldc.runtime.vision.weights import VisionWeights


@torch.inference_mode()
def encode(pixels: Tensor, weights: VisionWeights, config: VisionConfig) -> Tensor:
    """Return the patches [R * C, hidden] of normalised pixels [3, R * patch, C * patch], in order.

    Rows of the picture come one after the other.
    """
    patch = config.patch_size
    height, width = pixels.shape[1] // patch, pixels.shape[2] // patch
    cut = pixels.view(3, height, patch, width, patch).permute(1, 3, 0, 2, 4)
    states = norm(F.linear(cut.reshape(height * width, -1), weights.patches), weights.first_norm)
    cos, sin = turns(height, width, config, states)
    for layer in weights.layers:
        rows = F.linear(norm(states, layer.attention_norm), layer.qkv)
        heads = rows.view(len(rows), 3, config.num_heads, config.head_dim).permute(1, 2, 0, 3)
        query, key = (turned(each, cos, sin) for each in (heads[0], heads[1]))
        seen = F.scaled_dot_product_attention(query[None], key[None], heads[2][None])[0]
        states = states + F.linear(seen.transpose(0, 1).reshape(len(rows), -1), layer.output)
        gate, up = F.linear(norm(states, layer.ffn_norm), layer.gate_up).chunk(2, dim=-1)
        states = states + F.linear(F.silu(gate) * up, layer.down)
    return states


@torch.inference_mode()
def project(
    patches: Tensor, height: int, width: int, weights: VisionWeights, config: VisionConfig
) -> Tensor:
    """Return the rows [cells, text] of the patches [R * C, hidden] of R = `height` rows of C.

    A cell's channels go into the merging layer with the channel slowest, then its patches in order.
    """
    size, merge = config.hidden_size, config.merge
    rows = norm(patches, weights.norm, config.text_eps)
    cells = rows.view(height // merge, merge, width // merge, merge, size).permute(0, 2, 4, 1, 3)
    merged = F.linear(cells.reshape(-1, size * merge * merge), weights.merging)
    return F.linear(F.gelu(F.linear(merged, weights.linear_1)), weights.linear_2)


def norm(rows: Tensor, weight: Tensor, eps: float = NORM_EPS) -> Tensor:
    """Return rows [n, channels] divided by their root mean square, times `weight`."""
    return weight * (rows * torch.rsqrt(rows.pow(2).mean(-1, keepdim=True) + eps))


def turns(height: int, width: int, config: VisionConfig, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosines and sines [R * C, head_dim] of the angles by which each patch is turned.

    Of the frequencies of a head, those with even numbers turn by the row, the others by the column.
    """
    most = max(height, width, config.head_dim)
    numbers = torch.arange(most, dtype=like.dtype, device=like.device)
    frequencies = 1.0 / config.rope_theta ** (numbers[: config.head_dim : 2] / config.head_dim)
    row = numbers[:height].view(-1, 1, 1) * frequencies[0::2]
    column = numbers[:width].view(1, -1, 1) * frequencies[1::2]
    shape = (height, width, -1)
    angles = torch.cat([row.expand(shape), column.expand(shape)] * 2, dim=-1).flatten(0, 1)
    return angles.cos(), angles.sin()


def turned(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return queries or keys [heads, n, head_dim] turned by their angles."""
    first, second = heads.chunk(2, dim=-1)
    return heads * cos + torch.cat((-second, first), dim=-1) * sin
