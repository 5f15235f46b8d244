"""The likeliest tokens of rows of logits, a few of each, in two launches and without a sort.

A token and its logit are one whole number: the logit's bits so turned that numbers are in the order
of logits, and below them the token, counted down. So no two are equal, and the largest number is
the likeliest token, of equal logits the one with the lower id. What is no number is more than any,
as it is to a sort of torch's. A launch takes the largest numbers of each block of the vocabulary,
one after another, and another those of all blocks.
"""

# ruff: noqa: N803  (Triton names compile-time values in capitals)

from __future__ import annotations

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from nldc.runtime.kernels.launchable import TYPES, Launchable, Target, options_of, power_above

BLOCK = 2048
"""Tokens that are looked at together."""
NONE = tl.constexpr(1 - (1 << 63))
"""Less than what stands for any token."""
LAST = tl.constexpr((1 << 31) - 1)
"""Above all tokens."""


@triton.jit
def _numbers(value, token):  # type: ignore[no-untyped-def]
    """Return whole numbers, int64, in the order of float32 values, of equals the lower token's."""
    value = tl.where(value == 0.0, 0.0, value)  # of two zeros, one
    bits = value.to(tl.int32, bitcast=True)
    ordered = tl.where(bits < 0, bits ^ LAST, bits)
    ordered = tl.where(value != value, LAST, ordered)
    return (ordered.to(tl.int64) << 32) | (token ^ LAST).to(tl.int64)


@triton.jit(do_not_specialize_on_alignment=["logit_ptr"])  # type: ignore[untyped-decorator]
def part_kernel(  # type: ignore[no-untyped-def]
    logit_ptr, part_ptr, OUT: tl.constexpr, BLOCK: tl.constexpr, COUNT: tl.constexpr
):
    """Write the COUNT largest numbers of each block of logits [rows, OUT], NONE behind the last.

    `part_ptr` int64 [rows, blocks, COUNT]. Grid: rows, blocks.
    """
    token = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    at = logit_ptr + tl.program_id(0).to(tl.int64) * OUT + token
    value = tl.load(at, mask=token < OUT, other=0.0).to(tl.float32)
    left = tl.where(token < OUT, _numbers(value, token), NONE)
    block = tl.program_id(0).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    for number in range(COUNT):
        best = tl.max(left, 0)
        tl.store(part_ptr + block * COUNT + number, best)
        left = tl.where(left == best, NONE, left)


@triton.jit  # type: ignore[untyped-decorator]
def whole_kernel(  # type: ignore[no-untyped-def]
    part_ptr, found_ptr, PARTS: tl.constexpr, ROOM: tl.constexpr, COUNT: tl.constexpr
):
    """Write the tokens, int64 [rows, COUNT], of the largest of PARTS numbers; ROOM is no less.

    Where there are fewer, the last stands again. Grid: rows.
    """
    row = tl.program_id(0).to(tl.int64)
    place = tl.arange(0, ROOM)
    left = tl.load(part_ptr + row * PARTS + place, mask=place < PARTS, other=NONE)
    last = tl.max(left, 0)
    for number in range(COUNT):
        best = tl.max(left, 0)
        last = tl.where(best == NONE, last, best)
        tl.store(found_ptr + row * COUNT + number, (last & LAST) ^ LAST)
        left = tl.where(left == best, NONE, left)


@lru_cache(maxsize=64)
def launchables(
    vocabulary: int, count: int, dtype: torch.dtype, target: Target
) -> tuple[Launchable, Launchable]:
    """Return what takes so many tokens of each block, and then of all blocks."""
    block = min(BLOCK, power_above(vocabulary, 16))
    parts = -(-vocabulary // block) * count
    of = f"{count} of {vocabulary}"
    return (
        Launchable(
            f"candidate parts {of}",
            part_kernel,
            {"logit_ptr": f"*{TYPES[dtype]}", "part_ptr": "*i64"},
            {"OUT": vocabulary, "BLOCK": block, "COUNT": count},
            options_of(target, 4, 1, early=False),
            ("part_ptr",),
        ),
        Launchable(
            f"candidates {of}",
            whole_kernel,
            {"part_ptr": "*i64", "found_ptr": "*i64"},
            {
                "PARTS": parts,
                "ROOM": power_above(parts),
                "COUNT": count,
            },
            options_of(target, 8 if parts >= BLOCK else 4, 1, early=False),
            ("part_ptr", "found_ptr"),
        ),
    )


def candidates(logits: Tensor, count: int, target: Target) -> Tensor:
    """Return the `count` likeliest tokens, int64 [rows, count], of logits [rows, vocabulary].

    See `model.scores.candidates`. Logits with gaps between rows are copied.
    """
    rows, vocabulary = logits.shape
    logits = logits.contiguous()
    of_parts, of_all = launchables(vocabulary, count, logits.dtype, target)
    blocks = of_all.constants["PARTS"] // count
    parts = torch.empty((rows, blocks, count), dtype=torch.int64, device=logits.device)
    found = torch.empty((rows, count), dtype=torch.int64, device=logits.device)
    of_parts.launch((rows, blocks), logits, parts)
    of_all.launch((rows,), parts, found)
    return found
