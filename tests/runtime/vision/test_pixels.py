"""Sizes and pixels are those of the released processor, OpenCV's cubic filter included."""

from __future__ import annotations

import numpy as np
import pytest

from nldc.runtime.vision.pixels import MEAN, STD, Pixels, cells_of, prepared, resized, taps


def pattern(width: int, height: int) -> Pixels:
    y, x, c = np.ogrid[:height, :width, :3]
    return ((x * x * 7 + y * y * 13 + x * y * 5 + c * 91 + x * 29 + y * 3) % 256).astype(np.uint8)


@pytest.mark.parametrize(
    ("size", "cells"),
    [
        ((1, 1), (1, 1)),
        ((28, 28), (1, 1)),
        ((29, 28), (2, 1)),
        ((50, 100), (2, 4)),
        ((300, 200), (11, 8)),
        ((640, 480), (23, 18)),
        ((1400, 1400), (50, 50)),
        ((1500, 3000), (25, 50)),
        ((1540, 1540), (50, 50)),
        ((2800, 1400), (50, 25)),
        ((3080, 770), (50, 13)),
        ((4201, 3), (50, 1)),
        ((1 << 20, 1), (50, 1)),
        ((2800, 2793), (50, 50)),  # 1396.5 is rounded to the even 1396
        ((1401, 1121), (50, 40)),  # 1120.2 is rounded to 1120, where a cell ends
        ((2800, 2241), (50, 40)),  # and so is 1120.5, to the even one
    ],
)
def test_a_picture_has_the_cells_of_the_released_processor(
    size: tuple[int, int], cells: tuple[int, int]
) -> None:
    assert cells_of(*size, 28) == cells


RECORDED = {
    (5, 9): (
        (28, 28),
        (
            "-5.5688 85.4312 176.4312 19.0487 154.8463 164.496 259.94 36.0766 "
            "154.4604 139.4459 239.3075 143.2143 57.2349 156.9305 202.9375"
        ),
        131.8561,
    ),
    (50, 100): (
        (56, 112),
        (
            "-1.865 89.135 180.135 254.4654 87.8695 177.1192 215.1966 40.9834 "
            "131.9834 17.4312 127.303 186.4715 222.0539 150.7906 135.6991"
        ),
        126.8556,
    ),
    (3, 7): (
        (28, 28),
        (
            "-5.3952 85.6048 176.6048 147.3924 95.254 82.7002 117.2783 239.289 "
            "14.1261 159.8073 269.1823 82.8357 20.0543 111.0543 220.458"
        ),
        125.5786,
    ),
    (1500, 700): (
        (1400, 672),
        (
            "1.1956 92.1956 183.4341 15.8352 150.3559 146.6822 21.9841 109.2475 "
            "193.0358 202.4406 45.6272 157.2443 143.5217 53.9671 168.4521"
        ),
        127.1464,
    ),
    (4201, 3): (
        (1400, 28),
        (
            "33.8681 124.8681 215.7995 66.0091 71.3551 199.546 -19.7031 97.6667 "
            "188.6571 195.1369 30.1377 121.343 175.3537 30.4246 122.2868"
        ),
        127.9996,
    ),
    (1, 1): ((28, 28), "0 91 182 " * 5, 91.0),
}
"""What OpenCV 5.0's resize (INTER_CUBIC, float32) gives at five places, and the mean of all."""


@pytest.mark.parametrize("size", RECORDED)
def test_a_picture_is_resized_as_opencv_does_it(size: tuple[int, int]) -> None:
    (width, height), values, mean = RECORDED[size]
    found = resized(pattern(*size), width, height)
    assert found.shape == (height, width, 3)
    assert found.dtype == np.float32
    places = [(0, 0), (height // 2, width // 3), (height - 1, width - 1)]
    places += [(height // 3, width - 2), (5, 7)]
    own = [float(value) for row, column in places for value in found[row, column]]
    assert own == pytest.approx([float(each) for each in values.split()], abs=3e-4)
    assert float(found.astype(np.float64).mean()) == pytest.approx(mean, abs=1e-3)


def test_values_leave_the_range_of_a_picture_and_are_not_cut() -> None:
    stripes = np.zeros((8, 8, 3), np.uint8)
    stripes[:, ::2] = 255
    found = resized(stripes, 28, 28)
    assert found.min() < -20
    assert found.max() > 275


def test_what_is_of_its_size_already_is_normalised_and_nothing_else() -> None:
    pixels = pattern(56, 28)
    wanted = (pixels / 255 - np.array(MEAN)) / np.array(STD)
    assert prepared(pixels, 56, 28) == pytest.approx(wanted.transpose(2, 0, 1), abs=1e-6)


@pytest.mark.parametrize(("old", "new"), [(1, 28), (2, 28), (9, 28), (1000, 28), (28, 28)])
def test_the_weights_of_a_pixel_add_up_to_one_and_its_places_are_there(old: int, new: int) -> None:
    places, weights = taps(old, new)
    assert weights.sum(1) == pytest.approx(np.ones(new), abs=1e-6)
    assert places.min() >= 0
    assert places.max() < old


def test_a_sliver_of_a_million_rows_touches_few_of_them() -> None:
    tall = np.broadcast_to(np.uint8(7), (1 << 20, 1, 3))
    assert resized(tall, 28, 1400) == pytest.approx(np.full((1400, 28, 3), 7.0))
