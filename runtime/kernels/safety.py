"""A trained sampler's network: what it makes of the features of a block's rows, in one launch.

A program has one sequence, so that its scores have the same bits in any batch; what stands between
two products lies in memory, and all threads of the program wait before they read it. What is
computed is defined in `runtime/reference/sampler.py`. Widths are padded to powers of two by zeros:
of weights, and so of all that they make, heads of zeros among it. A norm's weight is part of the
product behind it, and its scale is multiplied in after that.

One program alone is slow where a network is wide: beyond `WIDEST` torch is asked instead.
"""

# ruff: noqa: N803  (Triton names compile-time values in capitals)

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from nldc.runtime.checkpoint.sampler import SamplerShape, SamplerWeights
from nldc.runtime.kernels.features import features, wide
from nldc.runtime.kernels.launchable import Launchable, Target, options_of, power_above
from nldc.runtime.reference.sampler import EPS

WIDEST = 128
"""How wide a network may be at most."""
TILES = {16: (32, 2), 32: (16, 2), 64: (32, 1)}
"""Rows that are multiplied at a time: the least that are no fewer than a block's, or the most. With
so many, how many terms are added at a time, and how many of these steps are on their way."""
FEATURES, LANES = 64, 32
"""Columns of a product, and values of a head, that are computed at a time."""
REGISTERS = 255
"""What a thread may have: no other program has to fit beside this one."""
PARTS = tl.constexpr(5)
"""Widths that a row has in memory: its state, what it saw, and query, key and value, where later
the inner values of the MLP lie."""


@triton.jit  # type: ignore[untyped-decorator]
def _through(  # type: ignore[no-untyped-def]
    x_ptr, w_ptr, beside_ptr, to_ptr, rows,
    X_STRIDE: tl.constexpr, BESIDE_STRIDE: tl.constexpr, STRIDE: tl.constexpr, TERMS: tl.constexpr,
    OUT: tl.constexpr, WIDTH: tl.constexpr, NORMED: tl.constexpr, BESIDE: tl.constexpr,
    ACTIVATED: tl.constexpr, ROWS: tl.constexpr, FEATURES: tl.constexpr, BLOCK: tl.constexpr,
    EPS: tl.constexpr,
):  # fmt: skip
    """Write x [rows, TERMS] times w [TERMS, OUT] to [rows, OUT], and wait until it is there.

    NORMED: each row is divided by the root of its mean square over WIDTH values. BESIDE: a matrix
    of the result's size is added, which may lie where the result does. ACTIVATED: then SiLU.
    """
    for first in range(0, rows, ROWS):
        row = first + tl.arange(0, ROWS)[:, None]
        live = row < rows
        if NORMED:
            at = x_ptr + row * X_STRIDE + tl.arange(0, TERMS)[None, :]
            line = tl.load(at, mask=live, other=0.0)
            scale = tl.rsqrt(tl.sum(line * line, 1) / WIDTH + EPS)[:, None]
        for begin in range(0, OUT, FEATURES):
            out = begin + tl.arange(0, FEATURES)[None, :]
            total = tl.zeros((ROWS, FEATURES), tl.float32)
            for start in range(0, TERMS, BLOCK):
                term = start + tl.arange(0, BLOCK)
                x = tl.load(x_ptr + row * X_STRIDE + term[None, :], mask=live, other=0.0)
                w = tl.load(w_ptr + term[:, None] * OUT + out)
                total = tl.dot(x, w, total, input_precision="ieee", out_dtype=tl.float32)
            if NORMED:
                total *= scale
            if BESIDE:
                total += tl.load(beside_ptr + row * BESIDE_STRIDE + out, mask=live, other=0.0)
                tl.debug_barrier()
            if ACTIVATED:
                total = total / (1.0 + tl.exp(-total))
            tl.store(to_ptr + row * STRIDE + out, total, mask=live)
    tl.debug_barrier()


