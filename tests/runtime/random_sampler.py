"""A trained sampler of random weights, whose states neither fade nor grow from layer to layer."""

from __future__ import annotations

import torch
from torch import Tensor

from nldc.runtime.checkpoint.sampler import SamplerShape, SamplerWeights
from nldc.runtime.reference.sampler import features, reference


def random_sampler(shape: SamplerShape, device: torch.device | None = None) -> SamplerWeights:
    """Return weights of a shape, of norms about 1 and of other matrices by how long a sum is."""
    generator = torch.Generator().manual_seed(sum(vars(shape).values()))
    found = {}
    for name, size in shape.tensors().items():
        drawn = torch.randn(size, generator=generator)
        scale = 1.5 / size[-1] ** 0.5 if len(size) > 1 else 0.1
        found[name] = (drawn * scale + (len(size) == 1)).to(device or torch.device("cpu"))
    return SamplerWeights(shape, found)


def drawn_block(
    batch: int, rows: int, vocabulary: int, share: float = 0.6
) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits [batch, rows, vocabulary], tokens, and which rows are masked, by their share.

    Tokens and masked rows are columns of wider tables, and begin where they do.
    """
    generator = torch.Generator().manual_seed(batch * 1000 + rows)
    logits = torch.randn(batch, rows, vocabulary, generator=generator) * 3
    tokens = torch.randint(vocabulary, (batch, rows + 3), generator=generator)
    masked = torch.rand(batch, 2 * rows + 1, generator=generator) < share
    return logits, tokens[:, 3:], masked[:, 1::2]


def exact(
    weights: SamplerWeights, logits: Tensor, tokens: Tensor, masked: Tensor, mask_token: int
) -> Tensor:
    """Return what the definition says of the safety of rows, float64 [batch, rows]."""
    tensors = {name: tensor.double() for name, tensor in weights.tensors.items()}
    x = features(logits, tokens, masked, mask_token, weights.shape.top).double()
    return reference(weights.shape, tensors, x).sigmoid()
