"""RMSNorm of rows, and SiLU: a row's result is the same bits in any company."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_SERIAL = 32767
"""Values that torch's CPU ops give to one thread."""
_WHOLE = 64
"""Values that any of torch's vector loops takes in whole steps."""


class RMSNorm:
    """Rows [n, width] over their root mean square, times `weight` [width]."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        width = weight.shape[0]
        self.weight = weight
        self.eps = eps
        self.plain = weight.device.type != "cpu" or weight.dtype not in (
            torch.float32,
            torch.float64,
        )
        self.scaled = weight * width**0.5
        self.least = weight.new_full((1, 1), eps * width)

    def __call__(self, x: Tensor) -> Tensor:
        """Return [n, width] of [n, width]."""
        if self.plain:
            return F.rms_norm(x, self.weight.shape, self.weight, self.eps)
        # On a CPU, torch's own takes twice the time, most of it for the mean.
        scale = torch.linalg.vector_norm(x, 2, -1, keepdim=True)
        scale.mul_(scale).add_(self.least).rsqrt_()
        normed: Tensor = (x * scale).mul_(self.scaled)
        return normed


def silu(x: Tensor) -> Tensor:
    """Return `x * sigmoid(x)` of rows [n, width].

    On a CPU torch computes what is left over behind whole vectors by another exponential, so every
    call gets rows of whole vectors, few enough for one thread.
    """
    rows, width = x.shape
    if x.device.type != "cpu":
        return F.silu(x)
    if width % _WHOLE:
        return silu(F.pad(x, (0, -width % _WHOLE)))[:, :width]
    at_once = max(1, _SERIAL // width)
    if rows <= at_once:
        return F.silu(x, inplace=True)
    return torch.cat([F.silu(part, inplace=True) for part in torch.split(x, at_once)])