@triton.jit  # type: ignore[untyped-decorator]
def _attend(  # type: ignore[no-untyped-def]
    qkv_ptr, to_ptr, rows, STRIDE: tl.constexpr, WIDTH: tl.constexpr, HEAD_DIM: tl.constexpr,
    LANES: tl.constexpr, SCALE: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write what rows see of one another, [rows, WIDTH], and wait until it is there.

    `qkv_ptr` are query, key and value of each row, WIDTH apart. LANES of a head's result are
    computed at a time, and BLOCK terms of its products are added at a time: neither is below 16.
    """
    step: tl.constexpr = HEAD_DIM if HEAD_DIM < LANES else LANES
    for first in range(0, rows, ROWS):
        row = first + tl.arange(0, ROWS)
        for begin in range(0, WIDTH, step):
            head = begin // HEAD_DIM * HEAD_DIM
            lane = begin + tl.arange(0, LANES)[None, :]
            own = lane < head + HEAD_DIM
            top = tl.full((ROWS,), float("-inf"), tl.float32)
            mass = tl.zeros((ROWS,), tl.float32)
            seen = tl.zeros((ROWS, LANES), tl.float32)
            for start in range(0, rows, ROWS):
                key_row = start + tl.arange(0, ROWS)
                score = tl.zeros((ROWS, ROWS), tl.float32)
                for part in range(0, HEAD_DIM, BLOCK):
                    term = part + tl.arange(0, BLOCK)
                    at = qkv_ptr + head + term
                    held = (row < rows)[:, None] & (term < HEAD_DIM)[None, :]
                    query = tl.load(at[None, :] + row[:, None] * STRIDE, mask=held, other=0.0)
                    held = (key_row < rows)[None, :] & (term < HEAD_DIM)[:, None]
                    at = at[:, None] + key_row[None, :] * STRIDE
                    key = tl.load(at + WIDTH, mask=held, other=0.0)
                    score = tl.dot(query, key, score, input_precision="ieee", out_dtype=tl.float32)
                score = tl.where((key_row < rows)[None, :], score * SCALE, float("-inf"))
                above = tl.maximum(top, tl.max(score, 1))
                fade = tl.exp(top - above)
                weight = tl.exp(score - above[:, None])
                held = (key_row < rows)[:, None] & own
                at = qkv_ptr + 2 * WIDTH + key_row[:, None] * STRIDE + lane
                value = tl.load(at, mask=held, other=0.0)
                mass = mass * fade + tl.sum(weight, 1)
                seen *= fade[:, None]
                seen = tl.dot(weight, value, seen, input_precision="ieee", out_dtype=tl.float32)
                top = above
            held = (row < rows)[:, None] & own
            tl.store(to_ptr + row[:, None] * STRIDE + lane, seen / mass[:, None], mask=held)
    tl.debug_barrier()


@triton.jit(do_not_specialize=["rows", "layers"])  # type: ignore[untyped-decorator]
def safety_kernel(  # type: ignore[no-untyped-def]
    x_ptr, input_ptr, place_ptr, qkv_ptr, output_ptr, up_ptr, down_ptr, last_ptr, bias_ptr,
    room_ptr, safety_ptr, rows, layers,
    WIDE: tl.constexpr, OWN: tl.constexpr, WIDTH: tl.constexpr, HEAD_DIM: tl.constexpr,
    LANES: tl.constexpr, SCALE: tl.constexpr, ROWS: tl.constexpr, FEATURES: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_X: tl.constexpr, EPS: tl.constexpr,
):  # fmt: skip
    """Write how safe each row of a sequence is, float32 [B, rows], of features [B, rows, WIDE].

    Weights are those of a `Network` of width OWN, padded to WIDTH; `room_ptr` float32 [B, rows,
    PARTS * WIDTH] is what lies between products. Grid: sequences.
    """
    stride: tl.constexpr = PARTS * WIDTH
    sequence = tl.program_id(0).to(tl.int64)
    state = room_ptr + sequence * rows * stride
    seen = state + WIDTH
    inner = state + 2 * WIDTH
    x_ptr += sequence * rows * WIDE
    _through(
        x_ptr, input_ptr, place_ptr, state, rows, WIDE, WIDTH, stride, WIDE, WIDTH, OWN,
        False, True, False, ROWS, FEATURES, BLOCK_X, EPS,
    )  # fmt: skip
    for layer in range(layers):
        square = layer * WIDTH * WIDTH
        _through(
            state, qkv_ptr + 3 * square, state, inner, rows, stride, stride, stride, WIDTH,
            3 * WIDTH, OWN, True, False, False, ROWS, FEATURES, BLOCK, EPS,
        )  # fmt: skip
        _attend(inner, seen, rows, stride, WIDTH, HEAD_DIM, LANES, SCALE, ROWS, BLOCK_D)
        _through(
            seen, output_ptr + square, state, state, rows, stride, stride, stride, WIDTH,
            WIDTH, OWN, False, True, False, ROWS, FEATURES, BLOCK, EPS,
        )  # fmt: skip
        _through(
            state, up_ptr + 2 * square, state, inner, rows, stride, stride, stride, WIDTH,
            2 * WIDTH, OWN, True, False, True, ROWS, FEATURES, BLOCK, EPS,
        )  # fmt: skip
        _through(
            inner, down_ptr + 2 * square, state, state, rows, stride, stride, stride,
            2 * WIDTH, WIDTH, OWN, False, True, False, ROWS, FEATURES, BLOCK, EPS,
        )  # fmt: skip
    column = tl.arange(0, WIDTH)[None, :]
    last = tl.load(last_ptr + column)
    bias = tl.load(bias_ptr)
    for first in range(0, rows, ROWS):
        row = first + tl.arange(0, ROWS)
        at = state + row[:, None] * stride + column
        x = tl.load(at, mask=(row < rows)[:, None], other=0.0)
        scale = tl.rsqrt(tl.sum(x * x, 1) / OWN + EPS)
        found = tl.sum(x * last, 1) * scale + bias
        tl.store(safety_ptr + sequence * rows + row, 1.0 / (1.0 + tl.exp(-found)), mask=row < rows)


@dataclass(frozen=True, eq=False)
class Network:
    """A sampler's weights as the kernel reads them.

    `memory` are float32 matrices that features, and each layer's rows, are multiplied by from the
    right, the lines of places, the last vector and the bias, in the kernel's order.
    """

    shape: SamplerShape
    memory: tuple[Tensor, ...]

    @staticmethod
    def of(weights: SamplerWeights) -> Network:
        """Return those of a sampler, whose memory stays its own."""
        shape, tensors = weights.shape, weights.tensors
        own, width = shape.width, power_above(shape.width, 16)

        def stacked(name: str, norm: str | None = None) -> Tensor:
            found = []
            for layer in range(shape.layers):
                matrix = tensors[f"layers.{layer}.{name}.weight"]
                if norm is not None:
                    matrix = matrix * tensors[f"layers.{layer}.{norm}.weight"]
                found.append(_turned(matrix, own, width))
            return torch.stack(found)

        into, places = tensors["input.weight"], tensors["places.weight"]
        last = tensors["output.weight"][0] * tensors["norm.weight"]
        return Network(
            shape,
            (
                F.pad(into.T, (0, width - own, 0, wide(shape.top) - shape.features)).contiguous(),
                F.pad(places, (0, width - own)),
                stacked("qkv", "attention_norm"),
                stacked("output"),
                stacked("up", "mlp_norm"),
                stacked("down"),
                F.pad(last, (0, width - own)),
                tensors["output.bias"],
            ),
        )


def _turned(matrix: Tensor, own: int, width: int) -> Tensor:
    """Return a matrix [a * own, b * own] turned, each of its squares padded: [b * width, ...]."""
    out, terms = (size // own for size in matrix.shape)
    found = matrix.new_zeros((terms, width, out, width))
    found[:, :own, :, :own] = matrix.view(out, own, terms, own).permute(2, 3, 0, 1)
    return found.view(terms * width, out * width)


def fits(shape: SamplerShape) -> bool:
    """Whether the kernel computes a network of this shape."""
    return shape.width <= WIDEST


def row_tile(rows: int) -> int:
    """Return how many rows of a block of so many are multiplied at a time."""
    return next((tile for tile in TILES if rows <= tile), max(TILES))


@lru_cache(maxsize=64)
def launchable(width: int, heads: int, top: int, rows: int, target: Target) -> Launchable:
    """Return the kernel of networks of a width and so many heads that read `top` tokens.

    `rows` is a `row_tile`. It serves any number of layers and of rows.
    """
    head_dim, padded = width // heads, power_above(width, 16)
    block, stages = TILES[rows]
    options = options_of(target, 8, stages, early=False)
    if target.arch is not None:
        options["maxnreg"] = REGISTERS
    pointers = (
        "x_ptr", "input_ptr", "place_ptr", "qkv_ptr", "output_ptr", "up_ptr", "down_ptr",
        "last_ptr", "bias_ptr", "room_ptr", "safety_ptr",
    )  # fmt: skip
    constants = {
        "WIDE": wide(top),
        "OWN": width,
        "WIDTH": padded,
        "HEAD_DIM": head_dim,
        "LANES": min(LANES, max(16, head_dim)),
        "SCALE": head_dim**-0.5,
        "ROWS": rows,
        "FEATURES": min(FEATURES, padded),
        "BLOCK": min(block, padded),
        "BLOCK_D": min(block, max(16, head_dim)),
        "BLOCK_X": min(block, wide(top)),
        "EPS": EPS,
    }
    return Launchable(
        f"safety {width} heads {heads} top {top} rows {rows}",
        safety_kernel,
        {**dict.fromkeys(pointers, "*fp32"), "rows": "i32", "layers": "i32"},
        constants,
        options,
        pointers,
    )


def safety(
    logits: Tensor,
    tokens: Tensor,
    masked: Tensor,
    mask_token_id: int,
    network: Network,
    target: Target,
) -> Tensor:
    """Return how safe it is to commit each row's likeliest token, float32 [B, n] in 0 to 1.

    `logits` [B, n, vocabulary] have no gaps; `tokens` int64 and `masked` bool are [B, n].
    """
    shape = network.shape
    x = features(logits, tokens, masked, mask_token_id, shape.top, target)
    batch, rows, _ = x.shape
    kernel = launchable(shape.width, shape.heads, shape.top, row_tile(rows), target)
    size = PARTS.value * kernel.constants["WIDTH"]
    room = torch.empty((batch, rows, size), dtype=torch.float32, device=x.device)
    found = torch.empty((batch, rows), dtype=torch.float32, device=x.device)
    kernel.launch((batch,), x, *network.memory, room, found, rows, shape.layers)
    return found
