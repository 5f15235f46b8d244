"""What a trained sampler reads of rows, of logits that are there, in four launches.

`candidates` takes the likeliest tokens. Of each block of the vocabulary a launch leaves three sums,
and another merges those of a row and writes its features: the definition is `features` of
`runtime/reference/sampler.py`. There an entropy counts no log-probability below `LEAST`; here it
counts all as they are, which is less than 2^-20 of the most that an entropy may be.

Where logits are no numbers, or all -inf, so are the features of their row.
"""

# ruff: noqa: N803  (Triton names compile-time values in capitals)

from __future__ import annotations

import math
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from nldc.runtime.checkpoint.sampler import OTHER_FEATURES
from nldc.runtime.kernels.candidates import candidates
from nldc.runtime.kernels.launchable import TYPES, Launchable, Target, options_of, power_above
from nldc.runtime.reference.sampler import LEAST

BLOCK = 2048
"""Tokens whose sums are taken together."""
SUMS = tl.constexpr(3)
"""Float32 values that a block leaves of a row: the most, and sums of exponentials and products."""
FLAGS = tl.constexpr(64)
"""Rows of a sequence that are counted at a time."""


@triton.jit(  # type: ignore[untyped-decorator]
    do_not_specialize=["rows"], do_not_specialize_on_alignment=["logit_ptr"]
)
def sums_kernel(  # type: ignore[no-untyped-def]
    logit_ptr, sum_ptr, rows, OUT: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    """Write sums of each block of logits [rows, OUT]: `sum_ptr` float32 [rows, SUMS, blocks].

    That is the largest value; the sum of what e to the power of each is less that; and the sum of
    these times the power. Grid: tiles of ROWS rows, blocks.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    token = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    place = row[:, None].to(tl.int64) * OUT + token[None, :]
    held = (row < rows)[:, None] & (token < OUT)[None, :]
    value = tl.load(logit_ptr + place, mask=held, other=float("-inf")).to(tl.float32)
    most = tl.max(value, 1)
    below = value - tl.where(most == float("-inf"), 0.0, most)[:, None]
    weight = tl.exp(below)
    product = weight * tl.where(below == float("-inf"), 0.0, below)
    to = sum_ptr + row.to(tl.int64) * SUMS * tl.num_programs(1) + tl.program_id(1)
    tl.store(to, most, mask=row < rows)
    tl.store(to + tl.num_programs(1), tl.sum(weight, 1), mask=row < rows)
    tl.store(to + 2 * tl.num_programs(1), tl.sum(product, 1), mask=row < rows)


@triton.jit  # type: ignore[untyped-decorator]
def _log_p(logit_ptr, row, token, logsumexp, held, OUT: tl.constexpr, LEAST: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return the log-probabilities of tokens of rows, none below LEAST; what is no number stays."""
    value = tl.load(logit_ptr + row.to(tl.int64) * OUT + token, mask=held, other=0.0)
    found = value.to(tl.float32) - logsumexp
    return tl.where(found < LEAST, LEAST, found)


@triton.jit(  # type: ignore[untyped-decorator]
    do_not_specialize=[
        "rows", "block", "token_stride", "token_step", "mask_stride", "mask_step", "mask_token"
    ],
    do_not_specialize_on_alignment=["logit_ptr", "token_ptr", "mask_ptr"],
)  # fmt: skip
def features_kernel(  # type: ignore[no-untyped-def]
    logit_ptr, sum_ptr, best_ptr, token_ptr, mask_ptr, feature_ptr, rows, block, token_stride,
    token_step, mask_stride, mask_step, mask_token,
    OUT: tl.constexpr, TOP: tl.constexpr, ROWS: tl.constexpr, PARTS: tl.constexpr,
    ROOM: tl.constexpr, WIDE: tl.constexpr, LEAST: tl.constexpr, LOG_OUT: tl.constexpr,
):  # fmt: skip
    """Write the features of rows, float32 [rows, WIDE], zeros behind the last.

    `sum_ptr` [rows, SUMS, PARTS] are sums of their logits [rows, OUT], `best_ptr` int64 [rows, TOP]
    their likeliest tokens. A sequence has `block` rows; token i of sequence b lies at b *
    token_stride + i * token_step, and whether it is masked, bool, likewise. ROOM is no less than
    PARTS, LOG_OUT the most that an entropy may be. Grid: tiles of ROWS rows.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    live = row < rows
    part = tl.arange(0, ROOM)
    held = live[:, None] & (part < PARTS)[None, :]
    at = sum_ptr + row[:, None].to(tl.int64) * SUMS * PARTS + part[None, :]
    most = tl.load(at, mask=held, other=float("-inf"))
    sums = tl.load(at + PARTS, mask=held, other=0.0)
    products = tl.load(at + 2 * PARTS, mask=held, other=0.0)
    top = tl.max(most, 1)
    base = tl.where(top == float("-inf"), 0.0, top)
    below = most - base[:, None]
    fade = tl.exp(below)
    below = tl.where(below == float("-inf"), 0.0, below)
    mass = tl.where(live, tl.sum(sums * fade, 1), 1.0)
    logsumexp = tl.log(mass) + base
    entropy = tl.log(mass) - tl.sum((products + sums * below) * fade, 1) / mass

    column = tl.arange(0, WIDE)[None, :]
    counts = live[:, None] & (column < tl.minimum(TOP, OUT))
    best = tl.load(best_ptr + row[:, None].to(tl.int64) * TOP + column, mask=counts, other=0)
    best = _log_p(logit_ptr, row[:, None], best, logsumexp[:, None], counts, OUT, LEAST)
    best = tl.where(column < tl.minimum(TOP, OUT), best, LEAST)
    ahead = tl.sum(tl.where(column == 0, tl.exp(best), 0.0), 1)
    if TOP > 1:
        ahead -= tl.sum(tl.where(column == 1, tl.exp(best), 0.0), 1)
    of_mask = _log_p(logit_ptr, row, mask_token, logsumexp, live, OUT, LEAST)

    sequence, place = (row // block).to(tl.int64), row % block
    token = tl.load(token_ptr + sequence * token_stride + place * token_step, mask=live, other=0)
    token = tl.minimum(tl.maximum(token, 0), OUT - 1)
    flag = tl.load(mask_ptr + sequence * mask_stride + place * mask_step, mask=live, other=0)
    flag = flag.to(tl.float32)
    of_token = _log_p(logit_ptr, row, token, logsumexp, live, OUT, LEAST) * (1.0 - flag)
    left = tl.zeros((ROWS,), tl.float32)
    for start in range(0, block, FLAGS):
        other = start + tl.arange(0, FLAGS)
        beside = mask_ptr + sequence[:, None] * mask_stride + other[None, :] * mask_step
        there = live[:, None] & (other < block)[None, :]
        left += tl.sum(tl.load(beside, mask=there, other=0).to(tl.float32), 1)

    found = tl.where(column < TOP, best / 4, 0.0)
    found = tl.where(column == TOP, (entropy / LOG_OUT)[:, None], found)
    found = tl.where(column == TOP + 1, ahead[:, None], found)
    found = tl.where(column == TOP + 2, (of_mask / 4)[:, None], found)
    found = tl.where(column == TOP + 3, flag[:, None], found)
    found = tl.where(column == TOP + 4, (of_token / 4)[:, None], found)
    found = tl.where(column == TOP + 5, (place.to(tl.float32) / block)[:, None], found)
    found = tl.where(column == TOP + 6, (left / block)[:, None], found)
    found = tl.where(column == TOP + 7, 1.0, found)
    tl.store(feature_ptr + row[:, None].to(tl.int64) * WIDE + column, found, mask=live[:, None])


def wide(top: int) -> int:
    """Return how many values a row of features has, zeros behind the last."""
    return power_above(top + OTHER_FEATURES, 16)


@lru_cache(maxsize=64)
def launchables(
    vocabulary: int, top: int, dtype: torch.dtype, target: Target
) -> tuple[Launchable, Launchable]:
    """Return what sums up blocks of logits, and what makes features of that and `top` tokens."""
    block = min(BLOCK, power_above(vocabulary, 16))
    parts = -(-vocabulary // block)
    number, rows = f"*{TYPES[dtype]}", 16 if target.upcast else 1  # interpreted, a program costs
    integers = (
        "rows", "block", "token_stride", "token_step", "mask_stride", "mask_step", "mask_token"
    )  # fmt: skip
    return (
        Launchable(
            f"masses of {vocabulary}",
            sums_kernel,
            {"logit_ptr": number, "sum_ptr": "*fp32", "rows": "i32"},
            {"OUT": vocabulary, "ROWS": rows, "BLOCK": block},
            options_of(target, 4, 1, early=False),
            ("sum_ptr",),
        ),
        Launchable(
            f"features {top} of {vocabulary}",
            features_kernel,
            {
                "logit_ptr": number,
                "sum_ptr": "*fp32",
                "best_ptr": "*i64",
                "token_ptr": "*i64",
                "mask_ptr": "*u1",
                "feature_ptr": "*fp32",
                **dict.fromkeys(integers, "i32"),
            },
            {
                "OUT": vocabulary,
                "TOP": top,
                "ROWS": rows,
                "PARTS": parts,
                "ROOM": power_above(parts),
                "WIDE": wide(top),
                "LEAST": LEAST,
                "LOG_OUT": math.log(max(vocabulary, 2)),
            },
            options_of(target, 1, 1, early=False),
            ("sum_ptr", "best_ptr", "feature_ptr"),
        ),
    )


def features(
    logits: Tensor, tokens: Tensor, masked: Tensor, mask_token_id: int, top: int, target: Target
) -> Tensor:
    """Return the features of rows, float32 [B, n, wide(top)], see `reference.sampler.features`.

    `logits` [B, n, vocabulary] have no gaps; `tokens` int64 and `masked` bool are [B, n].
    """
    batch, block, vocabulary = logits.shape
    rows = batch * block
    of_blocks, of_rows = launchables(vocabulary, top, logits.dtype, target)
    lines = logits.view(rows, vocabulary)
    best = candidates(lines, top, target)
    tile, parts = of_rows.constants["ROWS"], of_rows.constants["PARTS"]
    sums = torch.empty((rows, SUMS.value, parts), dtype=torch.float32, device=logits.device)
    found = torch.empty((batch, block, wide(top)), dtype=torch.float32, device=logits.device)
    of_blocks.launch((-(-rows // tile), parts), lines, sums, rows)
    of_rows.launch(
        (-(-rows // tile),),
        lines,
        sums,
        best,
        tokens,
        masked,
        found,
        rows,
        block,
        *tokens.stride(),
        *masked.stride(),
        mask_token_id,
    )
    return found
