"""From the pixels of a picture as it is to those that the encoder is given.

The released processor resizes with OpenCV's cubic filter in float32: no antialiasing, no clipping,
so that values leave 0..255. Where a side has fewer than four pixels, OpenCV has another way to
compute it, which rounds positions to float32; elsewhere they are as good as exact. Both are
followed. Of the picture only those rows are touched that the result depends on, so that its size
costs no memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nldc.runtime.vision.config import LONGEST_SIDE

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
SHARPNESS = -0.75
TAPS = 4

Pixels = NDArray[np.uint8]
Values = NDArray[np.float32]


def cells_of(width: int, height: int, cell: int, longest: int = LONGEST_SIDE) -> tuple[int, int]:
    """Return of how many cells, across and down, a picture of a size is made."""
    ratio = max(height / longest, width / longest)
    if ratio > 1:
        width, height = round(width / ratio), round(height / ratio)
    return (max(width, 1) - 1) // cell + 1, (max(height, 1) - 1) // cell + 1


def prepared(pixels: Pixels, width: int, height: int) -> Values:
    """Return pixels [H, W, 3], resized and normalised, float32 [3, height, width]."""
    values = resized(pixels, width, height)
    values /= np.float32(255)
    values -= np.array(MEAN, np.float32)
    values /= np.array(STD, np.float32)
    return np.ascontiguousarray(values.transpose(2, 0, 1))


def resized(pixels: Pixels, width: int, height: int) -> Values:
    """Return pixels [H, W, 3] as float32 [height, width, 3] in 0..255 and beyond."""
    old_height, old_width = pixels.shape[:2]
    if (old_height, old_width) == (height, width):
        return pixels.astype(np.float32)
    kind = np.float32 if min(old_height, old_width) < TAPS else np.float64
    down, down_by = taps(old_height, height, kind)
    across, across_by = taps(old_width, width, kind)
    used, places = np.unique(down, return_inverse=True)
    places = places.reshape(down.shape)
    lines = np.empty((len(used), width, 3), np.float32)
    for number, row in enumerate(used):
        own = pixels[row].astype(np.float32)
        four = [own.take(across[:, tap], axis=0) for tap in range(TAPS)]
        lines[number] = _weighed(four, across_by[:, :, None])
    out = np.empty((height, width, 3), np.float32)
    for number, (four_rows, weights) in enumerate(zip(places, down_by, strict=True)):
        out[number] = _weighed([lines[row] for row in four_rows], weights[None])
    return out


def taps(
    old: int, new: int, kind: type[np.float64 | np.float32] = np.float64
) -> tuple[NDArray[np.int64], Values]:
    """Return which four of `old` pixels each of `new` is made of, [new, 4], and their weights.

    `kind` is the type of floating point in which positions and weights are computed.
    """
    centres: NDArray[Any] = ((np.arange(new) + 0.5) * (old / new) - 0.5).astype(kind)
    first = np.floor(centres)
    x, a = centres - first, kind(SHARPNESS)
    before = ((a * (x + 1) - 5 * a) * (x + 1) + 8 * a) * (x + 1) - 4 * a
    here = ((a + 2) * x - (a + 3)) * x * x + 1
    after = ((a + 2) * (1 - x) - (a + 3)) * (1 - x) * (1 - x) + 1
    weights = np.stack([before, here, after, 1 - before - here - after], axis=1)
    places = first.astype(np.int64)[:, None] + np.arange(-1, TAPS - 1)
    return places.clip(0, old - 1), weights.astype(np.float32)


def _weighed(four: list[Any], weights: Any) -> Values:
    """Return the sum of four arrays, each with its weight, in their order."""
    total: Values = four[0] * weights[:, 0]
    for tap in range(1, TAPS):
        total += four[tap] * weights[:, tap]
    return total
