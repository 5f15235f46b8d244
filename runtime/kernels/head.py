"""The head's product, and what is made of each row's logits while they are at hand.

The logits of a row are as many as the vocabulary has tokens, and mostly nobody asks for them: a
tile of them becomes its best token, or what measures need of it, and a second kernel merges tiles.
They are written only if asked for. Whatever is made of them is made of logits rounded to the
model's dtype, as `TorchBackend` has them, so that the token is the very one that is chosen there:
of equal values that of the lowest id wins.

Sampling adds noise to logits over the temperature, see `step.sampling`: in float64, keyed by seed,
sequence, position and token. Filters (top-k, top-p, min-p) look at a whole row, and go through
logits, see `kernels.filtered`.

A maximum is the same in any order. Sums are not, so for measures a tile always has
`MEASURED_FEATURES`, and its sums are taken one after another by a product with ones.
"""

# ruff: noqa: N803  (Triton names compile-time values in capitals)

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from nldc.runtime.kernels.launchable import TYPES, Launchable, Target, options_of, power_above
from nldc.runtime.kernels.noise import (
    KEYS,
    NO_NUMBER,
    NOTHING_ALLOWED,
    Noise,
    gumbel,
    keys_of,
)
from nldc.runtime.kernels.product import (
    Matrix,
    Shape,
    Tile,
    rows_of_tile,
    store_rows,
    sums_of,
    tile_constants,
    tile_of,
)

MEASURED_FEATURES = 64
"""Tokens of a tile where sums over the vocabulary are taken."""
MEASURES = 4
"""Float32 values that a tile leaves of a row: best, second, sum of exponentials, of products.

A fifth is the logit of one token, where that is asked for.
"""
ANYWHERE = (*KEYS, "given_ptr")
"""Arguments that may begin anywhere."""


@dataclass(frozen=True)
class Asked:
    """What a head is asked for: `logits`, a `token` (`noisy`: of scores with noise), `measures`.

    With measures goes the logit of one token: of a `given` one, or else of the one that is chosen.
    """

    logits: bool = False
    token: bool = False
    noisy: bool = False
    measures: bool = False
    given: bool = False

    @property
    def picks(self) -> bool:
        """Whether a token's logit goes with the measures."""
        return self.measures and (self.token or self.given)


@dataclass(frozen=True, eq=False)
class Found:
    """What a head found: what it was asked for, and None for the rest.

    `logits` [rows, vocabulary] in the model's dtype; `tokens` int64 [rows]. All else is of the raw
    logits, float32 [rows]: the `best` and the `second` one, the `logsumexp`, of their softmax the
    `entropy` in nats and the `margin` of the best one, and the logit of the token that is `picked`.
    NaN: all that is a sum where logits are no numbers or all -inf, and the logit of no token.
    """

    logits: Tensor | None
    tokens: Tensor | None
    best: Tensor | None
    second: Tensor | None
    logsumexp: Tensor | None
    entropy: Tensor | None
    margin: Tensor | None
    picked: Tensor | None


@triton.jit
def _noised(  # type: ignore[no-untyped-def]
    values, position_ptr, sequence_ptr, seed_ptr, temperature_ptr, row, token, rows, own_rows
):
    """Return values [N, R] over the temperature plus Gumbel noise, in float64.

    A drafter's temperature below `LOWEST_TEMPERATURE` of `step.sampling` is greedy: there is none.
    """
    first, second, temperature = keys_of(
        position_ptr, sequence_ptr, seed_ptr, temperature_ptr, row, rows, own_rows
    )
    greedy = temperature < 1e-6
    heated = values.to(tl.float64) / tl.where(greedy, 1.0, temperature)[None, :]
    noised = heated + gumbel(token[:, None], first[None, :], second[None, :])
    return tl.where(greedy[None, :], heated, noised)


