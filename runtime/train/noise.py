"""The noisy stream: which tokens a training sequence hides, in blocks like those the drafters see.

Three kinds of block are drawn (the paper, NLD, has the first only):

* uniform: a ratio drawn uniformly for the block, every token hidden with that probability: what a
  denoising loop meets half-way;
* first known: the first token stays, all others are hidden: the draft of linear self-speculation;
* whole: every token is hidden: the mask groups of quadratic self-speculation, whose first mask
stands
  right behind verified tokens.

Each sequence has its own block length and its own offset, so that no position in a sequence is
always the beginning of a block.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

UNIFORM, FIRST_KNOWN, WHOLE = 0, 1, 2


@dataclass(frozen=True)
class NoiseLaw:
    """How often each block length and each kind of block is drawn; weights need not sum to 1."""

    block_lengths: tuple[int, ...] = (8, 16, 32)
    length_weights: tuple[float, ...] = (1.0, 2.0, 1.0)
    kind_weights: tuple[float, float, float] = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Noise:
    """Noise for a batch.

    Attributes:
        masked: bool (B, S), True where the noisy stream holds the mask token.
        block: int64 (B, S), the number of the block a position belongs to, from 0, ascending.
        kind: int64 (B, S), the kind of that block.
    """

    masked: Tensor
    block: Tensor
    kind: Tensor


def draw_noise(law: NoiseLaw, batch: int, length: int, generator: torch.Generator) -> Noise:
    """Draw noise for `batch` sequences of `length` tokens; every draw comes from `generator`."""
    choice = torch.multinomial(
        torch.tensor(law.length_weights), batch, replacement=True, generator=generator
    )
    lengths = torch.tensor(law.block_lengths)[choice][:, None]
    shift = (torch.rand(batch, 1, generator=generator) * lengths).long()
    at = torch.arange(length)[None, :]
    block = (at + shift) // lengths
    first = ((at + shift) % lengths == 0) | (at == 0)

    blocks = length // min(law.block_lengths) + 2
    kinds = torch.multinomial(
        torch.tensor(law.kind_weights), batch * blocks, replacement=True, generator=generator
    ).view(batch, blocks)
    ratios = torch.rand(batch, blocks, generator=generator)
    kind, ratio = kinds.gather(1, block), ratios.gather(1, block)
    coin = torch.rand(batch, length, generator=generator) < ratio
    masked = torch.where(kind == UNIFORM, coin, (kind == WHOLE) | ~first)
    return Noise(masked, block, kind)
