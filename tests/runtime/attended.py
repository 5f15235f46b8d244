"""Run in its own process with TRITON_INTERPRET=1: attention in every division, as JSON.

The interpreter computes a product with numpy's, whose bits depend on how many rows there are. Here
it takes one row after another in float64, so that what is left is what the kernels decide: which
keys are weighed together, and in which order they are joined. The order within a product, and
whether a compiler keeps to what is written, only a device can say (tests/gpu).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import torch
from handwritten import BIDIRECTIONAL, CAUSAL, QUADRATIC, QUADRATIC_START, quadratic_layout
from interpreted import PROMPTLESS, WINDOW, give_kernels
from patched_once import patch_once
from tiles import tiled
from torch import Tensor
from triton.runtime import interpreter

from nldc.runtime.invariant.line_tiles import KEY_TILE
from nldc.runtime.kernels import attention as kernels
from nldc.runtime.kernels.attention_tiles import CHUNK, Division, divide, tiles_for
from nldc.runtime.kernels.launchable import Launchable, Target
from nldc.runtime.reference.attention import attention as reference
from nldc.runtime.rows.layout import Layout
from nldc.runtime.rows.pattern import Pattern
from nldc.runtime.rows.plan import Plan

CPU = torch.device("cpu")
PATTERNS = (CAUSAL, BIDIRECTIONAL, QUADRATIC, QUADRATIC_START, WINDOW, PROMPTLESS)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
ALLOWED = dict(zip(DTYPES, (2**-19, 2**-11, 2**-7), strict=True))
"""Float32 sums and one rounding to the dtype, which the interpreter does towards zero for bfloat16;
to the size of what is found.
"""
HALF = 2
"""Bytes of a value, where tiles are chosen: there are the most of them, and float32 shows most."""
products = 0
"""Products so far."""


def _product(_self: Any, a: Any, b: Any, added: Any, *_options: Any) -> Any:
    """Return a product of the interpreter, computed row by row."""
    global products
    products += 1
    rows, right = a.data.astype(np.float64)[:, None], b.data.astype(np.float64)
    found = np.matmul(rows, right)[:, 0].astype(added.data.dtype)
    return interpreter.TensorHandle(found + added.data, added.dtype.scalar)


@dataclass(frozen=True)
class Heads:
    """A model's heads: query heads, key heads, features."""

    query: int
    key: int
    dim: int

    @property
    def group(self) -> int:
        """Query heads of a key head."""
        return self.query // self.key