@triton.jit  # type: ignore[untyped-decorator]
def _finish(  # type: ignore[no-untyped-def]
    total, logit_ptr, score_ptr, token_ptr, measure_ptr, position_ptr, sequence_ptr, seed_ptr,
    temperature_ptr, given_ptr, row, token, tile, tiles, rows, own_rows, barred, uncounted,
    OUT: tl.constexpr, LOGITS: tl.constexpr, TOKEN: tl.constexpr, NOISY: tl.constexpr,
    MEASURED: tl.constexpr, GIVEN: tl.constexpr, MEASURES: tl.constexpr, NUMBER: tl.constexpr,
):  # fmt: skip
    """Store what is asked for of sums [N, R], of tokens `token` [N] and rows `row` [R]."""
    if LOGITS:
        store_rows(logit_ptr, total, row, token, rows, OUT)
    logits = total.to(NUMBER).to(tl.float32)
    live = row < rows
    place = row.to(tl.int64) * tiles + tile
    offset = (token - tl.min(token, 0))[:, None]
    if TOKEN:
        scores = tl.where(((token < OUT) & (token != barred))[:, None], logits, float("-inf"))
        if NOISY:
            scores = _noised(
                scores, position_ptr, sequence_ptr, seed_ptr, temperature_ptr, row, token, rows,
                own_rows,
            )  # fmt: skip
        scores = tl.where(scores != scores, float("inf"), scores)  # NaN: no number either
        best, chosen = tl.max(scores, 0, return_indices=True, return_indices_tie_break_left=True)
        tl.store(score_ptr + place, best, mask=live)
        tl.store(token_ptr + place, tl.min(token, 0) + chosen, mask=live)
    if MEASURED:
        counts = ((token < OUT) & (token != uncounted))[:, None]
        values = tl.where(logits != logits, float("inf"), logits)
        values = tl.where(counts, values, float("-inf"))
        best, index = tl.max(values, 0, return_indices=True, return_indices_tie_break_left=True)
        second = tl.max(tl.where(offset == index[None, :], float("-inf"), values), 0)
        is_sound = (best > float("-inf")) & (best < float("inf"))
        weighs = (values > float("-inf")) & is_sound[None, :]
        below = tl.where(weighs, values - tl.where(is_sound, best, 0.0)[None, :], 0.0)
        weight = tl.where(weighs, tl.exp(below), 0.0)
        ones = tl.full((16, total.shape[0]), 1.0, tl.float32)
        sums = tl.dot(ones, weight, input_precision="ieee", out_dtype=tl.float32)
        products = tl.dot(ones, weight * below, input_precision="ieee", out_dtype=tl.float32)
        place = measure_ptr + place * MEASURES
        tl.store(place, best, mask=live)
        tl.store(place + 1, second, mask=live)
        tl.store(place + 2, tl.max(sums, 0), mask=live)  # sixteen times the same
        tl.store(place + 3, tl.max(products, 0), mask=live)
        if GIVEN:
            given = tl.load(given_ptr + row, mask=live, other=0)
            is_it = token[:, None] == given[None, :]
            tl.store(place + 4, tl.max(tl.where(is_it, values, float("-inf")), 0), mask=live)
        elif TOKEN:
            is_it = offset == chosen[None, :]
            tl.store(place + 4, tl.max(tl.where(is_it, values, float("-inf")), 0), mask=live)


