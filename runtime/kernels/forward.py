"""Every kernel that a model's forwards launch, by shapes and numbers of rows alone.

What a kernel is compiled for follows from the tile that a number of rows gets, so that a few
kernels serve all numbers of rows. Here all of them are asked for, one by one, as a launch asks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass, replace
from itertools import chain
from typing import Any

import torch

from nldc.runtime.checkpoint.sampler import SamplerShape
from nldc.runtime.invariant.line_tiles import KEY_TILE
from nldc.runtime.invariant.linear import LINE
from nldc.runtime.kernels import (
    attention,
    candidates,
    features,
    filtered,
    gated,
    head,
    low_rank,
    mixed,
    moved,
    product,
    rotary,
    safety,
    scanned,
    summed,
)
from nldc.runtime.kernels.asked import Asked, merging
from nldc.runtime.kernels.attention_tiles import Tile, tiles_for
from nldc.runtime.kernels.launchable import Launchable, Target
from nldc.runtime.kernels.library import is_worth_it, rounded
from nldc.runtime.kernels.product import Shape
from nldc.runtime.kernels.rotary import Heads

ASKED = (Asked(token=True), Asked(token=True, noisy=True), Asked(logits=True))
"""What a head is asked for: the best token, a sampled one, and logits for whoever looks at them."""
SCORED = (
    Asked(token=True, measures=True),
    Asked(token=True, noisy=True, measures=True),
    Asked(logits=True),
)
"""What a head is asked for where raw scores go with its tokens; see `HeadRows.asked`."""
MEASURED = (Asked(measures=True), Asked(measures=True, given=True))
"""What logits that are there are asked for where they are scored."""
QKV, OUTPUT, GATED, DOWN = "qkv", "output", "gated", "down"
"""A layer's products."""
EACH, STEP, MOST = 4096, 64, 1 << 17
"""A forward of any length: each number of rows up to one, then every so many, up to another."""


@dataclass(frozen=True)
class LowRank:
    """An adapter's modules beside one product: `ranks` of all, the rank of each, the result."""

    ranks: int
    rank: int
    width: int
    columns: int


@dataclass(frozen=True)
class Sizes:
    """The shapes of a model's weights; `adapter` has what lies beside a product, by its name, and
    `samplers` are trained ones beside the model.
    """

    heads: Heads
    qkv: Shape
    output: Shape
    gate: Shape
    down: Shape
    head: Shape
    adapter: tuple[tuple[str, LowRank], ...] = ()
    samplers: tuple[SamplerShape, ...] = ()

    @property
    def dtype(self) -> torch.dtype:
        """What is computed in."""
        return self.qkv.dtype

    @property
    def hidden(self) -> int:
        """The width of a state."""
        return self.output.out

    @staticmethod
    def of(
        hidden: int,
        mlp: int,
        heads: tuple[int, int, int],
        vocabulary: int,
        dtype: torch.dtype,
        adapter: Mapping[str, LowRank] | None = None,
        samplers: tuple[SamplerShape, ...] = (),
    ) -> Sizes:
        """Return those of a model as loading leaves it: rows of weights are whole cache lines.

        `heads` are how many there are of queries and of keys, and the size of each.
        """
        values = LINE // dtype.itemsize

        def shape(out: int, width: int) -> Shape:
            return Shape(out, width, width + -width % values, dtype)

        query, kv, dim = heads
        return Sizes(
            Heads(query, kv, dim, KEY_TILE),
            shape((query + 2 * kv) * dim, hidden),
            shape(hidden, query * dim),
            shape(mlp, hidden),
            shape(hidden, mlp),
            shape(vocabulary, hidden),
            tuple(sorted((adapter or {}).items(), key=lambda each: each[0])),
            samplers,
        )


@dataclass(frozen=True, eq=False)
class Rows:
    """Forwards of one pattern: `counts` are the rows of a sequence, of up to `batch` sequences.

    `adapted`: the adapter is on for some of them, where there is one.
    """

    counts: tuple[int, ...]
    batch: int
    predicate: Any
    sees_prefix: bool
    adapted: bool
    asks_prompt: bool = False

    @property
    def totals(self) -> Iterator[int]:
        """Yield how many rows there are in all."""
        for count in self.counts:
            yield from range(count, count * self.batch + 1, count)


