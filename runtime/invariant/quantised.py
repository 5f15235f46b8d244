"""Weights of 8 and 4 bits as they are stored: numbers in groups that share a scale.

Numbers are whole, or of 8 bits floats (E4M3: a sign, 4 bits of exponent, 3 of mantissa). The layout
is that of compressed-tensors' `pack-quantized` and `float-quantized`, so that files are read
without a change and a kernel reads what files hold. What a weight is worth is said by
`Quantised.to_dense`, which every product of it is tested against.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

BITS = (4, 8)
FLOAT8 = torch.float8_e4m3fn
"""What numbers of 8 bits are that are no whole ones. It has no infinities, and NaN of each sign."""
LARGEST = 448.0
"""The largest float of 8 bits."""
WORD = 32
"""Bits of a packed word."""
CANDIDATES = (1.0, 0.97, 0.94, 0.91, 0.88, 0.85, 0.82)
"""How much of a group's range is tried: what lies beyond is cut off, and all else is finer."""
CHUNK = 1 << 22
"""Values that are quantised at a time; more would only take memory."""


@dataclass(frozen=True, eq=False)
class Quantised:
    """A weight of `shape` [out, in], to be computed with in `dtype`.

    `packed` is int32 [out, in * bits / 32, rounded up]: value i of a row lies at bit i * bits,
    lowest first, as a number u without sign. Of a row's values, each `in / groups` neighbours share
    a `scale`, floats [out, groups]. The weight is `scale * u + shift` where there is a `shift`,
    floats [out, groups], and `scale * (u - 2 ** (bits - 1))` where there is none. With `floating`,
    u is the bits of a float (E4M3, not NaN), and the weight is `scale` times it: 8 bits, no shift.
    """

    packed: Tensor
    scale: Tensor
    shift: Tensor | None
    bits: int
    shape: tuple[int, int]
    dtype: torch.dtype
    floating: bool = False

    @property
    def middle(self) -> int:
        """The middle number, which is worth 0 where there is no shift."""
        return 1 << (self.bits - 1)

    @property
    def group(self) -> int:
        """How many neighbours in a row share a scale."""
        return self.shape[1] // self.scale.shape[1]

    def numbers(self) -> Tensor:
        """Return the numbers [out, in]: int8, zero in the middle of their range, or floats."""
        return self._numbers(self.packed)

    def to_dense(self) -> Tensor:
        """Return the weight [out, in] in its dtype: computed in at least float32, rounded once."""
        return self._valued(self.numbers(), self.scale, self.shift).to(self.dtype)

    def rows(self, which: Tensor) -> Tensor:
        """Return the rows with those numbers, int64 [n], as [n, in]; all of an embedding's use."""
        numbers = self._numbers(self.packed[which])
        shift = None if self.shift is None else self.shift[which]
        return self._valued(numbers, self.scale[which], shift).to(self.dtype)

    def _numbers(self, words: Tensor) -> Tensor:
        if self.floating:
            return words.contiguous().view(FLOAT8)[:, : self.shape[1]]
        return unpacked(words, self.bits, self.shape[1])

    def _valued(self, numbers: Tensor, scale: Tensor, shift: Tensor | None) -> Tensor:
        wide = torch.promote_types(self.dtype, torch.float32)
        values = numbers.to(wide).view(len(numbers), scale.shape[1], -1)
        if shift is not None:
            values += self.middle
        values = values.mul_(scale.to(wide).unsqueeze(-1))
        if shift is not None:
            values = values.add_(shift.to(wide).unsqueeze(-1))
        return values.flatten(1)


def packed(numbers: Tensor, bits: int) -> Tensor:
    """Return numbers, int8 [n, count] around zero, as words int32 [n, count * bits / 32]."""
    each = WORD // bits
    numbers = F.pad(numbers, (0, -numbers.shape[1] % each))
    raised = (numbers.to(torch.int16) + (1 << (bits - 1))).to(torch.uint8)
    if bits == 4:
        raised = raised[:, ::2] | raised[:, 1::2] << 4
    # whole words of little-endian bytes, which every machine that torch is built for has
    return raised.contiguous().view(torch.int32)


def unpacked(words: Tensor, bits: int, count: int) -> Tensor:
    """Return `count` numbers around zero from each row of words: int8 [n, count]."""
    raised = words.contiguous().view(torch.uint8)
    if bits == 4:
        raised = torch.stack((raised & 15, raised >> 4), -1).flatten(1)
    # a byte below 0 begins again at 255, which is -1 in a byte with a sign
    return raised[:, :count].sub(1 << (bits - 1)).view(torch.int8)


