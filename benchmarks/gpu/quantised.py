"""How long products with weights of 8 and 4 bits take, each beside its own floor.

The floor is what their bytes take, scales and all. benchmarks/gpu/product.py and gated.py have the
same products of 16 bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from timing import DIM, HEADS, HIDDEN, KV_HEADS, MLP, VOCABULARY, Case, copies_of, main

from nldc.runtime.invariant.interleaved import interleaved, lanes_of
from nldc.runtime.invariant.quantised import Quantised
from nldc.runtime.kernels.asked import Asked
from nldc.runtime.kernels.gated import gated
from nldc.runtime.kernels.head import head
from nldc.runtime.kernels.launchable import Target
from nldc.runtime.kernels.product import Matrix, product

KINDS = (
    ("int8", 8, 0, False, False),
    ("int8 of 128", 8, 128, False, False),
    ("fp8", 8, 0, False, True),
    ("int4 of 128", 4, 128, False, False),
    ("int4 of 32", 4, 32, False, False),
    ("int4 of 32, shift", 4, 32, True, False),
)
"""Bits, group (0: all of a row), whether there is a shift, and whether numbers are floats."""


def drawn(
    out: int, width: int, bits: int, group: int, dtype: torch.dtype, device: torch.device,
    *, shifted: bool, floating: bool = False,
) -> Matrix:  # fmt: skip
    """Return a weight with any numbers."""
    words = torch.randint(
        -(1 << 31), 1 << 31, (out, width * bits // 32), dtype=torch.int32, device=device
    )
    scale = torch.rand(out, width // (group or width), device=device).div_(8 << bits)
    shift = scale * -(1 << (bits - 1)) if shifted else None
    if floating:
        words &= ~0x40404040  # floats below 2: none is NaN
    whole = Quantised(words, scale.bfloat16(), shift, bits, (out, width), dtype, floating)
    return Matrix.of_numbers(interleaved(whole, lanes_of(whole) or 0))


def bytes_of(weight: Matrix) -> int:
    """Return how many bytes a product reads of a weight."""
    own = weight.quantised
    assert own is not None
    return sum(part.nbytes for part in (own.words, own.scale, own.offset) if part is not None)


def cases(rows: int, dtype: torch.dtype, device: torch.device) -> Iterator[Case]:
    target = Target.of(device)

    def weights(
        one: Callable[[int, int], Matrix], out: int, width: int, least: int = 1
    ) -> list[Matrix]:
        first = one(out, width)
        more = max(least, copies_of(bytes_of(first))) - 1
        return [first, *(one(out, width) for _ in range(more))]

    narrow, wide = (torch.randn(rows, width, device=device).to(dtype) for width in (HIDDEN, MLP))
    for kind, bits, group, shifted, floating in KINDS:
        given: dict[str, Any] = {"bits": bits, "group": group, "dtype": dtype, "device": device}
        one = partial(drawn, **given, shifted=shifted, floating=floating)
        for name, out, x in (
            ("query, key, value", (HEADS + 2 * KV_HEADS) * DIM, narrow),
            ("down", HIDDEN, wide),
        ):
            own = weights(one, out, x.shape[1])
            yield Case(
                f"{name}, {kind}",
                rows,
                bytes_of(own[0]),
                len(own),
                lambda copy, x=x, w=own: product(x, w[copy], target),
            )
        own = weights(one, MLP, HIDDEN, 4)
        pairs = list(zip(own[::2], own[1::2], strict=False))
        yield Case(
            f"gate, up, {kind}",
            rows,
            2 * bytes_of(own[0]),
            len(pairs),
            lambda copy, w=pairs: gated(narrow, *w[copy], target),
        )
        if not group and not floating:  # as `nldc quantize` leaves a head
            whole = one(VOCABULARY, HIDDEN)
            yield Case(
                f"head, greedy, {kind}",
                rows,
                bytes_of(whole),
                1,
                lambda _, w=whole: head(narrow, w, Asked(token=True), target),
            )


if __name__ == "__main__":
    main(cases)
