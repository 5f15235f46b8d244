"""Weights as the CPU's kernels read them: 64 outputs side by side, one stream from first to last.

A vector's lanes are outputs, so that each sum is one lane's own and its order is that in which the
inputs lie. What a group needs lies together, and the groups of a block one behind another; matrices
lie behind one another in large pieces of memory. A processor fetches such a stream ahead by itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nldc.runtime.invariant.quantised import FLOAT8, Quantised

OUTPUTS = 64
"""Outputs of a block."""
WORD = 32
"""Bits of a word: neighbours of one input row of the weight, lowest first."""
FORMS = ("q4", "q4s", "q8", "q8s", "f8", "bf16", "f16", "f32")
"""What numbers a word holds; see `Blocked`."""
BITS = {"q4": 4, "q4s": 4, "q8": 8, "q8s": 8, "f8": 8, "bf16": 16, "f16": 16, "f32": 32}
PLAIN = {torch.bfloat16: "bf16", torch.float16: "f16", torch.float32: "f32"}
PIECE = 1 << 25
"""Bytes of memory that matrices share: large enough for the system to map it in large pages."""
LINE = 64
"""Bytes of a cache line, where every matrix begins."""
SIGNS = np.int32(-0x7F7F7F80)
"""The highest bit of each byte, by which a number with a sign differs from one without."""
_Array = np.ndarray[Any, Any]
CHUNK = 1 << 22
"""Values that are brought into form at a time."""
HIGHEST = 14
"""The power of two that the largest scale is brought near to in float16."""
MOST = 2.0**64
"""The most that scales are multiplied with or divided by: so is a row in turn, which is to keep its
digits.
"""


@dataclass(frozen=True, eq=False)
class Blocked:
    """A weight of `shape` [out, in], to be computed with in `dtype`.

    `data` is uint8 [blocks, groups, bytes]: the `words` of a group, int32 [words, 64], then its
    scales, then its shifts, [64] each, float16 or, with `wide`, float32. They are the weight's own
    times `power`. Outputs and groups are filled up with zeros. The forms:

    - `q4`: numbers of 4 bits, from which 8 is taken; `q4s`: not so, and there is a shift
    - `q8`: numbers of 8 bits with a sign; `q8s`: without one, and there is a shift
    - `f8`: floats of 8 bits (E4M3)
    - `bf16`, `f16`, `f32`: the weight as it is, one group, and no scale
    """

    data: Tensor
    form: str
    wide: bool
    words: int
    group: int
    power: float
    shape: tuple[int, int]
    dtype: torch.dtype

    @property
    def groups(self) -> int:
        """How many groups a row has."""
        return self.data.shape[1]

    @property
    def blocks(self) -> int:
        """How many blocks of outputs there are."""
        return self.data.shape[0]

    @property
    def padded(self) -> int:
        """How many inputs a group has, with what fills it up."""
        return self.words * (WORD // BITS[self.form])

    def to_dense(self) -> Tensor:
        """Return the weight [out, in] in its dtype, computed in float32 and rounded once."""
        bits, (out, width) = BITS[self.form], self.shape
        end = self.words * OUTPUTS * 4
        words = self.data[..., :end].contiguous().view(torch.int32)
        words = words.view(self.blocks, self.groups, self.words, OUTPUTS, 1)
        if self.form == "f32":
            values = words.view(torch.float32)
        elif bits == 16:
            values = words.view(torch.int16).view(
                torch.bfloat16 if self.form == "bf16" else torch.float16
            )
        else:
            shifts = torch.arange(0, WORD, bits)
            values = (words >> shifts) & ((1 << bits) - 1)
            if self.form == "f8":
                values = values.to(torch.uint8).view(FLOAT8)
            if self.form == "q8":
                values = (values ^ 128) - 128
            if self.form == "q4":
                values = values - 8
        values = values.float().permute(0, 3, 1, 2, 4).flatten(3)[..., : self.group]
        if bits < 16:
            stored = torch.float32 if self.wide else torch.float16
            parts = self.data[..., end:].contiguous().view(stored).float() / self.power
            scale = parts[..., :OUTPUTS].transpose(1, 2).unsqueeze(-1)
            values = values * scale
            if self.form in ("q4s", "q8s"):
                values = values + parts[..., OUTPUTS:].transpose(1, 2).unsqueeze(-1)
        return values.reshape(-1, self.groups * self.group)[:out, :width].to(self.dtype)


class Arena:
    """Memory for the weights of one model, taken in large pieces."""

    def __init__(self) -> None:
        self._free = torch.empty(0, dtype=torch.uint8, device="cpu")

    def take(self, size: int) -> Tensor:
        """Return so many bytes, which begin at a whole line."""
        size = -(-size // LINE) * LINE
        if len(self._free) < size:
            # numpy, unlike torch, asks the system for large pages
            piece = torch.from_numpy(np.empty(max(size, PIECE) + LINE, np.uint8))
            self._free = piece[-piece.data_ptr() % LINE :]
        taken, self._free = self._free[:size], self._free[size:]
        return taken

    def blocked(self, weight: Tensor | Quantised) -> Blocked:
        """Return a weight [out, in] on the CPU in blocks.

        A plain one has a dtype of `PLAIN`; one of float16 that is not finite is kept in float32,
        since products read float16 without a look at that.
        """
        if isinstance(weight, Quantised):
            return self._quantised(weight)
        if weight.dtype == torch.float16 and not _is_finite(weight):
            return replace(self.blocked(weight.float()), dtype=weight.dtype)
        form = PLAIN[weight.dtype]
        out, width = weight.shape
        words = -(-width // (WORD // BITS[form]))
        data = self._room(out, 1, words * OUTPUTS * 4)
        kind = torch.int32 if form == "f32" else torch.int16
        numbers = weight.contiguous().view(kind).numpy()
        for rows, to in _chunks(out, width, data):
            _fill(to, _in_words(numbers[rows, None], BITS[form], words))
        return Blocked(data, form, False, words, width, 1.0, (out, width), weight.dtype)

    def _quantised(self, weight: Quantised) -> Blocked:
        (out, width), groups, bits = weight.shape, weight.scale.shape[1], weight.bits
        form = "f8" if weight.floating else f"q{bits}" + "s" * (weight.shift is not None)
        each = WORD // bits
        words = -(-weight.group // each)
        packed = weight.packed.contiguous().numpy()
        factors = [weight.scale] if weight.shift is None else [weight.scale, weight.shift]
        stored, power = _stored(factors)
        place, size = words * OUTPUTS * 4, OUTPUTS * stored.itemsize
        data = self._room(out, groups, place + size * len(factors))
        for rows, to in _chunks(out, width, data):
            if weight.group % each == 0:
                found = packed[rows].reshape(-1, groups, words)
            else:
                numbers = _numbers(packed[rows], bits)[:, :width]
                found = _in_words(numbers.reshape(-1, groups, weight.group), bits, words)
            if form == "q8":
                found = found ^ SIGNS
            _fill(to[..., :place], found)
        for number, factor in enumerate(factors):
            own = (factor.double().numpy() * power).astype(stored)
            at = place + number * size
            _fill(data[..., at : at + size], own[..., None])
        wide = stored == np.float32
        return Blocked(data, form, wide, words, weight.group, power, (out, width), weight.dtype)

    def _room(self, out: int, groups: int, size: int) -> Tensor:
        blocks = -(-out // OUTPUTS)
        taken = self.take(blocks * groups * size)
        return taken[: blocks * groups * size].view(blocks, groups, size)


def _is_finite(weight: Tensor) -> bool:
    parts = torch.split(weight, max(1, CHUNK // weight.shape[1]))
    return all(bool(part.isfinite().all()) for part in parts)


def _chunks(out: int, width: int, data: Tensor) -> list[tuple[slice, Tensor]]:
    """Return some outputs after the others, and their blocks of `data`."""
    at_once = max(1, CHUNK // (width * OUTPUTS))
    return [
        (
            slice(first * OUTPUTS, min((first + at_once) * OUTPUTS, out)),
            data[first : first + at_once],
        )
        for first in range(0, len(data), at_once)
    ]


def _fill(to: Tensor, values: _Array) -> None:
    """Write values [n, groups, count] as the bytes [blocks, groups, count * 64] of blocks.

    By numpy, in one thread: torch would share out each of these small copies.
    """
    outputs, groups, count = values.shape
    blocks = to.numpy().view(values.dtype).reshape(len(to), groups, count, OUTPUTS)
    whole = outputs // OUTPUTS
    full = values[: whole * OUTPUTS].reshape(whole, OUTPUTS, groups, count)
    blocks[:whole] = full.transpose(0, 2, 3, 1)
    if whole < len(to):
        rest = values[whole * OUTPUTS :].transpose(1, 2, 0)
        blocks[whole, ..., : rest.shape[-1]] = rest
        blocks[whole, ..., rest.shape[-1] :] = 0


def _numbers(packed: _Array, bits: int) -> _Array:
    """Return the numbers of words, without a sign, uint8 [n, count]."""
    found = packed.view(np.uint8)
    if bits == 8:
        return found
    return np.stack((found & 15, found >> 4), -1).reshape(len(found), -1)


def _in_words(numbers: _Array, bits: int, words: int) -> _Array:
    """Return numbers [n, groups, group] as so many words a group, int32 [n, groups, words]."""
    missing = words * (WORD // bits) - numbers.shape[2]
    padded = np.pad(numbers, ((0, 0), (0, 0), (0, missing)))
    if bits == 4:
        padded = padded[..., ::2] | padded[..., 1::2] << 4
    # whole words of little-endian bytes, which every machine that torch is built for has
    return np.ascontiguousarray(padded).view(np.int32)


def _stored(factors: list[Tensor]) -> tuple[np.dtype[Any], float]:
    """Return in what scales and shifts are kept without a loss, and their power of two.

    That is float16 where it holds all of them as they are or times a power of two, else float32.
    """
    if all(factor.dtype == torch.float16 for factor in factors):
        return np.dtype(np.float16), 1.0
    values = [factor.double().numpy() for factor in factors]
    largest = max(float(np.abs(each).max()) for each in values)
    if math.isfinite(largest) and largest > 0:
        power = 2.0 ** (HIGHEST - math.frexp(largest)[1])
        if 1 / MOST <= power <= MOST and all(_holds(each * power) for each in values):
            return np.dtype(np.float16), power
    return np.dtype(np.float32), 1.0


def _holds(values: _Array) -> bool:
    with np.errstate(over="ignore"):
        return bool((values.astype(np.float16) == values).all())
