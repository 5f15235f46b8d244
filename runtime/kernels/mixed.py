"""A weighted sum of logits that predict the same positions, in one launch.

Each product and each sum is rounded to the logits' dtype, as torch's ops round them one by one
(`model.scores.mixed`): so tokens that are chosen of a mix are those that are chosen there. A weight
may be each sequence's own.
"""

# ruff: noqa: N803  (Triton names compile-time values in capitals)

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from nldc.runtime.kernels.launchable import TYPES, Launchable, Target, options_of, power_above
from nldc.runtime.kernels.scanned import aligned, in_rows, line_of

BLOCK = 2048
"""Tokens of a program."""


@triton.jit(do_not_specialize=["own_rows"])  # type: ignore[untyped-decorator]
def mix_kernel(  # type: ignore[no-untyped-def]
    total_ptr, part_ptrs, weight_ptrs, apart_ptr, own_rows, OUT: tl.constexpr, BLOCK: tl.constexpr
):
    """Add up logits, each times its weight: `total_ptr` [B * own_rows, OUT].

    From one sequence to the next, a part's rows are so many rows apart as `apart_ptr` int64
    [parts, 2] says, and its weights, float32, so many values. Grid: rows, blocks of tokens.
    """
    row = tl.program_id(0)
    owner = (row // own_rows).to(tl.int64)
    token = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = token < OUT
    number = total_ptr.dtype.element_ty
    total = tl.zeros((BLOCK,), tl.float32)
    for part in tl.static_range(len(part_ptrs)):
        weight = tl.load(weight_ptrs[part] + owner * tl.load(apart_ptr + 2 * part + 1))
        weight = tl.where(weight == 0.0, 0.0, weight)  # of two zeros, one
        place = owner * tl.load(apart_ptr + 2 * part) + row % own_rows
        value = tl.load(part_ptrs[part] + place * OUT + token, mask=there, other=0.0)
        value = tl.where(weight == 0.0, 0.0, value.to(tl.float32)) * weight
        value = value.to(number).to(tl.float32)
        total = value if part == 0 else (total + value).to(number).to(tl.float32)
    tl.store(total_ptr + row.to(tl.int64) * OUT + token, total.to(number), mask=there)


@lru_cache(maxsize=64)
def launchable(vocabulary: int, parts: int, dtype: torch.dtype, target: Target) -> Launchable:
    """Return what adds up so many parts."""
    number = f"*{TYPES[dtype]}"
    return Launchable(
        f"mix {parts} of {vocabulary}",
        mix_kernel,
        {
            "total_ptr": number,
            "part_ptrs": (number,) * parts,
            "weight_ptrs": ("*fp32",) * parts,
            "apart_ptr": "*i64",
            "own_rows": "i32",
        },
        {"OUT": vocabulary, "BLOCK": min(BLOCK, power_above(vocabulary, 16))},
        options_of(target, 4, 1, early=False),
        ("total_ptr", "part_ptrs", "weight_ptrs", "apart_ptr"),
    )


def mixed(parts: Sequence[Tensor], weights: Sequence[float | Tensor], target: Target) -> Tensor:
    """Return the sum of logits [B, n, vocabulary], each times its weight, in their dtype.

    A weight is a number, or float32 [B, 1]; one of 0 leaves its part out.
    """
    first = parts[0]
    size, own_rows, vocabulary = first.shape
    rows = [aligned(in_rows(part)) for part in parts]
    by = [aligned(_weight(weight, first.device)) for weight in weights]
    apart = tuple((line_of(part), weight.stride(0)) for part, weight in zip(rows, by, strict=True))
    total = torch.empty(first.shape, dtype=first.dtype, device=first.device)
    kernel = launchable(vocabulary, len(rows), first.dtype, target)
    kernel.launch(
        (size * own_rows, -(-vocabulary // kernel.constants["BLOCK"])),
        total,
        tuple(rows),
        tuple(by),
        _numbers(apart, torch.int64, first.device),
        own_rows,
    )
    return total


def _weight(weight: float | Tensor, device: torch.device) -> Tensor:
    """Return a weight as a line of values, or as one for all sequences."""
    if isinstance(weight, Tensor):
        return weight[:, 0]
    return _numbers((float(weight),), torch.float32, device).expand(2)


@cache
def _numbers(values: tuple[Any, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return numbers on a device; all stay, since what was captured reads them where they lie."""
    return torch.tensor(values, dtype=dtype, device=device)
