"""How long it takes to look at logits that are there: to choose of them, and to score them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from timing import VOCABULARY, Case, drawn, main

from nldc.runtime.kernels.asked import Asked
from nldc.runtime.kernels.launchable import Target
from nldc.runtime.kernels.noise import Noise
from nldc.runtime.kernels.scanned import scanned

ASKED = {
    "greedy": Asked(token=True),
    "sampled": Asked(token=True, noisy=True),
    "scored": Asked(measures=True),
    "scored, tokens given": Asked(measures=True, given=True),
}


def cases(rows: int, dtype: torch.dtype, device: torch.device) -> Iterator[Case]:
    target = Target.of(device)
    logits = drawn(rows, VOCABULARY, dtype=dtype, device=device)
    one, positions = (torch.arange(count, device=device) for count in (1, rows))
    noise = Noise(positions, one, one, one.double() + 1)
    for name, asked in ASKED.items():
        yield Case(
            f"scan, {name}",
            rows,
            logits.nbytes,
            1,
            lambda _, asked=asked: scanned(
                logits.unsqueeze(0),
                asked,
                target,
                noise if asked.noisy else None,
                given=positions if asked.given else None,
            ),
        )


if __name__ == "__main__":
    main(cases)