@triton.jit(  # type: ignore[untyped-decorator]
    do_not_specialize=["rows", "own_rows", "barred", "uncounted"],
    do_not_specialize_on_alignment=ANYWHERE,  # a column of a table, which begins where it does
)
def head_kernel(  # type: ignore[no-untyped-def]
    x_ptr, w_ptr, scale_ptr, offset_ptr, logit_ptr, score_ptr, token_ptr, measure_ptr, position_ptr,
    sequence_ptr, seed_ptr, temperature_ptr, given_ptr, rows, own_rows, barred, uncounted,
    OUT: tl.constexpr, WIDTH: tl.constexpr, STRIDE: tl.constexpr, ROWS: tl.constexpr,
    MORE: tl.constexpr, FEATURES: tl.constexpr, BLOCK: tl.constexpr, ONCE: tl.constexpr,
    LOGITS: tl.constexpr, TOKEN: tl.constexpr, NOISY: tl.constexpr,
    MEASURED: tl.constexpr, GIVEN: tl.constexpr, MEASURES: tl.constexpr, UPCAST: tl.constexpr,
    BITS: tl.constexpr, LANES: tl.constexpr,
    GROUP: tl.constexpr, CHAIN: tl.constexpr, SHIFTED: tl.constexpr, PTX: tl.constexpr,
    DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Multiply x [rows, WIDTH] with w [OUT, WIDTH], and leave what is asked for.

    `logit_ptr` [rows, OUT]; `score_ptr` (float64 if NOISY, else float32) and `token_ptr` int32
    [rows, tiles]; `measure_ptr` float32 [rows, tiles, MEASURES]; `given_ptr` int64 [rows] tokens.
    The token `barred` is never chosen, and `uncounted` is in no measure. Grid: tiles of features *
    tiles of rows, these side by side.
    """
    row_tiles = tl.cdiv(rows, ROWS + MORE)
    tile = tl.program_id(0) // row_tiles
    tiles = tl.num_programs(0) // row_tiles
    first_row = (tl.program_id(0) % row_tiles) * (ROWS + MORE)
    first_out = tile * FEATURES
    out = tl.arange(0, FEATURES)
    held = tl.minimum(out, OUT - 1 - first_out)
    w_ptr += first_out.to(tl.int64) * STRIDE
    if DEPENDENT:
        gdc_wait()
    row, other_row, x_row, x_other = rows_of_tile(rows - first_row, ROWS, MORE)
    x_ptr += first_row.to(tl.int64) * WIDTH
    total, other = sums_of(
        x_ptr, w_ptr, scale_ptr + first_out, offset_ptr + first_out, x_row, x_other, held, 0, WIDTH,
        OUT, WIDTH, STRIDE, BLOCK, MORE, ONCE, UPCAST,
        BITS, LANES, GROUP, CHAIN, SHIFTED, PTX,
    )  # fmt: skip
    if DEPENDENT:
        gdc_launch_dependents()
    _finish(
        total, logit_ptr, score_ptr, token_ptr, measure_ptr, position_ptr, sequence_ptr, seed_ptr,
        temperature_ptr, given_ptr, first_row + row, first_out + out, tile, tiles, rows, own_rows,
        barred, uncounted,
        OUT, LOGITS, TOKEN, NOISY, MEASURED, GIVEN, MEASURES, x_ptr.dtype.element_ty,
    )  # fmt: skip
    if MORE > 0:
        _finish(
            other, logit_ptr, score_ptr, token_ptr, measure_ptr, position_ptr, sequence_ptr,
            seed_ptr, temperature_ptr, given_ptr, first_row + other_row, first_out + out, tile,
            tiles, rows, own_rows, barred, uncounted,
            OUT, LOGITS, TOKEN, NOISY, MEASURED, GIVEN, MEASURES, x_ptr.dtype.element_ty,
        )  # fmt: skip


@triton.jit(do_not_specialize=["rows", "tiles"])  # type: ignore[untyped-decorator]
def merge_kernel(  # type: ignore[no-untyped-def]
    score_ptr, token_ptr, measure_ptr, found_ptr, measured_ptr, rows, tiles,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, TOKEN: tl.constexpr, MEASURED: tl.constexpr,
    GIVEN: tl.constexpr, MEASURES: tl.constexpr, NO_NUMBER: tl.constexpr,
    NOTHING_ALLOWED: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Merge the tiles of a row: `found_ptr` int64 [rows] tokens, `measured_ptr` what is measured.

    That is float32 [MEASURES + 1, rows]: the best value, the second, the logarithm of the sum of
    exponentials, the entropy, the margin, and where tiles have it the token's logit. Grid: tiles of
    ROWS rows.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    tile = tl.arange(0, BLOCK)
    live = row < rows
    held = live[:, None] & (tile < tiles)[None, :]
    place = row[:, None].to(tl.int64) * tiles + tile[None, :]
    if DEPENDENT:
        gdc_wait()
        gdc_launch_dependents()
    if TOKEN:
        score = tl.load(score_ptr + place, mask=held, other=float("-inf"))
        token = tl.load(token_ptr + place, mask=held, other=2147483647)
        best = tl.max(score, 1)
        first = tl.min(tl.where(score == best[:, None], token, 2147483647), 1)
        chosen = first.to(tl.int64)
        chosen = tl.where(best == float("inf"), NO_NUMBER, chosen)
        chosen = tl.where(best == float("-inf"), NOTHING_ALLOWED, chosen)
        tl.store(found_ptr + row, chosen, mask=live)
    if MEASURED:
        place = measure_ptr + place * MEASURES
        best = tl.load(place, mask=held, other=float("-inf"))
        second = tl.load(place + 1, mask=held, other=float("-inf"))
        sums = tl.load(place + 2, mask=held, other=0.0)
        products = tl.load(place + 3, mask=held, other=0.0)
        top, index = tl.max(best, 1, return_indices=True, return_indices_tie_break_left=True)
        is_top = tile[None, :] == index[:, None]
        beside = tl.max(tl.where(is_top, second, best), 1)
        is_sound = (top > float("-inf")) & (top < float("inf"))
        base = tl.where(is_sound, top, 0.0)
        weighs = (best > float("-inf")) & is_sound[:, None]
        below = tl.where(weighs, best - base[:, None], 0.0)
        fade = tl.where(weighs, tl.exp(below), 0.0)
        mass = tl.where(is_sound, tl.sum(sums * fade, 1), 1.0)
        mean = tl.sum((products + sums * below) * fade, 1) / mass
        logsumexp = tl.log(mass) + base
        ahead = tl.exp(base - logsumexp) - tl.exp(tl.where(is_sound, beside, 0.0) - logsumexp)
        to = measured_ptr + row
        tl.store(to, top, mask=live)
        tl.store(to + rows, beside, mask=live)
        tl.store(to + 2 * rows, tl.where(is_sound, logsumexp, float("nan")), mask=live)
        entropy = tl.where(is_sound, tl.log(mass) - mean, float("nan"))
        tl.store(to + 3 * rows, entropy, mask=live)
        tl.store(to + 4 * rows, tl.where(is_sound, ahead, float("nan")), mask=live)
        if GIVEN:  # other tiles say -inf
            picked = tl.load(place + 4, mask=held, other=float("-inf"))
            tl.store(to + 5 * rows, tl.max(picked, 1), mask=live)
        elif TOKEN:
            picked = tl.load(place + 4, mask=held & (token == first[:, None]), other=float("-inf"))
            picked = tl.where(chosen < 0, float("nan"), tl.max(picked, 1))
            tl.store(to + 5 * rows, picked, mask=live)


def head_tile(rows: int, shape: Shape, target: Target, asked: Asked) -> Tile:
    """Return what a program takes of so many rows: never a segment alone."""
    if (asked.noisy or asked.measures) and not target.upcast:
        # their arithmetic is long: few values a thread, or a compiler takes minutes and spills
        few = tile_of(min(rows, 64), shape, target)
        warps = 8 if few.rows > 16 else few.warps if target.dependent else 4
        return replace(few, apart=False, features=MEASURED_FEATURES, warps=warps)
    tile = replace(tile_of(rows, shape, target), apart=False)
    return replace(tile, features=MEASURED_FEATURES) if asked.measures else tile


@lru_cache(maxsize=1024)
def launchable(shape: Shape, tile: Tile, target: Target, asked: Asked, *, once: bool) -> Launchable:
    """Return the head of a shape of weights; `once`: one program has all the rows."""
    number = f"*{TYPES[shape.dtype]}"
    pointers = {
        "x_ptr": number,
        **dict(zip(("w_ptr", "scale_ptr", "offset_ptr"), shape.pointers, strict=True)),
        "logit_ptr": number,
        "score_ptr": "*fp64" if asked.noisy else "*fp32" if asked.token else number,
        "token_ptr": "*i32" if asked.token else number,
        "measure_ptr": "*fp32" if asked.measures else number,
        **dict.fromkeys(KEYS, "*i64" if asked.noisy else number),
        "temperature_ptr": "*fp64" if asked.noisy else number,
        "given_ptr": "*i64" if asked.given else number,
    }
    constants: dict[str, Any] = {
        **tile_constants(shape, tile, target, once=once),
        "LOGITS": asked.logits,
        "TOKEN": asked.token,
        "NOISY": asked.noisy,
        "MEASURED": asked.measures,
        "GIVEN": asked.given,
        "MEASURES": MEASURES + asked.picks,
    }
    kinds = [name for name, value in vars(asked).items() if value]
    return Launchable(
        f"head {shape.name} rows {tile.height} {' '.join(kinds)}",
        head_kernel,
        {**pointers, **dict.fromkeys(("rows", "own_rows", "barred", "uncounted"), "i32")},
        constants,
        options_of(target, tile.warps, tile.stages),
        tuple(name for name in pointers if name not in ANYWHERE),
    )


@lru_cache(maxsize=1024)
def merging(tiles: int, target: Target, asked: Asked) -> Launchable:
    """Return what merges so many tiles of a row."""
    score = "*fp64" if asked.noisy else "*fp32"
    pointers = {
        "score_ptr": score if asked.token else "*fp32",
        "token_ptr": "*i32" if asked.token else "*fp32",
        "measure_ptr": "*fp32" if asked.measures else score,
        "found_ptr": "*i64" if asked.token else "*fp32",
        "measured_ptr": "*fp32" if asked.measures else "*i64",
    }
    constants = {
        "ROWS": 64 if target.upcast else 1,  # interpreted, a program costs milliseconds
        "BLOCK": power_above(tiles, 16),
        "TOKEN": asked.token,
        "MEASURED": asked.measures,
        "GIVEN": asked.given,
        "MEASURES": MEASURES + asked.picks,
        "NO_NUMBER": NO_NUMBER,
        "NOTHING_ALLOWED": NOTHING_ALLOWED,
        "DEPENDENT": target.dependent,
    }
    kinds = " measures" * asked.measures + " given" * asked.given
    return Launchable(
        f"head merge {tiles}{kinds}",
        merge_kernel,
        {**pointers, "rows": "i32", "tiles": "i32"},
        constants,
        options_of(target, 4, 1),
        tuple(pointers),
    )


def head(
    x: Tensor,
    weight: Matrix,
    asked: Asked,
    target: Target,
    noise: Noise | None = None,
    barred: int | None = None,
    tile: Tile | None = None,
    *,
    given: Tensor | None = None,
    uncounted: int | None = None,
) -> Found:
    """Return what is asked for of the logits of `x`, normed rows [rows, width] without gaps.

    The token `barred` is never chosen, and `uncounted` is in no measure. `given` tokens, int64
    [rows], are of the vocabulary.
    """
    rows, shape = x.shape[0], weight.shape
    tile = tile or head_tile(rows, shape, target, asked)
    tiles = -(-shape.out // tile.features)
    row_tiles = -(-rows // tile.height)

    def room(wanted: bool, dtype: torch.dtype, *size: int) -> Tensor:
        return torch.empty(size, dtype=dtype, device=x.device) if wanted else x

    logits = room(asked.logits, x.dtype, rows, shape.out)
    score = room(asked.token, torch.float64 if asked.noisy else torch.float32, rows, tiles)
    token = room(asked.token, torch.int32, rows, tiles)
    measure = room(asked.measures, torch.float32, rows, tiles, MEASURES + asked.picks)
    keys = (x, x, x, x) if noise is None else noise.memory
    own_rows = rows if noise is None else noise.own_rows(rows)
    launchable(shape, tile, target, asked, once=row_tiles == 1).launch(
        (row_tiles * tiles,),
        x,
        *weight.memory,
        logits,
        score,
        token,
        measure,
        *keys,
        x if given is None else given.contiguous(),
        rows,
        own_rows,
        -1 if barred is None else barred,
        -1 if uncounted is None else uncounted,
    )
    found = room(asked.token, torch.int64, rows)
    measured = room(asked.measures, torch.float32, MEASURES + 1 + asked.picks, rows)
    if asked.token or asked.measures:
        score = score if asked.token else measure
        kernel = merging(tiles, target, asked)
        kernel.launch(
            (-(-rows // kernel.constants["ROWS"]),),
            score,
            token if asked.token else score,
            measure if asked.measures else score,
            found if asked.token else score,
            measured if asked.measures else found,
            rows,
            tiles,
        )
    best, second, logsumexp, entropy, margin, *picked = (
        measured.unbind(0) if asked.measures else [None] * 5
    )
    return Found(
        logits if asked.logits else None,
        found if asked.token else None,
        best,
        second,
        logsumexp,
        entropy,
        margin,
        picked[0] if picked else None,
    )
