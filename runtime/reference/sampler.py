"""What a trained sampler reads of a block's rows, and what it says of them, plainly.

Nemotron-Labs-Diffusion, appendix A, trains a small transformer over features of each position to
choose the rows of a forward that are committed. This one reads, of every row, the log-probabilities
of its likeliest tokens, entropy, margin, whether it is masked and where it lies; its layers let the
rows of a block look at one another, and it says of each how likely its best token is the one that
careful decoding ends with. Training computes with this; `runtime/model/sampler.py` decodes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from nldc.runtime.checkpoint.sampler import SamplerShape

EPS = 1e-6
LEAST = -24.0
"""Log-probabilities below this are this."""


def features(
    logits: Tensor, tokens: Tensor, masked: Tensor, mask_token_id: int, top: int
) -> Tensor:
    """Return what a sampler reads of rows, float32 [B, n, top + 8].

    Of `logits` [B, n, V]: the log-probabilities of the `top` likeliest tokens (fewer in a smaller
    vocabulary: the rest is the least), the entropy's share of the most that it may be, the
    probability that the likeliest is ahead by, the mask token's log-probability; of the rows:
    whether each is `masked` [B, n], the log-probability of its token (of `tokens` int64 [B, n]) if
    it is not, its place, how many rows of the block are masked, and a one.
    """
    values = logits.float()
    size, width = values.shape[-1], masked.shape[1]
    log_p = values.log_softmax(-1).clamp_min(LEAST)
    best = log_p.topk(min(top, size), -1).values
    if top > size:
        best = F.pad(best, (0, top - size), value=LEAST)
    p = values.softmax(-1)
    share = -(p * log_p).sum(-1) / math.log(max(size, 2))
    ahead = best[..., 0].exp() - (best[..., 1].exp() if top > 1 else 0.0)
    of_mask = log_p[..., mask_token_id]
    held = log_p.gather(-1, tokens.clamp(0, size - 1).unsqueeze(-1)).squeeze(-1)
    flag = masked.float()
    place = torch.arange(width, device=values.device, dtype=torch.float32) / width
    left = flag.sum(1, keepdim=True) / width
    others = (
        share,
        ahead,
        of_mask / 4,
        flag,
        held * (1 - flag) / 4,
        place.expand_as(flag),
        left.expand_as(flag),
        torch.ones_like(flag),
    )
    return torch.cat((best / 4, torch.stack(others, -1)), -1)


def reference(shape: SamplerShape, tensors: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Return the logit of each row's safety, [N, n], of features [N, n, F]: plain, to train by."""
    n = x.shape[1]

    def norm(name: str, x: Tensor) -> Tensor:
        weight = tensors[f"{name}.weight"]
        return F.rms_norm(x, weight.shape, weight, EPS)

    h = F.linear(x, tensors["input.weight"]) + tensors["places.weight"][:n]
    for layer in range(shape.layers):
        at = f"layers.{layer}."
        qkv = F.linear(norm(at + "attention_norm", h), tensors[at + "qkv.weight"])
        query, key, value = (
            torch.unflatten(part, -1, (shape.heads, -1)).transpose(1, 2)
            for part in qkv.chunk(3, -1)
        )
        seen = F.scaled_dot_product_attention(query, key, value)
        h = h + F.linear(seen.transpose(1, 2).flatten(-2), tensors[at + "output.weight"])
        up = F.silu(F.linear(norm(at + "mlp_norm", h), tensors[at + "up.weight"]))
        h = h + F.linear(up, tensors[at + "down.weight"])
    found = F.linear(norm("norm", h), tensors["output.weight"], tensors["output.bias"])
    return found.squeeze(-1)
