"""How long the head takes: greedy, sampled, measured, and as logits."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from timing import HIDDEN, VOCABULARY, Case, drawn, main

from nldc.runtime.kernels.head import Asked, Noise, head
from nldc.runtime.kernels.launchable import Target
from nldc.runtime.kernels.product import Matrix

ASKED = {
    "greedy": Asked(token=True),
    "sampled": Asked(token=True, noisy=True),
    "measured": Asked(token=True, measures=True),
    "logits": Asked(logits=True),
}


def cases(rows: int, dtype: torch.dtype, device: torch.device) -> Iterator[Case]:
    target = Target.of(device)
    data = drawn(VOCABULARY, HIDDEN, dtype=dtype, device=device)
    weight, x = Matrix(data, VOCABULARY, HIDDEN), drawn(rows, HIDDEN, dtype=dtype, device=device)
    one = torch.ones(1, dtype=torch.int64, device=device)
    noise = Noise(torch.arange(rows, device=device), one, one, one.double())
    for name, asked in ASKED.items():
        yield Case(
            f"head, {name}",
            rows,
            data.nbytes,
            1,
            lambda _, asked=asked: head(x, weight, asked, target, noise if asked.noisy else None),
        )


if __name__ == "__main__":
    main(cases)