def packed_floats(numbers: Tensor) -> Tensor:
    """Return floats of 8 bits [n, count] as words int32 [n, count / 4, rounded up]."""
    return F.pad(numbers.view(torch.uint8), (0, -numbers.shape[1] % 4)).view(torch.int32)


def joined(parts: Sequence[Quantised]) -> Quantised | None:
    """Return weights one below the other as one, or None if they are not quantised alike."""
    first = parts[0]
    kinds = {(part.bits, part.floating, part.shape[1], part.scale.shape[1]) for part in parts}
    if len(kinds) > 1:
        return None
    shift = None
    if any(part.shift is not None for part in parts):
        shift = torch.cat([_shift_of(part) for part in parts])
    wide = first.scale.dtype
    for part in parts:
        wide = torch.promote_types(wide, part.scale.dtype)
    return replace(
        first,
        packed=torch.cat([part.packed for part in parts]),
        scale=torch.cat([part.scale.to(wide) for part in parts]),
        shift=shift,
        shape=(sum(part.shape[0] for part in parts), first.shape[1]),
    )


def _shift_of(part: Quantised) -> Tensor:
    if part.shift is None:
        return part.scale.float() * -part.middle
    return part.shift.float()


@dataclass(frozen=True, eq=False)
class Rounded:
    """A weight as `quantise` returns it: numbers [out, in], int8 or `FLOAT8`, scale [out, groups]
    in the dtype that it is stored in, and with `zero`, int8 [out, groups], the number that stands
    for 0.
    """

    numbers: Tensor
    scale: Tensor
    zero: Tensor | None


def quantise(
    weight: Tensor,
    bits: int,
    group: int,
    scale_dtype: torch.dtype,
    *,
    symmetric: bool,
    floating: bool = False,
) -> Rounded:
    """Round a weight [out, in] to numbers of so many bits, each `group` neighbours with a scale.

    Of a few ranges that each group could have, it gets the one with the least squared error. The
    weight is then `scale * (numbers - zero)`. `floating` numbers are symmetric.
    """
    at_once = max(1, CHUNK // weight.shape[1])
    parts = [
        _quantise(rows, bits, group, scale_dtype, symmetric=symmetric, floating=floating)
        for rows in torch.split(weight, at_once)
    ]
    numbers, scale, zero = (torch.cat(values) for values in zip(*parts, strict=True))
    return Rounded(numbers, scale, None if symmetric else zero)


def _quantise(
    weight: Tensor,
    bits: int,
    group: int,
    scale_dtype: torch.dtype,
    *,
    symmetric: bool,
    floating: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    values = weight.float().view(len(weight), -1, group)
    low, high = float(-(1 << (bits - 1))), float((1 << (bits - 1)) - 1)
    if floating:
        low, high = -LARGEST, LARGEST
    least, most = values.amin(-1, keepdim=True), values.amax(-1, keepdim=True)
    if symmetric:
        span = torch.maximum(most, -least) / high
    else:
        least, most = least.clamp(max=0), most.clamp(min=0)
        span = (most - least) / (high - low)
    smallest = torch.finfo(scale_dtype).tiny
    best: tuple[Tensor, Tensor, Tensor] | None = None
    error = torch.full_like(span, torch.inf)
    for part in CANDIDATES:
        # what is stored is what counts: numbers are rounded by the scale as it will be read
        scale = (span * part).clamp(min=smallest).to(scale_dtype).float()
        zero = torch.zeros_like(scale)
        if not symmetric:
            zero = (low - least * part / scale).round().clamp(low, high)
        numbers = (values / scale + zero).clamp(low, high)
        numbers = numbers.to(FLOAT8).float() if floating else numbers.round()
        found = ((numbers - zero) * scale - values).square().sum(-1, keepdim=True)
        if best is None:
            best, error = (numbers, scale, zero), found
            continue
        better = found < error
        pairs = zip((numbers, scale, zero), best, strict=True)
        numbers, scale, zero = (torch.where(better, new, old) for new, old in pairs)
        best, error = (numbers, scale, zero), torch.where(better, found, error)
    assert best is not None
    numbers, scale, zero = best
    return (
        numbers.flatten(1).to(FLOAT8 if floating else torch.int8),
        scale.squeeze(-1).to(scale_dtype),
        zero.squeeze(-1).to(torch.int8),
    )
