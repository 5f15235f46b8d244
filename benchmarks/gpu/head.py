"""How long the head takes: greedy, sampled, measured, and as logits; and filters, of those."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from timing import HIDDEN, VOCABULARY, Case, drawn, main

from nldc.runtime.kernels.asked import Asked
from nldc.runtime.kernels.filtered import Filters, filtered
from nldc.runtime.kernels.head import head
from nldc.runtime.kernels.launchable import Target
from nldc.runtime.kernels.noise import Noise
from nldc.runtime.kernels.product import Matrix
from nldc.runtime.step.lineup import Lineup
from nldc.runtime.step.member import Member
from nldc.runtime.step.sampling import Sampling

ASKED = {
    "greedy": Asked(token=True),
    "sampled": Asked(token=True, noisy=True),
    "measured": Asked(token=True, measures=True),
    "sampled, measured": Asked(token=True, noisy=True, measures=True),
    "logits": Asked(logits=True),
}
FILTERS = {
    "top-k": Sampling(1.0, top_k=50),
    "top-p": Sampling(1.0, top_p=0.95),
    "min-p": Sampling(1.0, min_p=0.05),
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
    logits = drawn(rows, VOCABULARY, dtype=dtype, device=device)
    for name, sampling in FILTERS.items():
        drawing = Lineup.of([Member(0, 0, sampling)], 0, device).rules.drawing
        filters = Filters(drawing.top_k, drawing.top_p, drawing.reach)
        yield Case(
            f"filtered, {name}",
            rows,
            logits.nbytes,
            1,
            lambda _, filters=filters: filtered(logits[None], filters, noise, target),
        )


if __name__ == "__main__":
    main(cases)
