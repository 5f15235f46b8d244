"""A sampled choice of filtered logits: top-k, top-p, min-p, the noise and the best in one launch.

`step.sampling.filtered` says what stays. Each filter keeps what is not below some value of the row,
and finding it needs no order of the row: it is the last value, from the largest one down, with
which a sum over all that are no smaller reaches what is asked. Such a sum counts tokens (top-k), or
adds their weights (top-p). Weights are whole numbers, so that it is the same in any order. The
value is found digit by digit of its bits, each digit by one look at the row.

One program has a row: it looks at the row from the second level's cache some twenty times, and rows
are as many as processors.
"""

# ruff: noqa: N803  (Triton names compile-time values in capitals)

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from nldc.runtime.kernels.launchable import TYPES, Launchable, Target, options_of, power_above
from nldc.runtime.kernels.noise import (
    APART,
    KEYS,
    LOWEST_TEMPERATURE,
    NO_NUMBER,
    NOTHING_ALLOWED,
    Noise,
    gumbel,
    keys_of,
)
from nldc.runtime.kernels.scanned import aligned, in_rows, line_of

UNIT = 2.0**44
"""The weight of a row's best token, see `step.sampling.UNIT`."""
ORDERED_BITS = {torch.float32: 32, torch.bfloat16: 16, torch.float16: 20}
"""The bits of a float32, from the first one on, that are not the same in all values of a dtype.

An even number: a digit has two.
"""
KEPT = ("top_k_ptr", "top_p_ptr", "reach_ptr")
KEPT_APART = ("top_k_step", "top_p_step", "reach_step")
BLOCK = 2048
"""Tokens that are looked at together."""


@dataclass(frozen=True, eq=False)
class Filters:
    """What stays of the rows of each of B sequences, in this order; see `model.backend.Drawing`.

    `top_k` int64 [B], `top_p` and `reach` float64 [B] may be columns of a table.
    """

    top_k: Tensor
    top_p: Tensor
    reach: Tensor

    @property
    def memory(self) -> tuple[Tensor, Tensor, Tensor]:
        """The arguments of `KEPT`."""
        return self.top_k, self.top_p, self.reach

    @property
    def apart(self) -> tuple[int, int, int]:
        """The arguments of `KEPT_APART`: from one sequence's value to the next one's."""
        return self.top_k.stride(0), self.top_p.stride(0), self.reach.stride(0)


@triton.jit  # type: ignore[untyped-decorator]
def _values(  # type: ignore[no-untyped-def]
    logit_ptr, first, barred, OUT: tl.constexpr, BLOCK: tl.constexpr
):
    """Return tokens from `first` on, [BLOCK], and their logits as float32; -inf where none are."""
    token = first + tl.arange(0, BLOCK)
    value = tl.load(logit_ptr + token, mask=token < OUT, other=float("-inf")).to(tl.float32)
    value = tl.where(token == barred, float("-inf"), value)
    return token, tl.where(value == 0.0, 0.0, value)  # of two zeros, one


