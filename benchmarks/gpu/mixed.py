"""How long a weighted sum of logits takes, and as long as torch takes for it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from timing import VOCABULARY, Case, drawn, main

from nldc.runtime.kernels.launchable import Target
from nldc.runtime.kernels.mixed import mixed
from nldc.runtime.model import scores

WEIGHTS = (0.5, 0.3, 0.2)


def cases(rows: int, dtype: torch.dtype, device: torch.device) -> Iterator[Case]:
    target = Target.of(device)
    whole = drawn(len(WEIGHTS) * rows, VOCABULARY, dtype=dtype, device=device)
    for count in (2, 3):
        parts, weights = whole.view(-1, 1, rows, VOCABULARY)[:count], WEIGHTS[:count]
        moved = (count + 1) * parts[0].nbytes
        for name, call in (
            ("mix", lambda p=parts, w=weights: mixed(tuple(p), w, target)),
            ("torch's", lambda p=parts, w=weights: scores.mixed(tuple(p), w)),
        ):
            yield Case(f"{name}, {count} parts", rows, moved, 1, lambda _, call=call: call())


if __name__ == "__main__":
    main(cases)
