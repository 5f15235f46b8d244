"""How long the gated product of an MLP takes."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from timing import HIDDEN, MLP, Case, copies_of, drawn, main

from nldc.runtime.kernels.gated import gated
from nldc.runtime.kernels.launchable import Target
from nldc.runtime.kernels.product import Matrix


def cases(rows: int, dtype: torch.dtype, device: torch.device) -> Iterator[Case]:
    target = Target.of(device)
    size = 2 * MLP * HIDDEN * dtype.itemsize
    copies = copies_of(size)
    data = drawn(copies, 2, MLP, HIDDEN, dtype=dtype, device=device)
    pairs = [[Matrix(one, MLP, HIDDEN) for one in pair] for pair in data]
    x = drawn(rows, HIDDEN, dtype=dtype, device=device)
    yield Case("gate, up", rows, size, copies, lambda copy: gated(x, *pairs[copy], target))


if __name__ == "__main__":
    main(cases)
