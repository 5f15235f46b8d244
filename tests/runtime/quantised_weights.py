"""Quantised weights of any kind, made up."""

from __future__ import annotations

import torch

from nldc.runtime.invariant.quantised import FLOAT8, Quantised, packed, packed_floats


def quantised(
    out: int,
    width: int,
    bits: int,
    group: int,
    *,
    shifted: bool = False,
    stored: torch.dtype = torch.float16,
    dtype: torch.dtype = torch.float32,
    floating: bool = False,
) -> Quantised:
    """Return a weight [out, in] whose scales and shifts have digits to lose in `stored`."""
    generator = torch.Generator().manual_seed(out + width + bits)
    middle, groups = 1 << (bits - 1), width // group
    numbers = torch.randint(-middle, middle, (out, width), generator=generator)
    scale = torch.rand(out, groups, generator=generator) * 0.01 + 0.001
    shift = torch.randn(out, groups, generator=generator) * 0.01 - middle * scale
    if floating:
        numbers[numbers & 0x7F == 0x7F] = 0  # or it is no number
        words = packed_floats(numbers.to(torch.int8).view(FLOAT8))
        return Quantised(words, scale.to(stored), None, 8, (out, width), dtype, floating=True)
    return Quantised(
        packed(numbers.to(torch.int8), bits),
        scale.to(stored),
        shift.to(stored) if shifted else None,
        bits,
        (out, width),
        dtype,
    )
