"""The noise of the op `noise`, number by number: what the runtime computes for many rows at once.

It depends on the sequence's seed and key, the position that a row predicts, the node and the round,
and on nothing else. Its start differs from those of the noise that tokens are sampled with, so that
the two have nothing to do with each other.
"""

from __future__ import annotations

START = 0x13198A2E
STEP = 0x9E3779B9
LOW = 0xFFFFFFFF
BITS = 24
"""As many as a number in single precision holds: every device has the same numbers."""


def uniform(seed: int, sequence: int, position: int, stream: int, iteration: int) -> float:
    """Return a number in [0, 1), a multiple of 2 ** -24."""
    key = START
    for word in (seed, seed >> 32, sequence, sequence >> 32, position, stream, iteration):
        key = _scramble((key + (word & LOW) + STEP) & LOW)
    return float((key >> (32 - BITS)) * 2.0**-BITS)


def _scramble(bits: int) -> int:
    """Mix 32 bits (lowbias32, by C. Wellons)."""
    bits ^= bits >> 16
    bits = bits * 0x7FEB352D & LOW
    bits ^= bits >> 15
    bits = bits * 0x846CA68B & LOW
    return bits ^ bits >> 16
