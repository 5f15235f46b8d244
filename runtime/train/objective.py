"""The joint objective of NLD: L = L_AR + λ · L_diff, both from one dual-stream forward.

A sequence of S tokens becomes 2S rows, [noisy || clean]; row i of either stream is at position i. A
clean row sees the clean rows up to itself and predicts the next token: the AR loss. A noisy row of
block b sees the clean rows before block b and the noisy rows of block b, in both directions, and
predicts the token at its own position: the diffusion loss, over masked rows. Both losses are
averaged over all their rows in the global batch ("global loss averaging"), not per sequence.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nldc.runtime.reference.attention import Sight, causal, over
from nldc.runtime.reference.backbone import PlainBackbone
from nldc.runtime.train.attention import by_ranges
from nldc.runtime.train.noise import Noise


@dataclass(frozen=True)
class Losses:
    """Sums, not means, with the number of rows in each: means need the global batch."""

    ar: Tensor
    ar_rows: int
    diffusion: Tensor
    diffusion_rows: int


def noisy_sees(block: Tensor) -> Tensor:
    """Return what noisy rows see of [noisy || clean]: bool (B, S, 2S).

    Args:
        block: int64 (B, S), the block number of every position.
    """
    mine, theirs = block[:, :, None], block[:, None, :]
    return torch.cat((mine == theirs, theirs < mine), dim=-1)


def ar_losses(backbone: PlainBackbone, window: Tensor) -> Losses:
    """Return the AR loss of int64 (B, S + 1) windows, from a causal forward alone."""
    length = window.shape[1] - 1
    look = over(causal(length), backbone.dtype)
    states = backbone.forward(backbone.embed(window[:, :-1]), torch.arange(length), look)
    ar = _cross_entropy(backbone, states, window[:, 1:])
    return Losses(ar, window.shape[0] * length, ar.new_zeros(()), 0)


def joint_losses(backbone: PlainBackbone, window: Tensor, noise: Noise, own: Tensor) -> Losses:
    """Return both losses of int64 (B, S + 1) windows, from one dual-stream forward.

    Args:
        backbone: All parameters in the compute dtype.
        window: S tokens and the one that follows them.
        noise: Noise of shape (B, S) for the first S tokens.
        own: bool (B,), True for windows of the model's own text, which carry no AR loss.
    """
    length = window.shape[1] - 1
    clean = window[:, :-1]
    hidden = clean.masked_fill(noise.masked, backbone.config.mask_token_id)
    sights = [Sight.of(sees, backbone.dtype) for sees in (noisy_sees(noise.block), causal(length))]
    states = backbone.forward(
        backbone.embed(torch.cat((hidden, clean), dim=1)),
        torch.arange(length).repeat(2),
        by_ranges(sights),
    )
    ar = _cross_entropy(backbone, states[:, length:][~own], window[:, 1:][~own])
    diffusion = _cross_entropy(backbone, states[:, :length][noise.masked], clean[noise.masked])
    return Losses(ar, int((~own).sum()) * length, diffusion, int(noise.masked.sum()))


def _cross_entropy(backbone: PlainBackbone, states: Tensor, targets: Tensor) -> Tensor:
    logits = backbone.head(states.reshape(-1, states.shape[-1])).float()
    return F.cross_entropy(logits, targets.reshape(-1), reduction="sum")
