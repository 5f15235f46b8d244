"""RMSNorm of rows, SiLU and others: a row's result is the same bits in any company."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

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
    """Return `x * sigmoid(x)` of rows [n, width]; `x` may be written to."""
    return in_whole_vectors(partial(F.silu, inplace=True), x) if _is_cpu(x) else F.silu(x)


def exp(x: Tensor) -> Tensor:
    """Return `exp(x)` of rows [n, width]; `x` may be written to."""
    return in_whole_vectors(torch.exp_, x) if _is_cpu(x) else x.exp()


def sigmoid(x: Tensor) -> Tensor:
    """Return `sigmoid(x)` of rows [n, width]; `x` may be written to."""
    return in_whole_vectors(torch.sigmoid_, x) if _is_cpu(x) else x.sigmoid()


def _is_cpu(x: Tensor) -> bool:
    return x.device.type == "cpu"


def in_whole_vectors(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return what a function of single values makes of rows [n, width] on a CPU.

    Torch computes what is left over behind whole vectors by another exponential, so every call gets
    rows of whole vectors, few enough for one thread.
    """
    rows, width = x.shape
    if width % _WHOLE:
        return in_whole_vectors(function, F.pad(x, (0, -width % _WHOLE)))[:, :width]
    at_once = max(1, _SERIAL // width)
    if rows <= at_once:
        return function(x)
    return torch.cat([function(part) for part in torch.split(x, at_once)])