@dataclass(frozen=True, eq=False)
class Forward:
    """Rows of some sequences behind their prefixes, and the pages, with NaN where nothing is."""

    layout: Layout
    pattern: Pattern
    heads: Heads
    lengths: tuple[int, ...]
    query: Tensor
    keys: Tensor
    values: Tensor
    factor: Tensor

    @staticmethod
    def drawn(
        layout: Layout,
        pattern: Pattern,
        heads: Heads,
        lengths: tuple[int, ...],
        dtype: torch.dtype,
        seed: int = 0,
    ) -> Forward:
        """Return one with random contents."""
        generator = torch.Generator().manual_seed(seed)
        batch, rows = len(lengths), layout.size
        query = torch.randn(batch * rows, heads.query, heads.dim, generator=generator).to(dtype)
        shape = (batch, heads.key, max(lengths) + rows + 3, heads.dim)
        keys, values = (torch.full(shape, torch.nan, dtype=dtype) for _ in range(2))
        for place, length in enumerate(lengths):
            for held in (keys, values):
                own = torch.randn(heads.key, length + rows, heads.dim, generator=generator)
                held[place, :, : length + rows] = own
        factor = torch.rand(batch * rows, generator=generator) * heads.dim**-0.5 + 0.05
        return Forward(layout, pattern, heads, lengths, query, keys, values, factor)

    def choose(self, sequence: int, first: int, count: int) -> Forward:
        """Return some causal rows of one sequence, behind the rows before them."""
        at = sequence * self.layout.size + first
        length = self.lengths[sequence] + first
        return replace(
            self,
            layout=Layout.causal(count),
            lengths=(length,),
            query=self.query[at : at + count],
            keys=self.keys[sequence : sequence + 1, :, : length + count],
            values=self.values[sequence : sequence + 1, :, : length + count],
            factor=self.factor[at : at + count],
        )

    @property
    def prompts(self) -> list[int]:
        """The lengths of prompts: in the midst of a page, at its end, and beyond the prefix."""
        return [length * part // 8 for part, length in zip((5, 8, 20), self.lengths, strict=False)]

    @property
    def most(self) -> int:
        """The most keys of a sequence."""
        return max(self.lengths) + self.layout.size

    def divided(self, most: int | None = None) -> Division:
        """Return the division that a launch for so many keys has (None: for those that are)."""
        return divide(
            self.layout.size, self.heads.group, len(self.lengths), self.heads.key, self.heads.dim,
            HALF, most or self.most,
        )  # fmt: skip

    def divisions(self) -> Iterator[Division]:
        """Return every division that could be."""
        lines = self.layout.size * self.heads.group
        pages = -(-self.most // KEY_TILE)
        spans = ((pages, KEY_TILE), (-(-pages // CHUNK), CHUNK * KEY_TILE), (1, 0))
        tiles = tiles_for(self.heads.dim, HALF)
        for tile, (units, span) in product(tiles, spans):
            yield Division(tile, -(-lines // tile.lines), units, span)

    def attend(self, division: Division, seed: int = 1) -> Tensor:
        """Return what the kernels find, the pages in any order, and what they write to poisoned."""
        plan = Plan.of(self.layout, self.pattern, CPU, torch.float32)
        held = [tiled(rows) for rows in (self.keys, self.values)]
        batch, width = held[0].shape[:2]
        generator = torch.Generator().manual_seed(seed)
        table = torch.randperm(batch * width + 2, generator=generator)[: batch * width]
        pages = [
            torch.full((batch * width + 2, *one.shape[2:]), torch.nan, dtype=one.dtype)
            for one in held
        ]
        for one, own in zip(pages, held, strict=True):
            one[table] = own.flatten(0, 1)
        slots = torch.randperm(batch, generator=generator)
        by_slot = torch.empty(batch, width, dtype=torch.int32)
        by_slot[slots] = table.view(batch, width).int()
        room = kernels.room_for(division, batch * self.heads.key, self.heads.dim, CPU)
        room.fill_(torch.nan)
        assert self.pattern.kernel is not None
        return kernels.attention(
            self.query, *pages, by_slot, slots, torch.tensor(self.lengths), self.factor,
            plan.facts, plan.seen, self.pattern.kernel(), division, room, Target.of(CPU),
            sees_prefix=self.pattern.sees_prefix, upcast=self.query.dtype != torch.float16,
            begin=torch.tensor(self.prompts) if self.pattern.asks_prompt else None,
        )  # fmt: skip

    def error(self, found: Tensor) -> float:
        """Return the largest difference to float64, over what is allowed."""
        want = reference(
            self.query, self.keys, self.values, torch.arange(len(self.lengths)),
            torch.tensor(self.lengths), self.factor, self.layout, self.pattern,
            self.prompts,
        )  # fmt: skip
        error = float((found.double() - want).abs().max())
        return error / (ALLOWED[self.query.dtype] * max(float(want.abs().max()), 1.0))


def same(one: Tensor, other: Tensor) -> bool:
    """Whether the bits are the same, signs of zeros too."""
    kind = torch.int32 if one.dtype == torch.float32 else torch.int16
    return torch.equal(one.view(kind), other.view(kind))


def any_layout(rows: int, seed: int = 0) -> Layout:
    """Return rows with facts drawn by chance, that lie behind the prefix in order."""
    generator = torch.Generator().manual_seed(seed)
    kind, group = (torch.randint(-1, most, (rows,), generator=generator) for most in (2, 6))
    return replace(Layout.causal(rows), kind=kind, group=group.sort().values, sequential=False)


FEW = (  # rows, heads, lengths: each with every pattern, and dtypes in turn
    (1, Heads(4, 1, 64), (0, 530)),
    (13, Heads(3, 1, 24), (64,)),
    (33, Heads(8, 1, 128), (70,)),
    (72, Heads(2, 2, 16), (7,)),
)
MANY = (
    *((rows, Heads(2, 1, 64), (length,)) for rows in (1, 8, 33, 272) for length in (1000, 4090)),
    *((rows, Heads(group, 1, 128), (190,)) for rows, group in enumerate(range(1, 9), 60)),
    (1, Heads(4, 2, 128), (9300, 0, 128)),
    (272, Heads(4, 1, 128), (600, 0, 511)),
    (1056, Heads(2, 1, 64), (0,)),
    (1056, Heads(1, 1, 64), (2049,)),
)


def errors(shapes: Any) -> list[tuple[str, float]]:
    """Return how wrong each shape is in the division that it has, over what is allowed."""
    found = []
    for number, ((rows, heads, lengths), pattern) in enumerate(product(shapes, PATTERNS)):
        layout = Layout.causal(rows) if pattern is CAUSAL else any_layout(rows)
        dtype = DTYPES[(number + number // len(PATTERNS)) % len(DTYPES)]
        forward = Forward.drawn(layout, pattern, heads, lengths, dtype)
        what = f"{rows} {heads} {lengths} {pattern.name} {dtype}"
        found.append((what, forward.error(forward.attend(forward.divided()))))
    return found


def divided(rows: tuple[int, ...], lengths: tuple[int, ...]) -> dict[str, Any]:
    """Return in how many divisions a forward has the bits that it has in the first."""
    found: dict[str, Any] = {}
    for count in rows:
        for pattern, layout in (
            (CAUSAL, Layout.causal(count)),
            (QUADRATIC, quadratic_layout(count // 9)),
        ):
            forward = Forward.drawn(layout, pattern, Heads(2, 1, 16), lengths, torch.float32)
            first, *others = forward.divisions()
            want = forward.attend(first)
            agree = [same(forward.attend(one, seed=2), want) for one in others]
            found[f"{layout.size} {pattern.name}"] = agree
    return found


def company(rows: tuple[int, ...], lengths: tuple[int, ...]) -> dict[str, bool]:
    """Return whether rows have the bits alone that they have in a forward of many."""
    most = max(rows)
    together = Forward.drawn(Layout.causal(most), CAUSAL, Heads(2, 1, 16), lengths, torch.float32)
    whole = together.attend(together.divided(12_000)).view(len(lengths), most, -1)
    found = {}
    for sequence, count in product(range(len(lengths)), rows):
        first = (most - count) // 2
        alone = together.choose(sequence, first, count)
        want = whole[sequence, first : first + count]
        found[f"{sequence} {count}"] = same(alone.attend(alone.divided()), want)
    return found


def otherwise() -> dict[str, bool]:
    """Return whether chunks of other lengths give the same bits too, which they should not."""
    forward = Forward.drawn(Layout.causal(3), CAUSAL, Heads(4, 1, 16), (700,), torch.float32)
    first, *others = forward.divisions()
    want = forward.attend(first)
    launchable = kernels.launchable
    found = {}
    for pages in (7,):
        keys = {"CHUNK_KEYS": pages * KEY_TILE}

        def otherwise_cut(*a: Any, keys: dict[str, int] = keys, **k: Any) -> Launchable:
            made = launchable(*a, **k)
            return replace(made, constants={**made.constants, **keys})

        kernels.launchable = otherwise_cut  # type: ignore[assignment]
        found[str(pages)] = same(forward.attend(others[1]), want)
    kernels.launchable = launchable
    return found


def skipped() -> dict[str, tuple[int, int]]:
    """Return how many pages are weighed, and how many it would be if all were, of some forwards."""
    found = {}
    for pattern, layout in ((CAUSAL, Layout.causal(272)), (QUADRATIC, quadratic_layout(16))):
        forward = Forward.drawn(layout, pattern, Heads(2, 1, 16), (64,), torch.float16)
        division = replace(forward.divided(), units=1, span=0)
        before = products
        forward.attend(division)
        pages = -(-forward.most // KEY_TILE)
        found[pattern.name] = ((products - before) // 2, division.tiles * pages)
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    patch_once()
    give_kernels()
    interpreter.InterpreterBuilder.create_dot = _product
    if "long" in sys.argv:
        told: dict[str, Any] = {
            "errors": errors(MANY),
            "divided": divided((300,), (4500, 3)),
            "company": company((1, 2, 7, 32, 72, 272), (505, 0, 9000)),
        }
    else:
        told = {
            "errors": errors(FEW),
            "divided": divided((9,), (507,)),
            "company": company((1, 2, 7, 32, 72), (480,)),
            "otherwise": otherwise(),
            "skipped": skipped(),
        }
    print(json.dumps(told))
