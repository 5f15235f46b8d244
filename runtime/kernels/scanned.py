"""Rows of logits that are there, looked at once: what a head would have made of them.

A strategy may mix logits, or read them more than once; then they are in memory, and what is chosen
or measured of them takes two launches, one for tiles and one that merges them. Bits are a head's:
tiles of what is summed are as wide, and are finished by the same function.
"""

# ruff: noqa: N803  (Triton names compile-time values in capitals)

from __future__ import annotations

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from nldc.runtime.kernels.asked import (
    ANYWHERE,
    MEASURED_FEATURES,
    Asked,
    Found,
    Tiles,
    constants_of,
    finish,
    pointers_of,
)
from nldc.runtime.kernels.launchable import TYPES, Launchable, Target, options_of, power_above
from nldc.runtime.kernels.noise import APART, Noise

FEATURES = 512
"""Tokens of a tile of which only the best is looked for."""
FEW, SUMMED = 4, 16
"""Rows of a tile: of such, and where there is arithmetic with each value."""
ALIGNED = 16
"""At a multiple of so many bytes begins what kernels read that ask for it."""
INTERPRETED = 64
"""Rows of a tile in the interpreter, where a program costs milliseconds."""


@triton.jit(  # type: ignore[untyped-decorator]
    do_not_specialize=[*APART, "rows", "own_rows", "line", "barred", "uncounted"],
    do_not_specialize_on_alignment=[*ANYWHERE, "logit_ptr"],  # rows may be some of many
)
def scan_kernel(  # type: ignore[no-untyped-def]
    logit_ptr, score_ptr, token_ptr, measure_ptr, position_ptr, sequence_ptr, seed_ptr,
    temperature_ptr, given_ptr, sequence_step, seed_step, heat_step, rows, own_rows, line, barred,
    uncounted,
    OUT: tl.constexpr, ROWS: tl.constexpr, FEATURES: tl.constexpr, TOKEN: tl.constexpr,
    NOISY: tl.constexpr, MEASURED: tl.constexpr, GIVEN: tl.constexpr, MEASURES: tl.constexpr,
    DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Leave what is asked for of logits, of which each sequence has `own_rows`, `line` rows apart.

    What is left is that of `kernels.head`. Grid: tiles of features, tiles of rows.
    """
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    token = tl.program_id(0) * FEATURES + tl.arange(0, FEATURES)
    place = (row // own_rows) * line.to(tl.int64) + row % own_rows
    there = (token < OUT)[:, None] & (row < rows)[None, :]
    if DEPENDENT:
        gdc_wait()
        gdc_launch_dependents()
    logits = tl.load(logit_ptr + place[None, :] * OUT + token[:, None], mask=there, other=0.0)
    finish(
        logits, logit_ptr, score_ptr, token_ptr, measure_ptr, position_ptr, sequence_ptr, seed_ptr,
        temperature_ptr, given_ptr, sequence_step, seed_step, heat_step, row, token,
        tl.program_id(0), tl.num_programs(0), rows, own_rows, barred, uncounted,
        OUT, False, TOKEN, NOISY, MEASURED, GIVEN, MEASURES, logit_ptr.dtype.element_ty,
    )  # fmt: skip


@lru_cache(maxsize=64)
def launchable(vocabulary: int, dtype: torch.dtype, target: Target, asked: Asked) -> Launchable:
    """Return what leaves tiles of logits that are there."""
    is_long = asked.noisy or asked.measures
    features = MEASURED_FEATURES if is_long else min(FEATURES, power_above(vocabulary, 16))
    number = f"*{TYPES[dtype]}"
    kinds = [name for name, value in vars(asked).items() if value]
    return Launchable(
        f"scan {vocabulary} {' '.join(kinds)}",
        scan_kernel,
        {
            "logit_ptr": number,
            **pointers_of(asked, number),
            **dict.fromkeys((*APART, "rows", "own_rows", "line", "barred", "uncounted"), "i32"),
        },
        {
            "OUT": vocabulary,
            "ROWS": INTERPRETED if target.upcast else SUMMED if is_long else FEW,
            "FEATURES": features,
            **constants_of(asked),
            "DEPENDENT": target.dependent,
        },
        options_of(target, 4, 1),
        ("score_ptr", "token_ptr", "measure_ptr"),
    )


def scanned(
    logits: Tensor,
    asked: Asked,
    target: Target,
    noise: Noise | None = None,
    barred: int | None = None,
    *,
    given: Tensor | None = None,
    uncounted: int | None = None,
) -> Found:
    """Return what is asked for of logits [B, n, vocabulary], of all rows one after another.

    It is what `head` finds.
    """
    size, own_rows, vocabulary = logits.shape
    logits = in_rows(logits)
    rows = size * own_rows
    kernel = launchable(vocabulary, logits.dtype, target, asked)
    tiles = -(-vocabulary // kernel.constants["FEATURES"])
    left = Tiles.room(asked, rows, tiles, logits)
    kernel.launch(
        (tiles, -(-rows // kernel.constants["ROWS"])),
        logits,
        *left.arguments(noise, given),
        rows,
        own_rows,
        line_of(logits),
        -1 if barred is None else barred,
        -1 if uncounted is None else uncounted,
    )
    return left.merged(target)


def in_rows(logits: Tensor) -> Tensor:
    """Return logits [B, n, vocabulary] whose rows have no gaps, and lie whole rows apart."""
    sequence, row, token = logits.stride()
    size, own_rows, vocabulary = logits.shape
    is_line = (own_rows < 2 or row == vocabulary) and (size < 2 or sequence % vocabulary == 0)
    return logits if token == 1 and is_line else logits.contiguous()


def line_of(logits: Tensor) -> int:
    """Return how many rows lie between one sequence's and the next one's, see `in_rows`."""
    return logits.stride(0) // logits.shape[2]


def aligned(values: Tensor) -> Tensor:
    """Return values, or a copy of them, that begin where a launch may begin to read."""
    return values.clone() if values.data_ptr() % ALIGNED else values
