"""The choice of a token from a row's logits: greedy, or Gumbel-max with noise keyed by place.

Noise depends on (seed, sequence, absolute position, token id) and on nothing else, so a sampled run
is the same whatever rows share a forward: a verifier draws what AR would have drawn.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nldc.runtime.errors import PromptError

LOWEST_TEMPERATURE = 1e-6
"""Logits divided by less may overflow; a choice at this one is greedy but for exact ties."""

NO_NUMBER, NOTHING_ALLOWED = -1, -2
"""In place of a token: the row's logits are no numbers, or none of them is above -inf.

They go through a strategy as any other token does, as one that no row agrees with but one that is
as broken, so that only a row whose token is emitted ends its sequence, as it would end AR's.
"""

Processor = Callable[[Tensor, Tensor], Tensor]
"""Maps logits [B, n, V] and the positions they predict, int64 [B, n], to logits [B, n, V]."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen; `temperature` 0 is greedy.

    Filters apply in the order top-k, top-p, min-p to logits divided by the temperature; equal
    logits stay or go together. `processors` run first, in greedy decoding too.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    seed: int = 0
    processors: tuple[Processor, ...] = ()

    @property
    def filters(self) -> bool:
        """Whether something may go of what is drawn of; of a greedy choice, nothing does."""
        cuts = self.top_k is not None or (self.top_p is not None and self.top_p < 1)
        return self.temperature > 0 and (cuts or bool(self.min_p))

    def check(self) -> None:
        """Raise PromptError unless every option is in its range."""
        if not _real(self.temperature) or not (
            self.temperature == 0 or self.temperature >= LOWEST_TEMPERATURE
        ):
            raise PromptError(
                f"temperature {self.temperature!r} is not allowed",
                f"use 0 (greedy), or {LOWEST_TEMPERATURE:g} or more",
            )
        if self.top_k is not None and (not _whole(self.top_k) or self.top_k < 1):
            raise PromptError(f"top_k {self.top_k!r} is not allowed", "use a whole number above 0")
        if self.top_p is not None and (not _real(self.top_p) or not 0 < self.top_p <= 1):
            raise PromptError(f"top_p {self.top_p!r} is not allowed", "use a number in (0, 1]")
        if self.min_p is not None and (not _real(self.min_p) or not 0 <= self.min_p <= 1):
            raise PromptError(f"min_p {self.min_p!r} is not allowed", "use a number in [0, 1]")
        if not _whole(self.seed) or not 0 <= self.seed < 2**64:
            raise PromptError(f"seed {self.seed!r} is not allowed", "use 0 to 2**64 - 1")


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _real(value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) <= sys.float_info.max


def choose(logits: Tensor, positions: Tensor, sequences: Tensor, sampling: Sampling) -> Tensor:
    """Return the chosen tokens, int64 [B, n], from logits [B, n, V].

    `positions` int64 [B, n] are those of the chosen tokens, `sequences` int64 [B] the sequences'
    keys. Of equal values the lowest id wins. A row that holds NaN or whose best is infinite gives
    `NO_NUMBER`, one in which everything is -inf `NOTHING_ALLOWED`.
    """
    for processor in sampling.processors:
        logits = processor(logits, positions)
    return draw(logits, positions, sequences, sampling, sampling.seed)


def draw(
    logits: Tensor,
    positions: Tensor,
    sequences: Tensor,
    sampling: Sampling,
    seeds: int | Tensor,
) -> Tensor:
    """Return what `choose` does of logits that have passed the processors.

    `seeds` [B, 1] are in place of the seed, one a sequence, see `row_keys`.
    """
    if sampling.temperature:
        logits = filtered(logits, sampling)
        keys = row_keys(seeds, sequences.unsqueeze(1), positions)
        logits = logits + gumbel(keys, logits.shape[-1])
    return _chosen(logits)


def draw_at(
    logits: Tensor,
    positions: Tensor,
    sequences: Tensor,
    sampling: Sampling,
    seeds: int | Tensor,
    temperatures: Tensor,
) -> Tensor:
    """Return what `draw` does at a temperature of each sequence, float64 [B, 1].

    One below `LOWEST_TEMPERATURE` is greedy. Filters are those of `sampling`, unless it is greedy.
    """
    greedy = temperatures < LOWEST_TEMPERATURE
    by = temperatures.masked_fill(greedy, 1.0).unsqueeze(-1)
    values = filtered(logits, sampling if sampling.temperature else Sampling(), by)
    keys = row_keys(seeds, sequences.unsqueeze(1), positions)
    drawn = _chosen(values + gumbel(keys, values.shape[-1]))
    return torch.where(greedy, _chosen(logits), drawn)


