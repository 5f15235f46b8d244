"""The noise of the op `noise`: a number in [0, 1) for each row, by which rows are taken at random.

It depends on (seed, sequence, the position that the row predicts, node, round) and on nothing else,
so a run is the same whoever shares a batch. It begins with another number than the noise of a
sampled choice (`sampling.row_keys`) does: a row that is taken says nothing of the token it takes.
Here it is some ninety calls of torch; where a step's ops are noted, it is noted.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nldc.runtime.step.sampling import mixed

START = 0x13198A2E
BITS = 24
"""As many as float32 holds: the numbers are the same wherever they are computed."""


def uniform(
    seeds: Tensor, sequences: Tensor, positions: Tensor, stream: int, iteration: int
) -> Tensor:
    """Return numbers in [0, 1), multiples of 2 ** -24, float32 [B, n].

    `positions` int64 [B, n], `sequences` and `seeds` int64 [B, 1]; `stream` is the node's number.
    """
    key = torch.full_like(positions, START)
    words = (seeds, seeds >> 32, sequences, sequences >> 32, positions, stream, iteration)
    for word in words:
        key = mixed(key.add_(word))
    return (key >> (32 - BITS)).to(torch.float32) * 2.0**-BITS
