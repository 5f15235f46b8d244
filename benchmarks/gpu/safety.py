"""How long a trained sampler takes of the shape that `nldc train sampler` gives one, and of one
twice as wide: by kernels, and by torch. The floor is that of its logits alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from timing import VOCABULARY, Case, drawn, main

from nldc.runtime.checkpoint.sampler import SamplerShape, SamplerWeights
from nldc.runtime.kernels.launchable import Target
from nldc.runtime.kernels.safety import Network, safety
from nldc.runtime.model.sampler import Sampler


def cases(rows: int, dtype: torch.dtype, device: torch.device) -> Iterator[Case]:
    target = Target.of(device)
    logits = drawn(1, rows, VOCABULARY, dtype=dtype, device=device) * 200
    tokens = torch.zeros(1, rows, dtype=torch.int64, device=device)
    masked = torch.ones(1, rows, dtype=torch.bool, device=device)
    for width in (64, 128):
        shape = SamplerShape(width=width, rows=rows)
        tensors = {
            name: drawn(*size, dtype=torch.float32, device=device)
            for name, size in shape.tensors().items()
        }
        weights = SamplerWeights(shape, tensors)
        network, sampler = Network.of(weights), Sampler(weights)

        def by_kernels(_: int, network: Network = network) -> object:
            return safety(logits, tokens, masked, 0, network, target)

        def by_torch(_: int, sampler: Sampler = sampler) -> object:
            return sampler(logits, tokens, masked, 0)

        for name, call in (("kernels", by_kernels), ("torch", by_torch)):
            yield Case(f"safety {width} by {name}", rows, logits.nbytes, 2, call)


if __name__ == "__main__":
    main(cases)
