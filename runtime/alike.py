"""Does a row have the same bits in any company? A trial on this machine, of a whole model.

The rows of one large forward are computed again in forwards of other sizes, one by one, in parts
and beside other sequences, behind prefixes of several lengths. The keys and values of the prefix
are drawn at random: what they mean does not matter, and a long one costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nldc.runtime.cache.kv_cache import KVCache
from nldc.runtime.rows.layout import Layout
from nldc.runtime.rows.pattern import Pattern
from nldc.runtime.step.batch import Batch, Model
from nldc.runtime.step.member import Member

ROWS = 272
COUNTS = (1, 2, 7, 16, 32, 33, 72, 128, 256)
ALONE = 40
"""Rows that are computed one by one."""
PARTS = (7, 25, 64, 2, 174)
BESIDE = (1, 7, 32)
"""Rows that are computed beside two other sequences, which have other lengths."""


@dataclass(frozen=True)
class Company:
    """Some rows of the large forward, from `first` on, computed as `kind` says."""

    kind: str
    first: int
    rows: int

    def __str__(self) -> str:
        return f"{self.kind}: rows {self.first} to {self.first + self.rows - 1}"


@dataclass(frozen=True)
class Alike:
    """How many rows behind a prefix were computed again, how many differed, and in what company."""

    prefix: int
    checked: int
    differing: int
    where: tuple[str, ...]


def companies(rows: int, alone: int = ALONE) -> Iterator[Company]:
    """Yield what is tried, in an order in which no trial overwrites what a later one needs."""
    found = [Company("fewer", 0, count) for count in COUNTS if count < rows]
    found += [Company("one by one", place, 1) for place in range(min(alone, rows))]
    first = 0
    for count in PARTS:
        found.append(Company("in parts", first, min(count, rows - first)))
        first += count
        if first >= rows:
            break
    found += [Company("in a batch", 0, count) for count in BESIDE if count <= rows]
    yield from sorted(found, key=lambda company: (-company.first, -company.rows))


@torch.inference_mode()
def alike(
    model: Model,
    pattern: Pattern,
    prefixes: Sequence[int],
    rows: int = ROWS,
    alone: int = ALONE,
    seed: int = 0,
) -> list[Alike]:
    """Compare the logits of rows that see one another by `pattern`, causally or less."""
    layouts: dict[int, Layout] = {}
    return [_behind(model, pattern, prefix, rows, alone, seed, layouts) for prefix in prefixes]


def _behind(
    model: Model,
    pattern: Pattern,
    prefix: int,
    rows: int,
    alone: int,
    seed: int,
    layouts: dict[int, Layout],
) -> Alike:
    backbone = model.backbone
    device, dtype = backbone.device, backbone.dtype
    generator = torch.Generator(device=device).manual_seed(seed)
    cache = KVCache(backbone.config, dtype, device)
    slots = tuple(cache.acquire(prefix + rows) for _ in range(3))
    cache.reserve(slots, [prefix + rows] * 3)
    for layer in cache.data.flatten(0, 1):
        layer.copy_(torch.randn(layer.shape, generator=generator, device=device))
    shape = (3, rows)
    top = backbone.config.vocab_size
    tokens = torch.randint(0, top, shape, generator=generator, device=device)

    def logits(first: int, count: int, sequences: int) -> Tensor:
        for slot, length in zip(slots, (prefix + first, prefix // 2, 0), strict=True):
            cache.committed[slot], cache.speculative[slot] = length, 0
        batch = Batch(model, cache, [Member(slot, slot) for slot in slots[:sequences]])
        layout = layouts.get(count)
        if layout is None:
            layout = layouts[count] = Layout.causal(count, append=False)
        seen = batch.forward(tokens[:sequences, first : first + count], layout, pattern)
        return batch.head(seen).values[0]

    whole = logits(0, rows, 1)
    checked, differing = 0, 0
    where = []
    for company in companies(rows, alone):
        count = company.rows
        found = logits(company.first, count, 3 if company.kind == "in a batch" else 1)
        wanted = whole[company.first : company.first + count]
        differs = (found != wanted).any(1) | ~torch.isfinite(found).all(1)
        checked += count
        number = int(differs.sum())
        if number:
            differing += number
            where.append(f"{company}, {number} differ")
    return Alike(prefix, checked, differing, tuple(where))