@triton.jit  # type: ignore[untyped-decorator]
def _ordered(value, BITS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return whole numbers, int32, in the order of float32 values: their first bits."""
    bits = value.to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits) >> (32 - BITS)


@triton.jit  # type: ignore[untyped-decorator]
def _sums(  # type: ignore[no-untyped-def]
    logit_ptr, one, two, three, last, top, temperature, barred,
    OUT: tl.constexpr, BLOCK: tl.constexpr, BITS: tl.constexpr, COUNTED: tl.constexpr,
    UNIT: tl.constexpr,
):  # fmt: skip
    """Return three sums, int64, of tokens' weights, or of ones: from a number up to `last` each."""
    first_sum = tl.zeros((BLOCK,), tl.int64)
    second_sum = tl.zeros((BLOCK,), tl.int64)
    third_sum = tl.zeros((BLOCK,), tl.int64)
    for first in range(0, OUT, BLOCK):
        token, value = _values(logit_ptr, first, barred, OUT, BLOCK)
        number = _ordered(value, BITS)
        within = (token < OUT) & (number >= one) & (number <= last)
        if tl.max(within.to(tl.int32)) > 0:  # of few blocks, after the first digits
            if COUNTED:
                weight = within.to(tl.int64)
            else:
                below = value.to(tl.float64) / temperature - top
                below = tl.where(below <= 0.0, below, float("-inf"))  # of a row without numbers
                weight = tl.where(within, (tl.exp(below) * UNIT).to(tl.int64), 0)
            first_sum += weight
            second_sum += tl.where(number >= two, weight, 0)
            third_sum += tl.where(number >= three, weight, 0)
    return tl.sum(first_sum), tl.sum(second_sum), tl.sum(third_sum)


@triton.jit  # type: ignore[untyped-decorator]
def _last(  # type: ignore[no-untyped-def]
    logit_ptr, enough, top, temperature, barred,
    OUT: tl.constexpr, BLOCK: tl.constexpr, BITS: tl.constexpr, COUNTED: tl.constexpr,
    UNIT: tl.constexpr,
):  # fmt: skip
    """Return the largest number with which the sum from the largest down is `enough`, float64."""
    low = tl.full((), -(1 << (BITS - 1)), tl.int32)
    above = tl.full((), 0, tl.int64)
    for digit in range(0, BITS, 2):
        step = tl.full((), 1, tl.int32) << (BITS - 2 - digit)
        one = low + step
        two = one + step
        three = two + step
        first, second, third = _sums(
            logit_ptr, one, two, three, three + (step - 1), top, temperature, barred,
            OUT, BLOCK, BITS, COUNTED, UNIT,
        )  # fmt: skip
        first, second, third = above + first, above + second, above + third
        if third.to(tl.float64) >= enough:
            low = three
        elif second.to(tl.float64) >= enough:
            low = two
            above = third
        elif first.to(tl.float64) >= enough:
            low = one
            above = second
        else:
            above = first
    return low


@triton.jit(  # type: ignore[untyped-decorator]
    do_not_specialize=[*APART, *KEPT_APART, "rows", "own_rows", "line", "barred"],
    do_not_specialize_on_alignment=[*KEYS, *KEPT],  # columns of a table, which begin anywhere
)
def filtered_kernel(  # type: ignore[no-untyped-def]
    logit_ptr, found_ptr, position_ptr, sequence_ptr, seed_ptr, temperature_ptr, top_k_ptr,
    top_p_ptr, reach_ptr, sequence_step, seed_step, heat_step, top_k_step, top_p_step, reach_step,
    rows, own_rows, line, barred,
    OUT: tl.constexpr, BLOCK: tl.constexpr, BITS: tl.constexpr, UNIT: tl.constexpr,
    NO_NUMBER: tl.constexpr, NOTHING_ALLOWED: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Choose of logits: `found_ptr` int64 [rows] tokens. Grid: rows.

    Each sequence has `own_rows` of OUT logits, `line` rows apart from the next one's. One whose
    temperature is below `LOWEST_TEMPERATURE` of `step.sampling` is greedy: there is no noise, and
    the best token stays whatever goes.
    """
    row = tl.program_id(0) + tl.arange(0, 1)
    owner = tl.program_id(0) // own_rows
    logit_ptr += (owner * line.to(tl.int64) + tl.program_id(0) % own_rows) * OUT
    if DEPENDENT:
        gdc_wait()
        gdc_launch_dependents()
    first_key, second_key, temperatures = keys_of(
        position_ptr, sequence_ptr, seed_ptr, temperature_ptr, sequence_step, seed_step, heat_step,
        row, rows, own_rows,
    )  # fmt: skip
    temperature = tl.max(temperatures)
    greedy = temperature < LOWEST_TEMPERATURE
    temperature = tl.where(greedy, 1.0, temperature)
    top_k = tl.load(top_k_ptr + owner * top_k_step)
    top_p = tl.load(top_p_ptr + owner * top_p_step)
    most = tl.full((BLOCK,), float("-inf"), tl.float32)
    broken = tl.zeros((BLOCK,), tl.int32)
    for first in range(0, OUT, BLOCK):
        token, value = _values(logit_ptr, first, barred, OUT, BLOCK)
        broken |= (value != value).to(tl.int32)
        most = tl.where(value > most, value, most)
    best = tl.max(most)
    is_broken = (tl.max(broken) > 0) | (best == float("inf"))
    is_empty = best == float("-inf")
    best = tl.where(is_broken | is_empty, 0.0, best)
    top = best.to(tl.float64) / temperature
    low = tl.full((), -(1 << (BITS - 1)), tl.int32)
    if top_k < OUT:
        low = _last(
            logit_ptr, top_k.to(tl.float64), top, temperature, barred, OUT, BLOCK, BITS, True, UNIT
        )
    if top_p < 1.0:
        highest = tl.full((), (1 << (BITS - 1)) - 1, tl.int32)
        total, _, _ = _sums(
            logit_ptr, low, highest, highest, highest, top, temperature, barred,
            OUT, BLOCK, BITS, False, UNIT,
        )  # fmt: skip
        enough = total.to(tl.float64) * top_p
        low = tl.maximum(
            low,
            _last(logit_ptr, enough, top, temperature, barred, OUT, BLOCK, BITS, False, UNIT),
        )
    least = top + tl.load(reach_ptr + owner * reach_step)
    score = tl.full((BLOCK,), float("-inf"), tl.float64)
    chosen = tl.full((BLOCK,), 2147483647, tl.int32)
    for first in range(0, OUT, BLOCK):
        token, value = _values(logit_ptr, first, barred, OUT, BLOCK)
        kept = (token < OUT) & (_ordered(value, BITS) >= low)
        if tl.max(kept.to(tl.int32)) > 0:
            heated = value.to(tl.float64) / temperature
            noised = heated + gumbel(token, first_key, second_key)
            own = tl.where(greedy, heated, noised)
            own = tl.where(kept & (heated >= least), own, float("-inf"))
            chosen = tl.where(own > score, token, chosen)
            score = tl.where(own > score, own, score)
    highest_score = tl.max(score)
    token = tl.min(tl.where(score == highest_score, chosen, 2147483647)).to(tl.int64)
    token = tl.where(is_empty, NOTHING_ALLOWED, token)
    token = tl.where(is_broken, NO_NUMBER, token)
    tl.store(found_ptr + row, token)


@lru_cache(maxsize=64)
def launchable(vocabulary: int, dtype: torch.dtype, target: Target) -> Launchable:
    """Return what chooses of rows of logits."""
    pointers = {
        "logit_ptr": f"*{TYPES[dtype]}",
        "found_ptr": "*i64",
        **dict.fromkeys(KEYS, "*i64"),
        "temperature_ptr": "*fp64",
        "top_k_ptr": "*i64",
        "top_p_ptr": "*fp64",
        "reach_ptr": "*fp64",
    }
    constants = {
        "OUT": vocabulary,
        "BLOCK": min(BLOCK, power_above(vocabulary, 16)),
        "BITS": ORDERED_BITS[dtype],
        "UNIT": UNIT,
        "NO_NUMBER": NO_NUMBER,
        "NOTHING_ALLOWED": NOTHING_ALLOWED,
        "DEPENDENT": target.dependent,
    }
    return Launchable(
        f"filtered {vocabulary}",
        filtered_kernel,
        {
            **pointers,
            **dict.fromkeys((*APART, *KEPT_APART, "rows", "own_rows", "line", "barred"), "i32"),
        },
        constants,
        options_of(target, 8, 1),
        ("logit_ptr", "found_ptr"),
    )


def filtered(
    logits: Tensor, filters: Filters, noise: Noise, target: Target, barred: int | None = None
) -> Tensor:
    """Return the tokens, int64 [B * n], that are drawn of logits [B, n, vocabulary].

    The token `barred` is never chosen, nor does it count.
    """
    size, own_rows, vocabulary = logits.shape
    logits, rows = aligned(in_rows(logits)), size * own_rows
    found = torch.empty(rows, dtype=torch.int64, device=logits.device)
    launchable(vocabulary, logits.dtype, target).launch(
        (rows,),
        logits,
        found,
        *noise.memory,
        *filters.memory,
        *noise.apart,
        *filters.apart,
        rows,
        own_rows,
        line_of(logits),
        -1 if barred is None else barred,
    )
    return found
