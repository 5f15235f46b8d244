"""The likeliest tokens of rows of logits, a few of each, in two launches and without a sort.

A token and its logit are one whole number: the logit's bits so turned that numbers are in the order
of logits, and below them the token, counted down. So no two are equal, and the largest number is
the likeliest token, of equal logits the one with the lower id. What is no number is more than any,
as it is to a sort of torch's. A launch takes the largest numbers of each block of the vocabulary,
one after another, and another those of all blocks. A greedy choice is the one likeliest token.
"""

# ruff: noqa: N803  (Triton names compile-time values in capitals)

from __future__ import annotations

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from nldc.runtime.kernels.launchable import TYPES, Launchable, Target, options_of, power_above
from nldc.runtime.kernels.noise import NO_NUMBER, NOTHING_ALLOWED

BLOCK = 2048
"""Tokens that are looked at together."""
NONE = tl.constexpr(1 - (1 << 63))
"""Less than what stands for any token."""
LAST = tl.constexpr((1 << 31) - 1)
"""Above all tokens."""
INFINITE = tl.constexpr(0x7F800000)
"""What stands for infinity; what is no number is above it, and -inf one below its negative."""


@triton.jit
def _numbers(value, token):  # type: ignore[no-untyped-def]
    """Return whole numbers, int64, in the order of float32 values, of equals the lower token's."""
    value = tl.where(value == 0.0, 0.0, value)  # of two zeros, one
    bits = value.to(tl.int32, bitcast=True)
    ordered = tl.where(bits < 0, bits ^ LAST, bits)
    ordered = tl.where(value != value, LAST, ordered)
    return (ordered.to(tl.int64) << 32) | (token ^ LAST).to(tl.int64)


@triton.jit(  # type: ignore[untyped-decorator]
    do_not_specialize=["barred"], do_not_specialize_on_alignment=["logit_ptr"]
)
def part_kernel(  # type: ignore[no-untyped-def]
    logit_ptr, part_ptr, barred, OUT: tl.constexpr, BLOCK: tl.constexpr, COUNT: tl.constexpr
):
    """Write the COUNT largest numbers of each block of logits [rows, OUT], NONE behind the last.

    `part_ptr` int64 [rows, blocks, COUNT]; the token `barred` has -inf. Grid: rows, blocks.
    """
    token = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    at = logit_ptr + tl.program_id(0).to(tl.int64) * OUT + token
    value = tl.load(at, mask=token < OUT, other=0.0).to(tl.float32)
    value = tl.where(token == barred, float("-inf"), value)
    left = tl.where(token < OUT, _numbers(value, token), NONE)
    block = tl.program_id(0).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    for number in range(COUNT):
        best = tl.max(left, 0)
        tl.store(part_ptr + block * COUNT + number, best)
        left = tl.where(left == best, NONE, left)


@triton.jit  # type: ignore[untyped-decorator]
def whole_kernel(  # type: ignore[no-untyped-def]
    part_ptr, found_ptr, PARTS: tl.constexpr, ROOM: tl.constexpr, COUNT: tl.constexpr,
    CHOSEN: tl.constexpr, NO_NUMBER: tl.constexpr, NOTHING_ALLOWED: tl.constexpr,
):  # fmt: skip
    """Write the tokens, int64 [rows, COUNT], of the largest of PARTS numbers; ROOM is no less.

    Where there are fewer, the last stands again. With CHOSEN, what cannot be chosen has the number
    that says so in place of a token. Grid: rows.
    """
    row = tl.program_id(0).to(tl.int64)
    place = tl.arange(0, ROOM)
    left = tl.load(part_ptr + row * PARTS + place, mask=place < PARTS, other=NONE)
    last = tl.max(left, 0)
    for number in range(COUNT):
        best = tl.max(left, 0)
        last = tl.where(best == NONE, last, best)
        token = (last & LAST) ^ LAST
        if CHOSEN:
            token = tl.where((last >> 32) >= INFINITE, NO_NUMBER, token)
            token = tl.where((last >> 32) == -INFINITE - 1, NOTHING_ALLOWED, token)
        tl.store(found_ptr + row * COUNT + number, token)
        left = tl.where(left == best, NONE, left)


@lru_cache(maxsize=64)
def launchables(
    vocabulary: int, count: int, dtype: torch.dtype, target: Target, *, chosen: bool = False
) -> tuple[Launchable, Launchable]:
    """Return what takes so many tokens of each block, and then of all blocks.

    `chosen`: each is a choice, of which some rows have none.
    """
    block = min(BLOCK, power_above(vocabulary, 16))
    parts = -(-vocabulary // block) * count
    of = f"{count} of {vocabulary}"
    return (
        Launchable(
            f"candidate parts {of}",
            part_kernel,
            {"logit_ptr": f"*{TYPES[dtype]}", "part_ptr": "*i64", "barred": "i32"},
            {"OUT": vocabulary, "BLOCK": block, "COUNT": count},
            options_of(target, 4, 1, early=False),
            ("part_ptr",),
        ),
        Launchable(
            f"best of {vocabulary}" if chosen else f"candidates {of}",
            whole_kernel,
            {"part_ptr": "*i64", "found_ptr": "*i64"},
            {
                "PARTS": parts,
                "ROOM": power_above(parts),
                "COUNT": count,
                "CHOSEN": chosen,
                "NO_NUMBER": NO_NUMBER,
                "NOTHING_ALLOWED": NOTHING_ALLOWED,
            },
            options_of(target, 8 if parts >= BLOCK else 4, 1, early=False),
            ("part_ptr", "found_ptr"),
        ),
    )


def candidates(logits: Tensor, count: int, target: Target) -> Tensor:
    """Return the `count` likeliest tokens, int64 [rows, count], of logits [rows, vocabulary].

    The logits have no gaps. See `model.scores.candidates`.
    """
    return _taken(logits, count, target, None, chosen=False)


def best(logits: Tensor, target: Target, barred: int | None = None) -> Tensor:
    """Return the greedy choices, int64 [rows], of logits [rows, vocabulary] without gaps.

    The token `barred` is never chosen. See `step.sampling.choose`.
    """
    return _taken(logits, 1, target, barred, chosen=True).squeeze(1)


def _taken(
    logits: Tensor, count: int, target: Target, barred: int | None, *, chosen: bool
) -> Tensor:
    rows, vocabulary = logits.shape
    of_parts, of_all = launchables(vocabulary, count, logits.dtype, target, chosen=chosen)
    blocks = of_all.constants["PARTS"] // count
    parts = torch.empty((rows, blocks, count), dtype=torch.int64, device=logits.device)
    found = torch.empty((rows, count), dtype=torch.int64, device=logits.device)
    of_parts.launch((rows, blocks), logits, parts, -1 if barred is None else barred)
    of_all.launch((rows,), parts, found)
    return found
