"""Printed lists are the lists they were printed from, and short where they have a pattern."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nldc.codegen.compact import show_list


@given(st.lists(st.integers(-2, 40), max_size=24))
def test_any_list_is_printed_as_itself(numbers: list[int]) -> None:
    assert eval(show_list(numbers)) == numbers


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ([], "[]"),
        ([7] * 9, "[7] * 9"),
        ([*range(16)], "[*range(16)]"),
        ([0] * 16 + [1] * 256, "[0] * 16 + [1] * 256"),
        ([*range(1, 9)] * 8, "[*range(1, 9)] * 8"),
        (
            [g for g in range(8) for _ in range(5)],
            "[start for start in range(8) for _ in range(5)]",
        ),
        (
            [*range(0, 72, 9)] + [1 + 9 * g + i for g in range(8) for i in range(8)],
            "[*range(0, 72, 9)] + [1 + 9 * g + i for g in range(8) for i in range(8)]",
        ),
    ],
)
def test_patterns_of_row_layouts_are_printed_short(numbers: list[int], text: str) -> None:
    assert show_list(numbers) == text
    assert eval(text) == numbers
