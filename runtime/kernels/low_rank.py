"""An adapter's products, `scale * (x @ down.T) @ up.T`, beside a product of a layer.

They are kept apart from that product, float32 [rows, columns], and added by the kernel that reads
its parts, on the rows that have the adapter and no others: what a row without it gets are the same
instructions on the same numbers as in a model that has none.

The first product is `product`'s, with the `down` of all of an adapter's modules as one weight. The
second is this kernel's: a tile of columns of one module for a tile of rows.
"""

# ruff: noqa: N803  (Triton names compile-time values in capitals)

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from nldc.runtime.kernels.launchable import TYPES, Launchable, Target, options_of
from nldc.runtime.kernels.product import FEW, Matrix, block_of, product, sum_of_parts

FEATURES = 64
"""Columns of a tile."""
FACTS = 4
"""Columns of the table of tiles: first line of `up`, first column, columns, first of the ranks."""


@dataclass(frozen=True, eq=False)
class Delta:
    """What an adapter adds to a product, float32 [rows, columns], where `marks` is not 0.

    `marks` is int8 [rows]. What `values` holds of the other rows is void.
    """

    values: Tensor
    marks: Tensor


@dataclass(frozen=True, eq=False)
class LowRankProducts:
    """The products that one launch adds beside one product of a layer.

    `down` [ranks, width] and `up` [columns, rank] are those of all modules, one below the other;
    `tiles` int32 [tiles, FACTS] and `scales` float32 [tiles] say what each tile computes. `columns`
    are those of the result; `whole` says whether the modules cover them all.
    """

    down: Matrix
    up: Tensor
    tiles: Tensor
    scales: Tensor
    columns: int
    whole: bool

    @staticmethod
    def of(modules: Sequence[tuple[int, Tensor, Tensor, float]], columns: int) -> LowRankProducts:
        """Return the products of modules: the first column, `down`, `up` and the scale of each.

        All have one rank.
        """
        tiles, scales, line = [], [], 0
        rank = modules[0][1].shape[0]
        for number, (start, _, up, scale) in enumerate(modules):
            for first in range(0, len(up), FEATURES):
                count = min(FEATURES, len(up) - first)
                tiles.append((line + first, start + first, count, number * rank))
                scales.append(scale)
            line += len(up)
        down = torch.cat([each for _, each, _, _ in modules]).contiguous()
        up = torch.cat([each for _, _, each, _ in modules]).contiguous()
        return LowRankProducts(
            down=Matrix(down, *down.shape),
            up=up,
            tiles=torch.tensor(tiles, dtype=torch.int32, device=up.device),
            scales=torch.tensor(scales, dtype=torch.float32, device=up.device),
            columns=columns,
            whole=line == columns,
        )


@triton.jit(do_not_specialize=["rows"])  # type: ignore[untyped-decorator]
def low_rank_kernel(  # type: ignore[no-untyped-def]
    part_ptr, up_ptr, tile_ptr, scale_ptr, mark_ptr, out_ptr, rows,
    RANK: tl.constexpr, RANKS: tl.constexpr, COLUMNS: tl.constexpr, PARTS: tl.constexpr,
    ROWS: tl.constexpr, FEATURES: tl.constexpr, BLOCK: tl.constexpr, FACTS: tl.constexpr,
    UPCAST: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Write the second product of the rows marked, of the first one's parts [PARTS, rows, RANKS].

    `out_ptr` float32 [rows, COLUMNS]; the other rows' lines stay as they are. Grid: tiles of
    columns, tiles of rows.
    """
    fact = tile_ptr + tl.program_id(0) * FACTS
    first_line = tl.load(fact)
    first_column = tl.load(fact + 1)
    columns = tl.load(fact + 2)
    first_rank = tl.load(fact + 3)
    scale = tl.load(scale_ptr + tl.program_id(0))
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    feature = tl.arange(0, FEATURES)
    if DEPENDENT:
        gdc_wait()
    total = tl.zeros((FEATURES, ROWS), tl.float32)
    for start in tl.range(0, RANK, BLOCK, num_stages=1):
        rank = start + tl.arange(0, BLOCK)
        held = (feature < columns)[:, None] & (rank < RANK)[None, :]
        place = (first_line + feature)[:, None] * RANK + rank[None, :]
        up = tl.load(up_ptr + place, mask=held, other=0.0)
        held = (row < rows)[None, :] & (rank < RANK)[:, None]
        place = row[None, :].to(tl.int64) * RANKS + (first_rank + rank)[:, None]
        x = sum_of_parts(part_ptr, place, held, rows.to(tl.int64) * RANKS, PARTS)
        x = x.to(up_ptr.dtype.element_ty)
        if UPCAST:
            up = up.to(tl.float32)
            x = x.to(tl.float32)
        total = tl.dot(up, x, total, input_precision="ieee", out_dtype=tl.float32)
    if DEPENDENT:
        gdc_launch_dependents()
    marked = tl.load(mark_ptr + row, mask=row < rows, other=0) != 0
    held = marked[None, :] & (feature < columns)[:, None]
    place = row[None, :].to(tl.int64) * COLUMNS + (first_column + feature)[:, None]
    tl.store(out_ptr + place, total * scale, mask=held)


@lru_cache(maxsize=1024)
def launchable(
    rank: int, ranks: int, columns: int, parts: int, rows: int, dtype: torch.dtype, target: Target
) -> Launchable:
    """Return the kernel for modules of one rank, `ranks` in all, in tiles of `rows` rows."""
    number = f"*{TYPES[dtype]}"
    pointers = {
        "part_ptr": "*fp32",
        "up_ptr": number,
        "tile_ptr": "*i32",
        "scale_ptr": "*fp32",
        "mark_ptr": "*i8",
        "out_ptr": "*fp32",
    }
    constants = {
        "RANK": rank,
        "RANKS": ranks,
        "COLUMNS": columns,
        "PARTS": parts,
        "ROWS": rows,
        "FEATURES": FEATURES,
        "BLOCK": block_of(dtype),
        "FACTS": FACTS,
        "UPCAST": target.upcast,
        "DEPENDENT": target.dependent,
    }
    return Launchable(
        f"low rank {columns}x{rank} of {ranks} rows {rows} parts {parts}",
        low_rank_kernel,
        {**pointers, "rows": "i32"},
        constants,
        options_of(target, 4, 1),
        tuple(pointers),
    )


def row_tile(rows: int, parts: int) -> int:
    """Return how many rows a program takes of so many: few where the first product is in parts.

    More would not fit the registers then.
    """
    return 16 if rows <= FEW or parts > 1 else 32


def low_rank(x: Tensor, modules: LowRankProducts, marks: Tensor, target: Target) -> Delta:
    """Return what an adapter adds on the rows of `x` whose `marks`, int8 [rows], are not 0.

    `x` [rows, width] has no gaps.
    """
    rows = x.shape[0]
    parts = product(x, modules.down, target)
    make = torch.empty if modules.whole else torch.zeros
    found = make((rows, modules.columns), dtype=torch.float32, device=x.device)
    tile = row_tile(rows, len(parts))
    kernel = launchable(
        modules.up.shape[1],
        modules.down.out,
        modules.columns,
        len(parts),
        tile,
        x.dtype,
        target,
    )
    kernel.launch(
        (len(modules.tiles), -(-rows // tile)),
        parts,
        modules.up,
        modules.tiles,
        modules.scales,
        marks,
        found,
        rows,
    )
    return Delta(found, marks)
