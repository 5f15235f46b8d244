"""Products of many rows by the device's own library, where it gives the bits of the kernels.

A sum of terms that are added in their order has one result, whoever adds them. The library's
products of long segments do add in order, and for many rows they are quicker than ours; but how
they go about it depends on the number of rows, and nothing promises it. So each number is tried
once, before it is first used: by the weights that are asked for, on rows drawn for it, value by
value. What differs is left to the kernels, and so is whatever is too small to be worth it, or
quantised.

Numbers of rows are rounded up, so that there are few of them to try.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from nldc.runtime.kernels.gated import activated, gated
from nldc.runtime.kernels.launchable import Target
from nldc.runtime.kernels.low_rank import Delta
from nldc.runtime.kernels.product import Matrix, product

LEAST_ROWS = 192
"""Rows from which on the library is asked: below, weights are read in the same time by anyone."""
LEAST_SPAN = 2048
"""Terms of a segment from which on it is asked: it takes a call for each."""
FINE, COARSE = 16, 64
"""Of what the number of rows is made a multiple: up to `MANY` rows, and above."""
MANY = 512

Sums = Callable[[Tensor, Matrix, int], Tensor]
"""Multiplies rows with a weight, segment by segment of so many terms: float32 [rows, out]."""


def library_sums(x: Tensor, weight: Matrix, span: int) -> Tensor:
    """Return x @ weight.T, float32 [rows, out]: the sums of segments of `span` terms, in order."""
    data = weight.data[:, : weight.width]
    total = torch.mm(x[:, :span], data[:, :span].T, out_dtype=torch.float32)
    for first in range(span, weight.width, span):
        own = slice(first, first + span)
        total = torch.addmm(total, x[:, own], data[:, own].T, out_dtype=torch.float32)
    return total


class Products:
    """The products of one backend: by the kernels, or by the library where that was seen to hold.

    `library` None: there is none.
    """

    def __init__(self, target: Target, library: Sums | None = None) -> None:
        self.target = target
        self._library = library
        self._held: dict[tuple[object, ...], bool] = {}

    @staticmethod
    def on(target: Target) -> Products:
        """Return the products of a device; CUDA's library is known to add in order."""
        return Products(target, None if target.arch is None else library_sums)

    def product(self, x: Tensor, weight: Matrix) -> Tensor:
        """See `product.product`."""
        library, span = self._library, min(weight.shape.span, weight.width)
        if library is not None and weight.quantised is None and is_worth_it(len(x), span, x.dtype):
            rows = rounded(len(x))

            def holds() -> bool:
                own = _drawn(rows, x)
                return _equal(library(own, weight, span), product(own, weight, self.target))

            if self._holds((weight.shape, rows), holds):
                return library(_filled(x, rows), weight, span)[: len(x)].unsqueeze(0)
        return product(x, weight, self.target)

    def gated(self, x: Tensor, gate: Matrix, up: Matrix, beside: Delta | None = None) -> Tensor:
        """See `gated.gated`."""
        library, width = self._library, gate.width
        if gate.shape != up.shape:  # quantised, but not alike
            opened, raised = (product(x, replace(one, whole=True), self.target)[0]
                              for one in (gate, up))  # fmt: skip
            return activated(opened, raised, len(x), x.dtype, self.target, beside)
        if library is not None and gate.quantised is None and is_worth_it(len(x), width, x.dtype):
            rows = rounded(len(x))

            def found(own: Tensor, beside: Delta | None) -> Tensor:
                filled = _filled(own, rows)
                opened, raised = (library(filled, one, width) for one in (gate, up))
                return activated(opened, raised, len(own), x.dtype, self.target, beside)

            def holds() -> bool:
                own, whole = _drawn(rows, x), replace(gate, whole=True)
                parts = product(own, whole, self.target)
                if not _equal(library(own, whole, width), parts):  # rounding would hide some
                    return False
                return torch.equal(found(own, None), gated(own, gate, up, self.target))

            if self._holds((gate.shape, up.shape, rows), holds):
                return found(x, beside)
        return gated(x, gate, up, self.target, beside)

    def _holds(self, key: tuple[object, ...], trial: Callable[[], bool]) -> bool:
        """Whether the library has the kernels' bits; asked for the first time, it is tried."""
        known = self._held.get(key)
        if known is None:
            known = self._held[key] = trial()
        return known


def is_worth_it(rows: int, span: int, dtype: torch.dtype) -> bool:
    """Whether the library is asked for a product of so many rows in segments of `span` terms."""
    return rows >= LEAST_ROWS and span >= LEAST_SPAN and dtype != torch.float32


def rounded(rows: int) -> int:
    """Return the number of rows that is tried, and computed, in place of so many."""
    step = FINE if rows <= MANY else COARSE
    return -(-rows // step) * step


def _filled(x: Tensor, rows: int) -> Tensor:
    return x if len(x) == rows else F.pad(x, (0, 0, 0, rows - len(x)))


def _drawn(rows: int, like: Tensor) -> Tensor:
    generator = torch.Generator(like.device).manual_seed(rows)
    drawn = torch.randn(rows, like.shape[1], generator=generator, device=like.device)
    return drawn.to(like.dtype)


def _equal(total: Tensor, parts: Tensor) -> bool:
    """Whether the sum of parts, in order, is `total`."""
    whole = torch.zeros_like(total)
    for part in parts:
        whole += part
    return torch.equal(whole, total)
