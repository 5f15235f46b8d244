"""The exponential function, in the same steps for one value and for vectors of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from nldc.runtime.cpu.compiled import helper
from nldc.runtime.cpu.memory import bits_of, float_of, fma
from nldc.runtime.cpu.vectors import F32, I32, Vectors

LEAST: Any = np.float32(-87.0)
MOST: Any = np.float32(88.0)
"""Beyond these the result is no normal number any more."""
PER_LOG = np.float32(1.4426950408889634)
TO_WHOLE = np.float32(12582912.0)
"""A number so large that a sum with it has no digits behind the point, and its last bits are it."""
LOG_HIGH, LOG_LOW = np.float32(-0.693359375), np.float32(2.12194440e-4)
SERIES = tuple(
    np.float32(each)
    for each in (
        1.9875691500e-4,
        1.3981999507e-3,
        8.3334519073e-3,
        4.1665795894e-2,
        1.6666665459e-1,
        5.0000001201e-1,
    )
)
A, B, C, D, E, HALF = SERIES
ONE = np.float32(1.0)


@helper
def exp(x: float) -> float:
    """Return e ** x of a float32, of what lies beyond the limits as of them."""
    x = LEAST if x < LEAST else x
    x = MOST if x > MOST else x
    raised = fma(x, PER_LOG, TO_WHOLE)
    whole = raised - TO_WHOLE
    rest = fma(whole, LOG_LOW, fma(whole, LOG_HIGH, x))
    sum_ = fma(fma(fma(fma(fma(A, rest, B), rest, C), rest, D), rest, E), rest, HALF)
    found = fma(sum_, rest * rest, rest) + ONE
    result: float = float_of(bits_of(found) + (bits_of(raised) << 23))
    return result


def exp_of(v: Vectors, x: Any) -> Any:
    """Return e ** x of a vector whose values are at most 0; of what is below the limit, 0."""
    write = v.builder

    def const(value: Any) -> Any:
        return v.const(F32, float(value))

    is_nothing = write.fcmp_ordered("<", x, const(LEAST))
    raised = v.fma(x, const(PER_LOG), const(TO_WHOLE))
    whole = write.fsub(raised, const(TO_WHOLE))
    rest = v.fma(whole, const(LOG_LOW), v.fma(whole, const(LOG_HIGH), x))
    sum_ = const(A)
    for each in SERIES[1:]:
        sum_ = v.fma(sum_, rest, const(each))
    found = write.fadd(v.fma(sum_, write.fmul(rest, rest), rest), const(ONE))
    power = write.shl(v.bits(raised), v.const(I32, 23))
    return write.select(is_nothing, v.zero, v.floats(write.add(v.bits(found), power)))
