"""The one product of rows with a weight matrix; the policy of how rows are grouped lives here.

Self-speculation is exact only if a row's product does not depend on how many rows are computed with
it, and torch's own float32 product on a CPU takes another way through its library for 1, for 4 and
for 16 rows. oneDNN's product over a weight that was packed beforehand adds up each row in one order
whatever the number of rows, from two on; so weights are packed, and a single row is computed twice.
That costs a lone row up to a quarter, and makes 4 to 32 rows cheaper than the plain product:
benchmarks/README.md has the figures.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

EXPECTED_ROWS = 32
"""The number of rows that the packed form suits best; any number works."""


def pack(weight: Tensor) -> Tensor:
    """Return `weight` [out, in] in the form that `linear` computes with.

    That is an opaque copy for float32 on a CPU with oneDNN, and otherwise `weight` itself.
    """
    packable = weight.device.type == "cpu" and weight.dtype == torch.float32
    if not packable or not torch._C._has_mkldnn:
        return weight
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), EXPECTED_ROWS)
    return packed


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """Return `x @ weight.T`: rows [n, in], weight [out, in] or packed, result [n, out].

    With a packed weight, a row of the result depends on the same row of `x` alone, bit for bit.
    """
    if not weight.is_mkldnn:
        return F.linear(x, weight)
    rows = torch.cat((x, x)) if x.shape[0] == 1 else x
    product: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, None, "none", [], "")
    return product[: x.shape[0]]
