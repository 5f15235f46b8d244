"""The noise of a sampled choice, as `step.sampling` says, in float64; and that of rows."""

from __future__ import annotations

from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor

KEYS = ("position_ptr", "sequence_ptr", "seed_ptr", "temperature_ptr")
"""What keys the noise: these may begin anywhere, and one compiled kernel serves all places."""
APART = ("sequence_step", "seed_step", "heat_step")
"""How far the keys of two sequences lie apart."""
LOWEST_TEMPERATURE = tl.constexpr(1e-6)
"""Below it a drafter is greedy, see `step.sampling`."""
NO_NUMBER, NOTHING_ALLOWED = -1, -2
"""In place of a token, see `step.sampling`."""


@dataclass(frozen=True, eq=False)
class Noise:
    """What keys the noise of the rows of B sequences, equally many of each, and scales its share.

    `positions` int64 [rows], `sequences` and `seeds` int64 [B], `temperature` float64 [B]. All but
    the first may be columns of a table, as a lineup has them.
    """

    positions: Tensor
    sequences: Tensor
    seeds: Tensor
    temperature: Tensor

    @property
    def memory(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The arguments of `KEYS`."""
        return (self.positions.contiguous(), self.sequences, self.seeds, self.temperature)

    @property
    def apart(self) -> tuple[int, int, int]:
        """The arguments of `APART`: from one sequence's value to the next one's."""
        return self.sequences.stride(0), self.seeds.stride(0), self.temperature.stride(0)

    def own_rows(self, rows: int) -> int:
        """Return how many of so many rows each sequence has."""
        return rows // max(1, self.sequences.shape[0])


@triton.jit
def _scramble(bits):  # type: ignore[no-untyped-def]
    """Mix uint32 bits, as `step.sampling` does."""
    bits ^= bits >> 16
    bits *= 0x7FEB352D
    bits ^= bits >> 15
    bits *= 0x846CA68B
    bits ^= bits >> 16
    return bits


@triton.jit  # type: ignore[untyped-decorator]
def _key(salt: tl.constexpr, seed, sequence, position):  # type: ignore[no-untyped-def]
    """Return the uint32 key of int64 numbers, as `step.sampling.row_keys` makes it."""
    key = tl.full(seed.shape, salt, tl.uint32)
    key = _scramble(key + seed.to(tl.uint32) + 0x9E3779B9)
    key = _scramble(key + (seed >> 32).to(tl.uint32) + 0x9E3779B9)
    key = _scramble(key + sequence.to(tl.uint32) + 0x9E3779B9)
    key = _scramble(key + (sequence >> 32).to(tl.uint32) + 0x9E3779B9)
    return _scramble(key + position.to(tl.uint32) + 0x9E3779B9)


@triton.jit
def row_noise(position, sequence, seed, stream, iteration):  # type: ignore[no-untyped-def]
    """Return numbers in [0, 1), float32 [R], of int64 positions [R], as `step.noise` makes them."""
    none = position - position
    key = _key(0x13198A2E, none + seed, none + sequence, position)
    key = _scramble(key + (none + stream).to(tl.uint32) + 0x9E3779B9)
    key = _scramble(key + (none + iteration).to(tl.uint32) + 0x9E3779B9)
    return (key >> 8).to(tl.float32) * 5.9604644775390625e-08  # 2 ** -24


@triton.jit
def keys_of(  # type: ignore[no-untyped-def]
    position_ptr, sequence_ptr, seed_ptr, temperature_ptr, sequence_step, seed_step, heat_step,
    row, rows, own_rows,
):  # fmt: skip
    """Return both uint32 keys of rows [R], and the temperature of each, float64."""
    live = row < rows
    owner = row // own_rows
    position = tl.load(position_ptr + row, mask=live, other=0)
    sequence = tl.load(sequence_ptr + owner * sequence_step, mask=live, other=0)
    seed = tl.load(seed_ptr + owner * seed_step, mask=live, other=0)
    temperature = tl.load(temperature_ptr + owner * heat_step, mask=live, other=1.0)
    first = _key(0x243F6A88, seed, sequence, position)
    second = _key(0x85A308D3, seed, sequence, position)
    return first, second, temperature


@triton.jit
def gumbel(token, first, second):  # type: ignore[no-untyped-def]
    """Return Gumbel noise, float64 of their common shape, of tokens and of the keys of rows."""
    bits = _scramble(token.to(tl.uint32) ^ first)
    bits = _scramble(bits + second)
    signed = bits.to(tl.int32, bitcast=True).to(tl.float64)
    uniform = (signed + 2147483648.5) * 2.3283064365386963e-10  # 2 ** -32
    return -tl.log(-tl.log(uniform))
