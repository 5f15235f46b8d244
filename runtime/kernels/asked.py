"""What is made of each row's logits while they are at hand, and how a row's tiles are merged.

A tile of logits becomes its best token, or what measures need of it, and a second kernel merges the
tiles of a row. Whoever has logits leaves tiles so: a head, and what looks at logits that are there.
Whatever is made of them is made of logits rounded to the model's dtype, as `TorchBackend` has them,
so that the token is the very one that is chosen there: of equal values that of the lowest id wins.

Sampling adds noise to logits over the temperature, see `step.sampling`: in float64, keyed by seed,
sequence, position and token. Filters (top-k, top-p, min-p) look at a whole row, and go through
logits, see `kernels.filtered`.

A maximum is the same in any order. Sums are not, so for measures a tile always has
`MEASURED_FEATURES`, and its sums are taken one after another by a product with ones.
"""

# ruff: noqa: N803  (Triton names compile-time values in capitals)

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from nldc.runtime.kernels.launchable import Launchable, Target, options_of, power_above
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
from nldc.runtime.kernels.product import store_rows

MEASURED_FEATURES = 64
"""Tokens of a tile where sums over the vocabulary are taken."""
MEASURES = 4
"""Float32 values that a tile leaves of a row: best, second, sum of exponentials, of products.

A fifth is the logit of one token, where that is asked for.
"""
ALIGNED = 4
"""Float32 values in what a launch may begin to read at."""
ANYWHERE = (*KEYS, "given_ptr")
"""Arguments that may begin anywhere."""


@dataclass(frozen=True)
class Asked:
    """What is asked of rows: `logits`, a `token` (`noisy`: of scores with noise), `measures`.

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
    """What was found of rows: what was asked for, and None for the rest.

    `logits` [rows, vocabulary] in the model's dtype; `tokens` int64 [rows]. All else is of the raw
    logits, float32 [rows]: the `best` and the `second` one, the `logsumexp`, of their softmax the
    `entropy` in nats and the `margin` of the best one, and the logit of the token that is `picked`
    with its `probability`. NaN: all that is a sum where logits are no numbers or all -inf, and the
    logit of a choice that is no number; where nothing is allowed, token 0 is picked. All begin
    where a launch may begin to read.
    """

    logits: Tensor | None
    tokens: Tensor | None
    best: Tensor | None
    second: Tensor | None
    logsumexp: Tensor | None
    entropy: Tensor | None
    margin: Tensor | None
    picked: Tensor | None
    probability: Tensor | None


@triton.jit
def noised(  # type: ignore[no-untyped-def]
    values, position_ptr, sequence_ptr, seed_ptr, temperature_ptr, sequence_step, seed_step,
    heat_step, row, token, rows, own_rows,
):  # fmt: skip
    """Return values [N, R] over the temperature plus Gumbel noise, in float64.

    A temperature below `LOWEST_TEMPERATURE` of `step.sampling` is greedy: there is none.
    """
    first, second, temperature = keys_of(
        position_ptr, sequence_ptr, seed_ptr, temperature_ptr, sequence_step, seed_step, heat_step,
        row, rows, own_rows,
    )  # fmt: skip
    greedy = temperature < LOWEST_TEMPERATURE
    heated = values.to(tl.float64) / tl.where(greedy, 1.0, temperature)[None, :]
    noised = heated + gumbel(token[:, None], first[None, :], second[None, :])
    return tl.where(greedy[None, :], heated, noised)


@triton.jit  # type: ignore[untyped-decorator]
def finish(  # type: ignore[no-untyped-def]
    total, logit_ptr, score_ptr, token_ptr, measure_ptr, position_ptr, sequence_ptr, seed_ptr,
    temperature_ptr, given_ptr, sequence_step, seed_step, heat_step, row, token, tile, tiles, rows,
    own_rows, barred, uncounted,
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
            scores = noised(
                scores, position_ptr, sequence_ptr, seed_ptr, temperature_ptr, sequence_step,
                seed_step, heat_step, row, token, rows, own_rows,
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
        below = values - tl.where(is_sound, best, 0.0)[None, :]
        weighs = (below > float("-inf")) & is_sound[None, :]  # finite values may be so far apart
        below = tl.where(weighs, below, 0.0)
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
            given = tl.maximum(tl.load(given_ptr + row, mask=live, other=0), 0)
            is_it = token[:, None] == given[None, :]
            picked = tl.max(tl.where(is_it, values, float("-inf")), 0)
            tl.store(place + 4, picked, mask=live)
        elif TOKEN:
            is_it = offset == chosen[None, :]
            tl.store(place + 4, tl.max(tl.where(is_it, values, float("-inf")), 0), mask=live)


@triton.jit(do_not_specialize=["rows", "tiles", "stride"])  # type: ignore[untyped-decorator]
def merge_kernel(  # type: ignore[no-untyped-def]
    score_ptr, token_ptr, measure_ptr, found_ptr, measured_ptr, rows, tiles, stride,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, TOKEN: tl.constexpr, MEASURED: tl.constexpr,
    GIVEN: tl.constexpr, MEASURES: tl.constexpr, NO_NUMBER: tl.constexpr,
    NOTHING_ALLOWED: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Merge the tiles of a row: `found_ptr` int64 [rows] tokens, `measured_ptr` what is measured.

    That is float32 [MEASURES + 1, stride] or two lines more: the best value, the second, the
    logarithm of the sum of exponentials, the entropy, the margin, and where tiles have it the
    token's logit and its probability. Grid: tiles of ROWS rows, of `stride` in all.
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
        below = best - base[:, None]
        weighs = (below > float("-inf")) & is_sound[:, None]
        below = tl.where(weighs, below, 0.0)
        fade = tl.where(weighs, tl.exp(below), 0.0)
        mass = tl.where(is_sound, tl.sum(sums * fade, 1), 1.0)
        mean = tl.sum((products + sums * below) * fade, 1) / mass
        logsumexp = tl.log(mass) + base
        ahead = tl.exp(base - logsumexp) - tl.exp(tl.where(is_sound, beside, 0.0) - logsumexp)
        to = measured_ptr + row
        is_odd = (row < rows) & ~is_sound  # what fills up a line is some number
        live = row < stride
        tl.store(to, top, mask=live)
        tl.store(to + stride, beside, mask=live)
        tl.store(to + 2 * stride, tl.where(is_odd, float("nan"), logsumexp), mask=live)
        entropy = tl.where(is_odd, float("nan"), tl.log(mass) - mean)
        tl.store(to + 3 * stride, entropy, mask=live)
        tl.store(to + 4 * stride, tl.where(is_odd, float("nan"), ahead), mask=live)
        if GIVEN:  # other tiles say -inf
            picked = tl.max(tl.load(place + 4, mask=held, other=float("-inf")), 1)
        elif TOKEN:
            picked = tl.load(place + 4, mask=held & (token == first[:, None]), other=float("-inf"))
            picked = tl.max(picked, 1)  # where nothing is allowed, that of token 0
            picked = tl.where((chosen == NO_NUMBER) & (row < rows), float("nan"), picked)
        if MEASURES > 4:
            tl.store(to + 5 * stride, picked, mask=live)
            share = tl.where(is_odd, float("nan"), tl.exp(picked - logsumexp))
            tl.store(to + 6 * stride, share, mask=live)


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
        {**pointers, **dict.fromkeys(("rows", "tiles", "stride"), "i32")},
        constants,
        options_of(target, 4, 1),
        tuple(pointers),
    )


def pointers_of(asked: Asked, number: str) -> dict[str, str]:
    """Return the types of a kernel's arguments that leave tiles; `number`: of what is not there."""
    return {
        "score_ptr": "*fp64" if asked.noisy else "*fp32" if asked.token else number,
        "token_ptr": "*i32" if asked.token else number,
        "measure_ptr": "*fp32" if asked.measures else number,
        **dict.fromkeys(KEYS, "*i64" if asked.noisy else number),
        "temperature_ptr": "*fp64" if asked.noisy else number,
        "given_ptr": "*i64" if asked.given else number,
    }


