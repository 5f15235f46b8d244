"""The product of rows with quantised weights on a CPU, in the forms that torch has.

None of them is written here: they are torch's own, which dequantise in the product. Whether a row's
bits are the same in any company is tried in `quantised_ways.py` before a form is used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from nldc.runtime.invariant.quantised import Quantised

Form = Literal["int4", "int8", "half"]
AT_ONCE = 3
"""Rows of the form `half` come in multiples: FBGEMM sums one or two left over otherwise."""
WHOLE = 64
"""Values of a row of the form `int8` come in multiples, so that every row begins at a line."""
AT_A_TIME = 1 << 20
"""Values of the form `half` that are packed together; more take memory while they are."""
LEAST = 1e-30
"""The least that counts as a weight's largest value."""
TALL = 2.0**13
"""What the largest weight of the form `half` is brought near to, far from what float16 can hold
and far from where it has fewer digits."""


@dataclass(frozen=True, eq=False)
class QuantisedProduct:
    """A weight of `shape` [out, in] in the form that products in `dtype` are computed with.

    - `int4`: 4 bits; `scales` bfloat16 [groups, out, 2] hold each group's scale, and the value of
      its middle number. Rows of bfloat16.
    - `int8`: 8 bits; `scales` bfloat16 [out], one for each row of the weight. Rows of bfloat16.
    - `half`: the weight times a power of two, rounded to float16, for rows of any dtype, which are
      multiplied in float32; `scales` float32 [1] is the power's inverse.
    """

    form: Form
    data: Any
    scales: Tensor
    group: int
    shape: tuple[int, int]
    dtype: torch.dtype

    def product(self, x: Tensor) -> Tensor:
        """Return rows [n, in] times the weight, [n, out] in the rows' dtype.

        The rows are contiguous and begin at a whole cache line, without which torch's own `int8`
        may end the process.
        """
        found: Tensor
        if self.form == "int4":
            found = torch.ops.aten._weight_int4pack_mm_for_cpu.default(
                x, self.data, self.group, self.scales
            )
            return found
        if self.form == "int8":
            found = torch.ops.aten._weight_int8pack_mm.default(x, self.data, self.scales)
            return found
        rows = x.shape[0]
        if rows == 1:
            x = x.expand(AT_ONCE, -1)
        elif rows % AT_ONCE:
            x = F.pad(x, (0, 0, 0, -rows % AT_ONCE))
        wide = x * self.scales
        parts = [torch.ops.quantized.linear_dynamic_fp16.default(wide, part) for part in self.data]
        found = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        return found[:rows].to(x.dtype)

    def to_dense(self) -> Tensor:
        """Return the weight [out, in], as its products have it."""
        return self.product(torch.eye(self.shape[1], dtype=self.dtype)).T


def formed(weight: Quantised, form: Form) -> QuantisedProduct:
    """Return a weight in that form.

    Raises:
        RuntimeError: torch has no such product for this weight on this machine.
    """
    if form == "half":
        return half(weight.to_dense())
    if form == "int4":
        data, scales = _four_bits(weight)
    else:
        data, scales = weight.numbers(), weight.scale.flatten().to(weight.dtype)
    return QuantisedProduct(form, data, scales, weight.group, weight.shape, weight.dtype)


def half(weight: Tensor) -> QuantisedProduct:
    """Return a plain weight [out, in] on the CPU in the form `half`.

    Of bfloat16, every value within 2 ** 27 of the largest is as it was.

    Raises:
        RuntimeError: torch has no such product on this machine.
    """
    out, width = weight.shape
    largest = max(float(weight.max()), -float(weight.min()), LEAST)
    power = 2.0 ** -round(math.log2(largest / TALL))
    data = tuple(
        torch.ops.quantized.linear_prepack_fp16(part.float().mul_(power), None)
        for part in torch.split(weight, max(1, AT_A_TIME // width))
    )
    scales = torch.tensor([1 / power])
    return QuantisedProduct("half", data, scales, width, (out, width), weight.dtype)


def _four_bits(weight: Quantised) -> tuple[Tensor, Tensor]:
    scale = weight.scale.float()
    middle = torch.zeros_like(scale)
    if weight.shift is not None:
        middle = weight.shift.float() + weight.middle * scale
    scales = torch.stack([each.T.to(weight.dtype) for each in (scale, middle)], -1)
    raised = weight.numbers().to(torch.int32) + weight.middle
    data = torch.ops.aten._convert_weight_to_int4pack_for_cpu.default(raised, 1)
    return data, scales.contiguous()


def forms(weight: Quantised) -> tuple[Form, ...]:
    """Return the forms that are made for a weight of this kind, the best first."""
    if weight.packed.device.type != "cpu" or weight.dtype != torch.bfloat16:
        return ()
    if weight.bits == 4 and weight.group in (32, 64, 128, 256):
        return ("int4", "half")
    one_scale = weight.scale.shape[1] == 1 and weight.shift is None and not weight.floating
    if weight.bits == 8 and one_scale and weight.shape[1] % WHOLE == 0:
        return ("int8", "half")
    return ("half",)
