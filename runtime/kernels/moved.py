"""Rows of the cache that stay out of order move to where they would have been.

A path names rows behind a sequence's length, each behind the one before it. Its rows move to the
first places, none to a later one, so each is read before anything is written there.
"""

# ruff: noqa: N803  (Triton names compile-time values in capitals)

from __future__ import annotations

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from nldc.runtime.kernels.launchable import TYPES, Launchable, Target, options_of, power_above
from nldc.runtime.kernels.rotary import Heads, Pages

PLACES = ("table_ptr", "slot_ptr", "length_ptr", "path_ptr", "keep_ptr")
"""Columns of tables may begin anywhere: one compiled kernel serves all places."""


@triton.jit(  # type: ignore[untyped-decorator]
    do_not_specialize=["pages", "table_stride", "path_stride"],
    do_not_specialize_on_alignment=PLACES,
)
def moved_kernel(  # type: ignore[no-untyped-def]
    data_ptr, table_ptr, slot_ptr, length_ptr, path_ptr, keep_ptr,
    pages, table_stride, path_stride, page_stride,
    KV_HEADS: tl.constexpr, DIM: tl.constexpr, PAGE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Move the first rows of each sequence's path behind its length.

    `data_ptr` [planes, pages, KV_HEADS, PAGE, DIM], a plane for each layer's keys and values;
    `path_ptr` int64 [B, path_stride] and `keep_ptr` int64 [B] say which rows behind `length_ptr`,
    and how many. A sequence that stands there again was moved already. Grid: planes, sequences.
    """
    plane = tl.program_id(0).to(tl.int64) * pages * page_stride
    sequence = tl.program_id(1)
    slot = tl.load(slot_ptr + sequence)
    again = (sequence > 0) & (tl.load(slot_ptr + tl.maximum(sequence - 1, 0)) == slot)
    keep = tl.where(again, 0, tl.load(keep_ptr + sequence))
    length = tl.load(length_ptr + sequence)
    value = tl.arange(0, BLOCK)
    live = value < KV_HEADS * DIM
    within = (value // DIM).to(tl.int64) * (PAGE * DIM) + value % DIM
    for number in range(keep):
        row = tl.load(path_ptr + sequence * path_stride + number)
        if row != number:
            at, to = length + row, length + number
            page = tl.load(table_ptr + slot * table_stride + at // PAGE).to(tl.int64)
            there = data_ptr + plane + page * page_stride + (at % PAGE) * DIM + within
            values = tl.load(there, mask=live)
            page = tl.load(table_ptr + slot * table_stride + to // PAGE).to(tl.int64)
            there = data_ptr + plane + page * page_stride + (to % PAGE) * DIM + within
            tl.store(there, values, mask=live)


@lru_cache(maxsize=64)
def launchable(heads: Heads, dtype: torch.dtype, target: Target) -> Launchable:
    """Return the kernel for a model's heads."""
    pointers = {
        "data_ptr": f"*{TYPES[dtype]}",
        "table_ptr": "*i32",
        "slot_ptr": "*i64",
        "length_ptr": "*i64",
        "path_ptr": "*i64",
        "keep_ptr": "*i64",
    }
    scalars = dict.fromkeys(("pages", "table_stride", "path_stride", "page_stride"), "i32")
    constants = {
        "KV_HEADS": heads.kv,
        "DIM": heads.dim,
        "PAGE": heads.page,
        "BLOCK": power_above(heads.kv * heads.dim),
    }
    return Launchable(
        f"moved 2*{heads.kv} x {heads.dim}",
        moved_kernel,
        {**pointers, **scalars},
        constants,
        options_of(target, 4, 1, early=False),  # it waits for all, and nobody begins before it ends
        ("data_ptr", "page_stride"),
    )


def moved(
    data: Tensor, pages: Pages, path: Tensor, keep: Tensor, heads: Heads, target: Target
) -> None:
    """Move the first `keep` [B] rows of `path` [B, r], int64, to the first places behind lengths.

    `data` is [2, layers, pages, kv_heads, page, dim]; a path's rows rise, and a sequence that is
    there several times stands there one after another.
    """
    kernel = launchable(heads, data.dtype, target)
    kernel.launch(
        (data.shape[0] * data.shape[1], len(path)),
        data,
        pages.table,
        pages.slots,
        pages.lengths,
        path.contiguous(),
        keep,
        data.shape[2],
        pages.table.stride(0),
        path.shape[1],
        data.stride(2),
    )
