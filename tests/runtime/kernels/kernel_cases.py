"""What the kernels' tests share: numbers of rows, dtypes, and weights."""

from __future__ import annotations

from itertools import cycle
from typing import Any

import torch
from torch import Tensor

from nldc.runtime.kernels.launchable import Target
from nldc.runtime.kernels.product import Matrix

TARGET = Target.of(torch.device("cpu"))
GUARD = 64
ROWS = (1, 2, 7, 31, 64, 65, 72, 129, 272)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
BY_ROWS = tuple(zip(ROWS, cycle(DTYPES)))
EPSILON = {torch.float32: 2**-22, torch.bfloat16: 2**-7, torch.float16: 2**-11}
"""The relative error of one rounding, and for float32 that of a short sum.

The interpreter cuts bfloat16 off where a device rounds it.
"""


def numbers(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=generator).to(dtype)


def matrix(out: int, width: int, dtype: torch.dtype, *, gap: int = 0, seed: int = 1) -> Matrix:
    """Return a weight whose rows have `gap` values between them, which must not be read."""
    wide = torch.full((out, width + gap), torch.nan, dtype=dtype)
    wide[:, :width] = numbers(out, width, seed=seed)
    return Matrix(wide, out, width)


def exact(x: Tensor, weight: Matrix) -> Tensor:
    return x.double() @ dense(weight).double().T


def dense(weight: Matrix) -> Tensor:
    return weight.data[:, : weight.width]


def whole(parts: Tensor) -> Tensor:
    """Return the sum of a product's parts, in order."""
    total = torch.zeros_like(parts[0])
    for part in parts:
        total += part
    return total


def error(found: Tensor, wanted: Tensor) -> float:
    """Return the largest difference, to the size of what is wanted."""
    assert found.shape == wanted.shape
    return float((found.double() - wanted).abs().max() / wanted.abs().max())


class Rooms:
    """Memory that was asked for: what nobody wrote to is poison, and so is what lies around."""

    def __init__(self) -> None:
        self.whole: list[tuple[Tensor, int]] = []

    def empty(self, *size: Any, dtype: torch.dtype | None = None, **_: Any) -> Tensor:
        shape = tuple(size[0]) if len(size) == 1 and not isinstance(size[0], int) else size
        count = torch.Size(shape).numel()
        kind = dtype or torch.get_default_dtype()
        whole = torch.zeros(count + 2 * GUARD, dtype=kind)
        whole[:] = poison(kind)
        self.whole.append((whole, count))
        return whole[GUARD : GUARD + count].view(shape)

    def check(self) -> None:
        """Fail if something was written around a tensor, or not everywhere in it."""
        assert self.whole
        for whole, count in self.whole:
            clean = is_poison(whole)
            assert clean[:GUARD].all(), "written before a tensor"
            assert clean[GUARD + count :].all(), "written behind a tensor"
            assert not clean[GUARD : GUARD + count].any(), "not written everywhere"


def poison(dtype: torch.dtype) -> float | int:
    return float("nan") if dtype.is_floating_point else torch.iinfo(dtype).min


def is_poison(values: Tensor) -> Tensor:
    return values.isnan() if values.is_floating_point() else values == poison(values.dtype)
