"""Blocks of GGUF's Q8_0, Q4_0 and Q4_1 as what they hold: whole numbers, scales and minima.

A block is 32 neighbours of a row: a float16 scale, in Q4_1 a float16 minimum, then the numbers. Two
numbers of 4 bits share a byte, one of the block's first half and one of its second. These are the
formats that a checkpoint can hold as they are; the others are dequantised.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

GROUP = 32
BITS = {"Q8_0": 8, "Q4_0": 4, "Q4_1": 4}
"""The formats that are kept, and the bits of their numbers."""


@dataclass(frozen=True)
class Numbers:
    """A matrix [out, in] whose values are `scale * u + least`: u uint8 [out, in] of so many `bits`.

    `scale` and `least` are float16 [out, in / 32]; without `least`, the value is
    `scale * (u - 2 ** (bits - 1))`.
    """

    bits: int
    u: npt.NDArray[np.uint8]
    scale: npt.NDArray[np.float16]
    least: npt.NDArray[np.float16] | None

    def packed(self) -> npt.NDArray[np.int32]:
        """Return u as words [out, in * bits / 32], value i of a row at bit i * bits."""
        import numpy

        values = self.u if self.bits == 8 else self.u[:, ::2] | self.u[:, 1::2] << 4
        return numpy.ascontiguousarray(values).view("<i4")


def numbers_of(rows: npt.NDArray[np.uint8], form: str) -> Numbers:
    """Return what rows of blocks hold, uint8 [out, bytes of a row], in a format of `BITS`."""
    import numpy

    wide = 2 if form == "Q4_1" else 1
    size = 2 * wide + GROUP * BITS[form] // 8
    blocks = rows.reshape(len(rows), -1, size)
    floats = numpy.ascontiguousarray(blocks[:, :, : 2 * wide]).view("<f2")
    found = blocks[:, :, 2 * wide :]
    if form == "Q8_0":
        # a byte with a sign, and 128 more: the highest bit is turned
        u = found ^ numpy.uint8(128)
    else:
        u = numpy.concatenate((found & 15, found >> 4), -1)
    return Numbers(
        BITS[form],
        numpy.ascontiguousarray(u).reshape(len(rows), -1),
        numpy.ascontiguousarray(floats[:, :, 0]),
        numpy.ascontiguousarray(floats[:, :, 1]) if wide == 2 else None,
    )