def constants_of(asked: Asked) -> dict[str, Any]:
    """Return the compile-time values that say what tiles leave."""
    return {
        "TOKEN": asked.token,
        "NOISY": asked.noisy,
        "MEASURED": asked.measures,
        "GIVEN": asked.given,
        "MEASURES": MEASURES + asked.picks,
    }


@dataclass(frozen=True, eq=False)
class Tiles:
    """What `tiles` of each of `rows` rows leave: `score` and `token` of the best, the measures.

    What is not asked for is `none`, memory that nobody reads.
    """

    asked: Asked
    rows: int
    tiles: int
    score: Tensor
    token: Tensor
    measure: Tensor
    none: Tensor

    @staticmethod
    def room(asked: Asked, rows: int, tiles: int, none: Tensor) -> Tiles:
        """Return memory for so many, on the device of `none`."""

        def of(wanted: bool, dtype: torch.dtype, *size: int) -> Tensor:
            return torch.empty(size, dtype=dtype, device=none.device) if wanted else none

        return Tiles(
            asked,
            rows,
            tiles,
            of(asked.token, torch.float64 if asked.noisy else torch.float32, rows, tiles),
            of(asked.token, torch.int32, rows, tiles),
            of(asked.measures, torch.float32, rows, tiles, MEASURES + asked.picks),
            none,
        )

    def arguments(self, noise: Noise | None, given: Tensor | None) -> tuple[Any, ...]:
        """Return a kernel's arguments from `score_ptr` to the last of `APART`."""
        none = self.none
        return (
            self.score,
            self.token,
            self.measure,
            *((none,) * len(KEYS) if noise is None else noise.memory),
            none if given is None else given.contiguous(),
            *((0,) * len(APART) if noise is None else noise.apart),
        )

    def merged(self, target: Target, logits: Tensor | None = None) -> Found:
        """Return what all tiles of the rows come to, and the logits with it."""
        asked, rows, device = self.asked, self.rows, self.none.device
        if not (asked.token or asked.measures):
            return Found(logits, *[None] * 8)
        kernel = merging(self.tiles, target, asked)
        lines = (MEASURES + 1 + 2 * asked.picks) * asked.measures
        stride = rows + -rows % ALIGNED
        found = torch.empty(rows * asked.token, dtype=torch.int64, device=device)
        measured = torch.empty((lines, stride), dtype=torch.float32, device=device)
        score = self.score if asked.token else self.measure
        kernel.launch(
            (-(-stride // kernel.constants["ROWS"]),),
            score,
            self.token if asked.token else score,
            self.measure if asked.measures else score,
            found if asked.token else score,
            measured if asked.measures else found,
            rows,
            self.tiles,
            stride,
        )
        measures: list[Tensor | None] = [line[:rows] for line in measured.unbind(0)]
        measures += [None] * (MEASURES + 3 - len(measures))
        return Found(logits, found if asked.token else None, *measures)