@dataclass(frozen=True)
class HeadRows:
    """A head of so many rows; `scored`: raw scores go with its tokens, or those of `given` ones."""

    rows: int
    scored: bool = False
    given: bool = False

    @property
    def asked(self) -> tuple[Asked, ...]:
        """What they are asked for."""
        if not self.scored:
            return ASKED
        return tuple(replace(each, given=self.given and each.token) for each in SCORED)


@dataclass(frozen=True)
class Looks:
    """What is done with logits that are there.

    `candidates` are how many of a row's likeliest tokens are taken, `mixes` of how many parts mixes
    are, and `blocks` of how many rows of a sequence trained samplers are asked. `scores`: rows are
    scored.
    """

    candidates: frozenset[int] = frozenset()
    mixes: frozenset[int] = frozenset()
    blocks: frozenset[int] = frozenset()
    scores: bool = False

    def __or__(self, other: Looks) -> Looks:
        """Return what is done by either."""
        return Looks(
            self.candidates | other.candidates,
            self.mixes | other.mixes,
            self.blocks | other.blocks,
            self.scores or other.scores,
        )


def any_length(most: int | None = None) -> tuple[int, ...]:
    """Return numbers of rows that get every tile that any number up to `most` gets."""
    if most is not None and most <= EACH:
        return tuple(range(1, most + 1))
    return (*range(1, EACH + 1), *range(EACH, (most or MOST) + 1, STEP))


def kernels(
    sizes: Sizes,
    forwards: Iterable[Rows],
    heads: Iterable[HeadRows],
    target: Target,
    looks: Looks,
) -> tuple[Launchable, ...]:
    """Return the kernels of forwards, heads, what stays of rows, and of `looks`, each once.

    Kernels with an adapter are among them, and those of a layer or a model that has none.
    """
    found: dict[object, Launchable] = {}
    heads = tuple(heads)
    moving = moved.launchable(sizes.heads, sizes.dtype, target)
    of_layers, of_heads = _layers(sizes, forwards, target), _heads(sizes, heads, target)
    looks |= Looks(scores=any(each.scored for each in heads))
    of_logits = _looking(sizes.head, looks, target), _samplers(sizes, looks.blocks, target)
    for each in (moving, *of_layers, *of_heads, *chain(*of_logits)):
        found.setdefault(_identity(each), each)
    return tuple(found.values())


def _identity(kernel: Launchable) -> object:
    """Return what is the same of kernels that are one."""
    parts = (kernel.signature, kernel.constants, kernel.options)
    return (kernel.kernel, *(tuple(part.items()) for part in parts))


def _layers(sizes: Sizes, forwards: Iterable[Rows], target: Target) -> Iterator[Launchable]:
    plain: set[int] = set()
    adapted: set[int] = set()
    for each in forwards:
        yield from _attention(sizes, each, target)
        plain.update(each.totals)
        if each.adapted and sizes.adapter:
            adapted.update(each.totals)
    for rows in sorted(plain):
        yield from _layer(sizes, (), rows, target)
    for rows in sorted(adapted):
        yield from _layer(sizes, sizes.adapter, rows, target)


def _attention(sizes: Sizes, forwards: Rows, target: Target) -> Iterator[Launchable]:
    heads, dtype = sizes.heads, sizes.dtype
    group = heads.query // heads.kv
    known = tiles_for(heads.dim, dtype.itemsize)
    tiles: dict[Tile, None] = {}
    for count in forwards.counts:
        tiles[next((one for one in known if one.lines >= count * group), known[-1])] = None
    for tile in tiles:
        for partial in (True, False) if tile.whole else (True,):
            yield attention.launchable(
                forwards.predicate, dtype, group, heads.dim, tile, target,
                sees_prefix=forwards.sees_prefix, partial=partial, upcast=dtype == torch.float32,
                asks_prompt=forwards.asks_prompt,
            )  # fmt: skip
    for chunks in (True, False):
        yield attention.merging(dtype, heads.query, group, heads.dim, target, chunks=chunks)


