"""Printed lists are the lists they were printed from, and short where they have a pattern."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nldc.codegen.compact import fit, show_list, show_prompt_list
from nldc.diagnostics import InternalError
from nldc.ir.size import Size


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


@pytest.mark.parametrize("prompt", [1, 2, 3, 17])
def test_lists_that_grow_with_the_prompt_are_printed_in_its_length(prompt: int) -> None:
    def facts(length: int) -> list[int]:
        return [0] * length + [1] * 4 + [*range(length, length + 4)]

    text = show_prompt_list(facts)
    assert eval(text, {"prompt": prompt}) == facts(prompt)


def test_a_number_that_is_no_sum_of_the_prompts_length_is_refused() -> None:
    assert fit(lambda prompt: 2 * prompt - 1) == Size(-1, 2)
    with pytest.raises(InternalError):
        fit(lambda prompt: prompt * prompt)
