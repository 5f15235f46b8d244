"""How long products with weights of 8 and 4 bits take, each beside its own floor.

The floor is what their bytes take, scales and all. benchmarks/gpu/product.py and gated.py have the
same products of 16 bits.
"""

from __future__ import annotations

from collections.abc import Iterator

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
    ("int8", 8, 0, False),
    ("int8 of 128", 8, 128, False),
    ("int4 of 128", 4, 128, False),
    ("int4 of 32", 4, 32, False),
    ("int4 of 32, shift", 4, 32, True),
)
"""Bits, group (0: all of a row), and whether there is a shift."""


def drawn(
    out: int, width: int, bits: int, group: int, dtype: torch.dtype, device: torch.device,
    *, shifted: bool,
) -> Matrix:  # fmt: skip
    """Return a weight with any numbers."""
    words = torch.randint(
        -(1 << 31), 1 << 31, (out, width * bits // 32), dtype=torch.int32, device=device
    )
    scale = torch.rand(out, width // (group or width), device=device).div_(8 << bits)
    shift = scale * -(1 << (bits - 1)) if shifted else None
    whole = Quantised(words, scale.bfloat16(), shift, bits, (out, width), dtype)
    return Matrix.of_numbers(interleaved(whole, lanes_of(whole) or 0))


def bytes_of(weight: Matrix) -> int:
    """Return how many bytes a product reads of a weight."""
    own = weight.quantised
    assert own is not None
    return sum(part.nbytes for part in (own.words, own.scale, own.offset) if part is not None)


def cases(rows: int, dtype: torch.dtype, device: torch.device) -> Iterator[Case]:
    target = Target.of(device)

    def weights(out: int, width: int, least: int = 1) -> list[Matrix]:
        first = drawn(out, width, bits, group, dtype, device, shifted=shifted)
        more = max(least, copies_of(bytes_of(first))) - 1
        rest = (drawn(out, width, bits, group, dtype, device, shifted=shifted) for _ in range(more))
        return [first, *rest]

    narrow, wide = (torch.randn(rows, width, device=device).to(dtype) for width in (HIDDEN, MLP))
    for kind, bits, group, shifted in KINDS:
        for name, out, x in (
            ("query, key, value", (HEADS + 2 * KV_HEADS) * DIM, narrow),
            ("down", HIDDEN, wide),
        ):
            own = weights(out, x.shape[1])
            yield Case(
                f"{name}, {kind}",
                rows,
                bytes_of(own[0]),
                len(own),
                lambda copy, x=x, w=own: product(x, w[copy], target),
            )
        own = weights(MLP, HIDDEN, 4)
        pairs = list(zip(own[::2], own[1::2], strict=False))
        yield Case(
            f"gate, up, {kind}",
            rows,
            2 * bytes_of(own[0]),
            len(pairs),
            lambda copy, w=pairs: gated(narrow, *w[copy], target),
        )
        if not group:  # as `nldc quantize` leaves a head
            whole = drawn(VOCABULARY, HIDDEN, bits, group, dtype, device, shifted=shifted)
            yield Case(
                f"head, greedy, {kind}",
                rows,
                bytes_of(whole),
                1,
                lambda _, w=whole: head(narrow, w, Asked(token=True), target),
            )


if __name__ == "__main__":
    main(cases)
