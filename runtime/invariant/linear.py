"""The product of rows with a weight matrix; the policy of how rows are grouped lives here.

Self-speculation is exact only if a row's product does not depend on how many rows are computed with
it, and a library's product takes another way, with another order of sums, for 1, for 4 and for 300
rows. There are ways around that, some quicker than others (`Way`), and which of them hold depends
on the shape, the dtype and the machine. So `pack` tries them here and now, quickest first, and
takes the first under which rows are bitwise the same in any company. benchmarks/README.md has the
price of each.

A library also looks at where a row lies in memory. Rows therefore always begin at a whole cache
line, and where no packed form is made they are padded to whole lines, weights with them: then every
row of every product lies as every other.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from nldc.runtime.invariant.blocked import Blocked
from nldc.runtime.invariant.interleaved import Interleaved
from nldc.runtime.invariant.quantised import Quantised
from nldc.runtime.invariant.quantised_product import QuantisedProduct

EXPECTED_ROWS = 256
"""The number of rows that a library's packed form is made for; any number works."""

COUNTS = (1, 2, 3, 4, 7, 8, 15, 16, 17, 31, 32, 33, 64, 100, 272)
"""Numbers of rows that are tried."""

LINE = 64
"""Bytes of a cache line; torch's own memory begins at one."""


@dataclass(frozen=True)
class Way:
    """How a product is computed.

    `form` is the weight as it is, or packed by MKL or oneDNN. `twice`: a lone row is computed
    twice, where it alone is treated differently. `tile`: every product has exactly that many rows,
    0 for as many as there are.
    """

    form: Literal["plain", "mkl", "onednn"] = "plain"
    twice: bool = False
    tile: int = 0

    def __str__(self) -> str:
        rows = f", {self.tile} rows at a time" if self.tile else ""
        return self.form + rows + (", a lone row twice" if self.twice else "")


@dataclass(frozen=True, eq=False)
class Packed:
    """A weight of `shape` [out, in] in the form that its `way` computes with.

    `shaped` has that shape and takes no memory: MKL's product asks for it. In tiles of the plain
    form, `data` is [out, in rounded up to whole lines].
    """

    data: Tensor
    shaped: Tensor
    way: Way

    def to_dense(self) -> Tensor:
        """Return the weight as a plain tensor."""
        width = self.shaped.shape[1]
        unit = torch.eye(width, dtype=self.shaped.dtype, device=self.shaped.device)
        return linear(unit, self).T


@dataclass(frozen=True, eq=False)
class Stacked:
    """Weights of one width, one below the other, that do not lie so: each has its own product."""

    parts: tuple[Packed, ...]

    def to_dense(self) -> Tensor:
        """Return the weight as a plain tensor."""
        return torch.cat([part.to_dense() for part in self.parts])


Weight: TypeAlias = Tensor | Packed | Stacked | Quantised | QuantisedProduct | Interleaved | Blocked
"""A weight in any form. What is `Quantised` gets the form of its products in `quantised_ways`."""


def pack(weight: Weight) -> Weight:
    """Return a plain `weight` [out, in] in the form that `linear` computes with, in the way found
    best; any other as it is.
    """
    if not isinstance(weight, Tensor):
        return weight
    out, width = weight.shape
    return formed(weight, choose(out, width, weight.dtype, weight.device, torch.get_num_threads()))


def formed(weight: Tensor, way: Way) -> Packed:
    """Return `weight` [out, in] in the form of that way."""
    shaped = weight.new_empty(1).expand(weight.shape)
    rows = way.tile or EXPECTED_ROWS
    if way.form == "mkl":
        data = torch.ops.mkl._mkl_reorder_linear_weight(weight.contiguous(), rows)
    elif way.form == "onednn":
        data = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), rows)
    elif way.tile:
        data = at_a_line(_in_whole_lines(weight))
    else:
        data = weight
    return Packed(data, shaped, way)


def at_a_line(x: Tensor) -> Tensor:
    """Return `x`, or a copy if it has gaps or does not begin at a whole cache line."""
    if not x.is_contiguous():
        return x.contiguous()
    return x.clone() if x.data_ptr() % LINE else x


