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

from nldc.runtime.train.model import Geometry, Params, head, hidden_states
from nldc.runtime.train.noise import Noise


@dataclass(frozen=True)
class Losses:
    """Sums, not means, with the number of rows in each: means need the global batch."""

    ar: Tensor
    ar_rows: int
    diffusion: Tensor
    diffusion_rows: int


def additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """Turn a boolean mask (B, Q, K) into an additive one (B, 1, Q, K)."""
    zeros = torch.zeros(visible.shape, dtype=dtype)
    return zeros.masked_fill(~visible, float("-inf"))[:, None]


def causal_mask(length: int, dtype: torch.dtype) -> Tensor:
    """Return the additive causal mask (1, 1, length, length)."""
    return additive(torch.ones(1, length, length, dtype=torch.bool).tril(), dtype)


def noisy_mask(block: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what noisy rows see of [noisy || clean]: an additive mask (B, 1, S, 2S).

    Args:
        block: int64 (B, S), the block number of every position.
        dtype: The compute dtype.
    """
    mine, theirs = block[:, :, None], block[:, None, :]
    return additive(torch.cat((mine == theirs, theirs < mine), dim=-1), dtype)


def ar_losses(params: Params, geometry: Geometry, window: Tensor, dtype: torch.dtype) -> Losses:
    """Return the AR loss of int64 (B, S + 1) windows, from a causal forward alone."""
    length = window.shape[1] - 1
    masks = (causal_mask(length, dtype),)
    hidden = hidden_states(params, geometry, window[:, :-1], torch.arange(length), masks)
    ar = _cross_entropy(params, hidden, window[:, 1:])
    return Losses(ar, window.shape[0] * length, ar.new_zeros(()), 0)


def joint_losses(
    params: Params,
    geometry: Geometry,
    window: Tensor,
    noise: Noise,
    own: Tensor,
    mask_id: int,
    dtype: torch.dtype,
) -> Losses:
    """Return both losses of int64 (B, S + 1) windows, from one dual-stream forward.

    Args:
        params: All parameters in the compute dtype.
        geometry: The sizes.
        window: S tokens and the one that follows them.
        noise: Noise of shape (B, S) for the first S tokens.
        own: bool (B,), True for windows of the model's own text, which carry no AR loss.
        mask_id: The id a hidden token is replaced by.
        dtype: The compute dtype.
    """
    length = window.shape[1] - 1
    clean = window[:, :-1]
    ids = torch.cat((clean.masked_fill(noise.masked, mask_id), clean), dim=1)
    masks = (noisy_mask(noise.block, dtype), causal_mask(length, dtype))
    positions = torch.arange(length).repeat(2)
    hidden = hidden_states(params, geometry, ids, positions, masks)
    ar = _cross_entropy(params, hidden[:, length:][~own], window[:, 1:][~own])
    diffusion = _cross_entropy(params, hidden[:, :length][noise.masked], clean[noise.masked])
    return Losses(ar, int((~own).sum()) * length, diffusion, int(noise.masked.sum()))


def _cross_entropy(params: Params, hidden: Tensor, targets: Tensor) -> Tensor:
    logits = head(params, hidden.reshape(-1, hidden.shape[-1])).float()
    return F.cross_entropy(logits, targets.reshape(-1), reduction="sum")
