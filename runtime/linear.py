"""The one product of rows with a weight matrix; the policy of how rows are grouped lives here.

Self-speculation is exact only if a row's product does not depend on how many rows are computed with
it, and torch's own float32 product on a CPU takes another way through its library for 1, for 4 and
for 16 rows. oneDNN's product over a weight that was packed beforehand adds up each row in one order
whatever the number of rows; so weights are packed. Over more than `MAX_INPUTS` inputs it is slow
for few rows and treats a lone row differently, so wide weights are packed in blocks of inputs whose
products are added up. Whether a lone row is like the others is tried when a weight is packed; where
it is not, it is computed twice. benchmarks/README.md has the figures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

EXPECTED_ROWS = 32
"""The number of rows that the packed form suits best; any number works."""

MAX_INPUTS = 1024
"""The widest block that is packed in one."""


@dataclass(frozen=True, eq=False)
class Packed:
    """A float32 weight [out, in] as oneDNN's opaque blocks, side by side in the inputs.

    `alone` says that a lone row's product is bitwise what it is in company.
    """

    blocks: tuple[Tensor, ...]
    alone: bool

    def to_dense(self) -> Tensor:
        """Return the weight as a plain tensor."""
        return torch.cat([block.to_dense() for block in self.blocks], 1)


Weight: TypeAlias = Tensor | Packed


def pack(weight: Weight) -> Weight:
    """Return `weight` [out, in] in the form that `linear` computes with.

    That is a packed copy for float32 on a CPU with oneDNN, and otherwise `weight` itself.
    """
    if isinstance(weight, Packed):
        return weight
    packable = weight.device.type == "cpu" and weight.dtype == torch.float32
    if not packable or not torch._C._has_mkldnn:
        return weight
    blocks = tuple(
        torch.ops.mkldnn._reorder_linear_weight(block.contiguous(), EXPECTED_ROWS)
        for block in torch.split(weight, MAX_INPUTS, 1)
    )
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(2, weight.shape[1], generator=generator)
    alone = torch.equal(_product(rows[:1], blocks)[0], _product(rows, blocks)[0])
    return Packed(blocks, alone)


def linear(x: Tensor, weight: Weight) -> Tensor:
    """Return `x @ weight.T`: rows [n, in], weight [out, in] or packed, result [n, out].

    With a packed weight, a row of the result depends on the same row of `x` alone, bit for bit.
    """
    if isinstance(weight, Tensor):
        return F.linear(x, weight)
    if x.shape[0] == 1 and not weight.alone:
        return _product(torch.cat((x, x)), weight.blocks)[:1]
    return _product(x, weight.blocks)


def _product(x: Tensor, blocks: tuple[Tensor, ...]) -> Tensor:
    if len(blocks) == 1:
        return _block(x, blocks[0])
    parts = torch.split(x, MAX_INPUTS, 1)
    total = _block(parts[0], blocks[0])
    for part, block in zip(parts[1:], blocks[1:], strict=True):
        total += _block(part, block)
    return total


def _block(x: Tensor, block: Tensor) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, block, None, "none", [], "")
    return product
