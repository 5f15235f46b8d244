"""Quantised weights as the kernels of a GPU read them.

A product wants each register to hold two neighbours of a row, and wants no bit moved that need not
be. So a row is cut into blocks, a block into parts of `lanes` neighbours, and a word of 16 bits
holds one value of each part: word j of a block holds its values j, j + lanes, j + 2 * lanes, ...,
the first in the lowest bits. A shift and a mask of whole registers then leave a part in order, as
the matching columns of `x` lie in memory. There is no copy of the weight beside it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nldc.runtime.invariant.quantised import CHUNK, FLOAT8, Quantised, unpacked

WORD = 16
"""Bits of a word."""
LANES = (64, 32, 16)
"""Neighbours of a part, the most first: what divides a group. A tensor core takes 16 at a time."""
DTYPES = (torch.bfloat16, torch.float16)
"""What numbers are brought to in registers; in other dtypes weights are dequantised when loaded."""


@dataclass(frozen=True, eq=False)
class Interleaved:
    """A weight of `shape` [out, in], to be computed with in `dtype`.

    `words` int16 [out, blocks * lanes], see above. `scale` [groups, out], and `offset` [groups,
    out] where a weight had a shift: what the middle number is worth. A group has `group` columns, 0
    where all of a row are one. The weight is `scale * (u - middle) + offset`, or with `floating`
    `scale` times the float (E4M3) whose bits are u.
    """

    words: Tensor
    scale: Tensor
    offset: Tensor | None
    bits: int
    group: int
    lanes: int
    shape: tuple[int, int]
    dtype: torch.dtype
    floating: bool = False

    @property
    def parts(self) -> int:
        """How many values share a word."""
        return WORD // self.bits

    @property
    def block(self) -> int:
        """How many columns one block has."""
        return self.lanes * self.parts

    def to_dense(self) -> Tensor:
        """Return the weight [out, in] in its dtype: computed in at least float32, rounded once."""
        out, width = self.shape
        words = self.words.view(out, -1, 1, self.lanes).int()
        shifts = torch.arange(self.parts, device=words.device).view(1, 1, -1, 1) * self.bits
        raised = (words >> shifts) & ((1 << self.bits) - 1)
        wide = torch.promote_types(self.dtype, torch.float32)
        raised = raised.flatten(1)[:, :width]
        if self.floating:
            numbers = raised.to(torch.uint8).view(FLOAT8).to(wide)
        else:
            numbers = raised.to(wide) - (1 << (self.bits - 1))
        each = self.group or width

        def spread(values: Tensor) -> Tensor:
            return values.T.to(wide).repeat_interleave(each, 1)

        values = numbers * spread(self.scale)
        if self.offset is not None:
            values += spread(self.offset)
        return values.to(self.dtype)


def lanes_of(weight: Quantised) -> int | None:
    """Return how many neighbours a part of such a weight has, or None if no kernel reads it.

    That is where no part divides a group, or rows are in other dtypes.
    """
    if weight.dtype not in DTYPES:
        return None
    if weight.scale.shape[1] == 1:
        return LANES[0]
    return next((lanes for lanes in LANES if weight.group % lanes == 0), None)


def interleaved(weight: Quantised, lanes: int) -> Interleaved:
    """Return a weight, interleaved in parts of so many neighbours, a part of its rows at a time."""
    out, width = weight.shape
    parts = WORD // weight.bits
    padded = -(-width // (lanes * parts)) * lanes * parts
    words = weight.packed.new_empty((out, padded // parts), dtype=torch.int16)
    at_once = max(1, CHUNK // padded)
    for rows, to in zip(
        torch.split(weight.packed, at_once), torch.split(words, at_once), strict=True
    ):
        # what fills a row up is the middle number, or of floats the same bits, -0: no NaN
        numbers = F.pad(unpacked(rows, weight.bits, width), (0, padded - width))
        raised = (numbers.to(torch.int16) + weight.middle).view(len(rows), -1, parts, lanes)
        found = raised[:, :, 0]
        for part in range(1, parts):
            found = found | raised[:, :, part] << (part * weight.bits)
        to.copy_(found.flatten(1))
    one = weight.scale.shape[1] == 1
    scale = weight.scale if weight.scale.dtype in DTYPES else weight.scale.float()
    return Interleaved(
        words,
        scale.T.contiguous(),
        _offset(weight, scale.dtype),
        weight.bits,
        0 if one else weight.group,
        lanes,
        weight.shape,
        weight.dtype,
        weight.floating,
    )


def _offset(weight: Quantised, stored: torch.dtype) -> Tensor | None:
    """Return what the middle number of each group is worth, if not 0: [groups, out].

    Of 4 bits in bfloat16 it is `stored` as the scale is, as on a CPU: groups are small, in float32
    it would be a sixth of what is read, and a weight is rounded by as much. Else it is float32.
    """
    if weight.shift is None:
        return None
    scale = weight.scale.float()
    offset = (weight.shift.float() + weight.middle * scale).T.contiguous()
    if weight.bits == 4 and weight.dtype == torch.bfloat16:
        small = offset.to(stored)
        return small if bool(small.isfinite().all()) else offset
    return offset