def _layer(
    sizes: Sizes, modules: tuple[tuple[str, LowRank], ...], rows: int, target: Target
) -> Iterator[Launchable]:
    """Yield the kernels of a layer but attention, of so many rows, and of an adapter's modules."""
    adapter = {name for name, _ in modules}
    dtype, hidden, mlp = sizes.dtype, sizes.hidden, sizes.gate.out
    parts: dict[str, set[int]] = {}
    for name, shape in ((QKV, sizes.qkv), (OUTPUT, sizes.output), (DOWN, sizes.down)):
        kernel, count = _product(shape, rows, target)
        yield kernel
        parts[name] = {count}
        if _library(shape, rows, min(shape.span, shape.width), target):
            yield _product(shape, rounded(rows), target)[0]  # what the library is held against
            parts[name].add(1)
    for count in parts[QKV]:
        yield rotary.launchable(sizes.heads, count, dtype, target, adapted=QKV in adapter)
    yield summed.launchable(hidden, 0, dtype, target, adapted=False, normed=True)
    for name, kinds in ((OUTPUT, (True,)), (DOWN, (True, False))):
        for count in parts[name]:
            for normed in kinds:
                yield summed.launchable(
                    hidden, count, dtype, target, adapted=name in adapter, normed=normed
                )
    yield _gated(sizes.gate, rows, target, adapted=GATED in adapter)
    if _library(sizes.gate, rows, sizes.gate.width, target):
        whole = Shape(mlp, sizes.gate.width, sizes.gate.stride, dtype, whole=True)
        yield _product(whole, rounded(rows), target)[0]
        yield _gated(sizes.gate, rounded(rows), target, adapted=False)
        for adapted in {False, GATED in adapter}:
            yield gated.activating(mlp, dtype, target, adapted=adapted)
    for _, low in modules:
        kernel, count = _product(Shape(low.ranks, low.width, low.width, dtype), rows, target)
        yield kernel
        size = low_rank.row_tile(rows, count)
        yield low_rank.launchable(low.rank, low.ranks, low.columns, count, size, dtype, target)


def _heads(sizes: Sizes, heads: Iterable[HeadRows], target: Target) -> Iterator[Launchable]:
    """Yield the kernels of heads, and those that choose of their logits, where somebody asks for
    these: who is filtered, has a thinking budget, or has chosen of a mix.
    """
    shape = sizes.head
    for each in sorted(set(heads), key=astuple):
        for asked in each.asked:
            tile = head.head_tile(each.rows, shape, target, asked)
            yield head.launchable(shape, tile, target, asked, once=each.rows <= tile.height)
            if asked.token or asked.measures:
                yield merging(-(-shape.out // tile.features), target, asked)
        yield filtered.launchable(shape.out, shape.dtype, target)
        for asked in ASKED:
            if asked.token:
                yield from _scanning(shape, target, asked)


def _looking(shape: Shape, looks: Looks, target: Target) -> Iterator[Launchable]:
    """Yield the kernels that look at logits which are there."""
    vocabulary, dtype = shape.out, shape.dtype
    for count in sorted(looks.candidates):
        yield from candidates.launchables(vocabulary, count, dtype, target)
    for parts in sorted(looks.mixes):
        yield mixed.launchable(vocabulary, parts, dtype, target)
    for asked in MEASURED if looks.scores else ():
        yield from _scanning(shape, target, asked)


def _scanning(shape: Shape, target: Target, asked: Asked) -> Iterator[Launchable]:
    kernel = scanned.launchable(shape.out, shape.dtype, target, asked)
    yield kernel
    yield merging(-(-shape.out // kernel.constants["FEATURES"]), target, asked)


def _samplers(sizes: Sizes, blocks: Iterable[int], target: Target) -> Iterator[Launchable]:
    """Yield the kernels of samplers that are asked of blocks of so many rows, but of wide ones."""
    out, dtype, tiles = sizes.head.out, sizes.dtype, sorted({*map(safety.row_tile, blocks)})
    for each in filter(safety.fits, sizes.samplers) if tiles else ():
        yield from candidates.launchables(out, each.top, dtype, target)
        yield from features.launchables(out, each.top, dtype, target)
        for rows in tiles:
            yield safety.launchable(each.width, each.heads, each.top, rows, target)


def _product(shape: Shape, rows: int, target: Target) -> tuple[Launchable, int]:
    """Return the kernel, and how many parts it leaves."""
    tile = product.tile_of(rows, shape, target)
    kernel = product.launchable(shape, tile, target, once=rows <= tile.height)
    return kernel, shape.segments if tile.apart else 1


def _gated(shape: Shape, rows: int, target: Target, *, adapted: bool) -> Launchable:
    tile = gated.gated_tile(rows, shape, target, adapted=adapted)
    return gated.launchable(shape, tile, target, once=rows <= tile.height, adapted=adapted)


def _library(shape: Shape, rows: int, span: int, target: Target) -> bool:
    """Whether the device's library is tried for so many rows."""
    return target.arch is not None and is_worth_it(rows, span, shape.dtype)