def _in_whole_lines(x: Tensor, rows: int = 0) -> Tensor:
    """Return `x` [n, width], its width filled up with zeros, and so many rows of zeros behind."""
    wider = -x.shape[1] % (LINE // x.element_size())
    return F.pad(x, (0, wider, 0, rows)) if wider or rows else x


def linear(x: Tensor, weight: Weight) -> Tensor:
    """Return `x @ weight.T`: rows [n, in], weight [out, in] or packed, result [n, out].

    With a packed weight, a row of the result depends on the same row of `x` alone, bit for bit.
    """
    if isinstance(weight, Tensor):
        return F.linear(x, weight)
    if isinstance(weight, QuantisedProduct):
        return weight.product(at_a_line(x))
    if isinstance(weight, Quantised | Interleaved | Blocked):
        return F.linear(x, weight.to_dense())
    if isinstance(weight, Stacked):
        return torch.cat([linear(x, part) for part in weight.parts], 1)
    way, rows, x = weight.way, x.shape[0], at_a_line(x)
    if way.tile:
        short = -rows % way.tile
        if way.form == "plain":
            x = _in_whole_lines(x, short)
        elif short:
            x = F.pad(x, (0, 0, 0, short))
        tiles = torch.split(x, way.tile)
        found = [_product(tile, weight) for tile in tiles]
        return (found[0] if len(found) == 1 else torch.cat(found))[:rows]
    if way.twice and rows == 1:
        return _product(torch.cat((x, x)), weight)[:1]
    return _product(x, weight)


def _product(x: Tensor, weight: Packed) -> Tensor:
    product: Tensor
    form = weight.way.form
    if form == "mkl":
        product = _library_call(form)(x, weight.data, weight.shaped, None, x.shape[0])
    elif form == "onednn":
        product = _library_call(form)(x, weight.data, None, "none", [], "")
    else:
        product = F.linear(x, weight.data)
    return product


@cache
def _library_call(form: Literal["mkl", "onednn"]) -> Callable[..., Tensor]:
    """Return the call of a library's product: looked up among torch's overloads once, not a row."""
    call: Callable[..., Tensor]
    if form == "mkl":
        call = torch.ops.mkl._mkl_linear.default
    else:
        call = torch.ops.mkldnn._linear_pointwise.default
    return call


def ways(dtype: torch.dtype, device: torch.device) -> Iterator[Way]:
    """Yield the ways to try, quickest first; the last should hold anywhere."""
    if device.type != "cpu":
        # Below some 200 rows a product takes the time in which its weight is read.
        yield Way(tile=128)
        return
    if dtype == torch.float32 and torch._C.has_mkl:
        yield Way("mkl")
        yield Way("mkl", twice=True)
    if onednn_has(dtype):
        yield Way("onednn")
        yield Way("onednn", twice=True)
        yield Way("onednn", tile=32)
    yield Way(tile=16)


def onednn_has(dtype: torch.dtype) -> bool:
    """Whether oneDNN computes products of this dtype on this machine."""
    if not torch._C._has_mkldnn:
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if dtype == torch.float16:
        return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
    return dtype == torch.float32


@cache
def choose(out: int, width: int, dtype: torch.dtype, device: torch.device, threads: int) -> Way:
    """Return the quickest way that holds for weights [out, in].

    What is found is true of so many `threads`.
    """
    del threads
    weight, rows = cancelling(out, width, dtype, device)
    for way in ways(dtype, device):
        if holds(formed(weight, way), rows):
            return way
    warnings.warn(
        f"no product of {dtype} rows with a weight [{out}, {width}] on {device} was found whose "
        "rows do not depend on the rows beside them: self-speculation may differ from AR",
        stacklevel=3,
    )
    return way


def holds(weight: Packed, rows: Tensor) -> bool:
    """Whether rows [n, in] come out bitwise alike, however many are computed together, and wherever
    in memory they lie.

    Where every product has the shape of one tile, two tiles tell as much as twenty.
    """
    counts = [count for count in COUNTS if not weight.way.tile or count <= 2 * weight.way.tile]
    return rows_agree(lambda some: linear(some, weight), rows, counts)


def rows_agree(product: Callable[[Tensor], Tensor], rows: Tensor, counts: Sequence[int]) -> bool:
    """Whether rows have the same products in companies of so many rows, wherever they lie."""
    rows = rows[: counts[-1] + 8]
    whole = product(rows)
    for count in counts:
        for start, by in _trials(count):
            own = slice(start, start + count)
            if not torch.equal(product(_moved(rows[own], by)), whole[own]):
                return False
    return True


def _trials(count: int) -> Iterator[tuple[int, int]]:
    """Yield from where on so many rows are tried, and how many values they are moved by.

    Fewer, where that takes long. A row should lie otherwise than in the whole at least once, be the
    width odd or even.
    """
    yield 0, 1
    if count < 64:
        yield 5, 0
    if count < 15:
        yield 1, 0
    if count == 1:
        yield from ((start, 0) for start in (0, 2, 3, 4, 6, 7))


def _moved(rows: Tensor, by: int) -> Tensor:
    """Return a copy that begins so many values behind a whole cache line."""
    room = rows.new_empty(rows.numel() + by)
    return room[by:].view(rows.shape).copy_(rows)


def cancelling(
    out: int, width: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return a weight and rows whose exact products are all zero.

    What is computed is then rounding alone, and any other order of its sums shows, even where
    results are rounded to 16 bits, or have the 53 of float64: the values have as many digits.
    """
    generator = torch.Generator().manual_seed(0)
    half = (width + 1) // 2
    order = torch.randperm(width, generator=generator)
    left = torch.randn(min(out, 512), half, generator=generator, dtype=torch.float64)
    given = torch.randn(COUNTS[-1] + 8, half, generator=generator, dtype=torch.float64)
    weight = torch.cat((left, left[:, : width - half]), 1)[:, order]
    if width % 2:
        given[:, -1] = 0
    rows = torch.cat((given, -given[:, : width - half]), 1)[:, order]
    weight = weight.repeat(-(-out // len(weight)), 1)[:out]
    return weight.to(device, dtype), rows.to(device, dtype)