def _chosen(scores: Tensor) -> Tensor:
    """Return the place of the best score, int64 [B, n], or what says that there is none."""
    best = scores.argmax(-1)  # that of a NaN, where there is one
    score = scores.gather(-1, best.unsqueeze(-1)).squeeze(-1)
    best = best.masked_fill(score.isnan() | score.isposinf(), NO_NUMBER)
    return best.masked_fill(score.isneginf(), NOTHING_ALLOWED)


def filtered(logits: Tensor, sampling: Sampling, by: Tensor | None = None) -> Tensor:
    """Return logits over the temperature in float64, -inf where a filter removes the token.

    Top-k and top-p go by the order of logits, which may be equal over a temperature that is beyond
    measure. `by` [B, 1, 1] are in place of the temperature.
    """
    heat = sampling.temperature if by is None else by
    logits = logits.double()
    size = logits.shape[-1]
    if sampling.top_k is not None and sampling.top_k < size:
        least = logits.topk(sampling.top_k, -1).values[..., -1:]
        logits = logits.masked_fill(logits < least, -math.inf)
    if sampling.top_p is not None and sampling.top_p < 1:
        ordered = logits.sort(-1, descending=True).values
        sums = weights(ordered / heat).cumsum(-1).double()
        needed = (sums < sums[..., -1:] * sampling.top_p).sum(-1, keepdim=True).clamp_max(size - 1)
        logits = logits.masked_fill(logits < ordered.gather(-1, needed), -math.inf)
    values = logits / heat
    if sampling.min_p:
        floor = values.amax(-1, keepdim=True) + math.log(sampling.min_p)
        values = values.masked_fill(values < floor, -math.inf)
    return values


UNIT = 2.0**44
"""The weight of a row's best token: half a million of them can be added."""


def weights(ordered: Tensor) -> Tensor:
    """Return whole numbers [..., V] in the proportions of exp of float64 values, the largest first.

    A device adds in an order that depends on the number of rows; whole numbers don't mind. A row
    whose largest value is no number has weights of no meaning.
    """
    return ((ordered - ordered[..., :1]).exp() * UNIT).to(torch.int64)


_MIX = (0x7FEB352D, 0x846CA68B - 2**32)  # lowbias32, by C. Wellons: constants of int32 range
_GOLDEN = 0x9E3779B9
_SALTS = (0x243F6A88, 0x85A308D3)
_LOW = 0xFFFFFFFF


def _scramble(x: Tensor) -> Tensor:
    """Mix int32 bits in place, a bijection: shifts are logical, products wrap around."""
    x ^= (x >> 16) & 0xFFFF
    x *= _MIX[0]
    x ^= (x >> 15) & 0x1FFFF
    x *= _MIX[1]
    x ^= (x >> 16) & 0xFFFF
    return x


def _low(x: Tensor) -> Tensor:
    """Return the low 32 bits of int64 as int32."""
    return (((x & _LOW) ^ 0x80000000) - 0x80000000).to(torch.int32)


def row_keys(seed: int | Tensor, sequences: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Return two int32 keys of the broadcast shape of `sequences` and `positions`, int64 both.

    A seed of each sequence has the shape of `sequences`, with 64 bits as int64 holds them.
    """
    shape = (sequences + positions).shape
    keys = torch.stack([torch.full(shape, salt, device=positions.device) for salt in _SALTS])
    # Both at once, each in the low 32 bits of int64, so that a shift brings in zeros.
    for word in (seed & _LOW, seed >> 32, sequences, sequences >> 32, positions):
        keys = mixed(keys.add_(word))
    first, second = _low(keys)
    return first, second


def mixed(keys: Tensor) -> Tensor:
    """Mix int64 numbers in place, of which the low 32 bits count, and return them."""
    keys = keys.add_(_GOLDEN).bitwise_and_(_LOW)
    keys ^= keys >> 16
    keys = keys.mul_(_MIX[0]).bitwise_and_(_LOW)
    keys ^= keys >> 15
    keys = keys.mul_(_MIX[1]).bitwise_and_(_LOW)
    keys ^= keys >> 16
    return keys


def gumbel(keys: tuple[Tensor, Tensor], vocabulary: int) -> Tensor:
    """Return standard Gumbel noise, float64 [..., vocabulary], a function of keys and id alone."""
    ids = torch.arange(vocabulary, dtype=torch.int32, device=keys[0].device)
    bits = _scramble(ids ^ keys[0].unsqueeze(-1))
    bits = _scramble(bits.add_(keys[1].unsqueeze(-1)))
    uniform = bits.double().add_(2**31 + 0.5).mul_(2.0**-32)
    return uniform.log_().neg_().log_().neg_()
