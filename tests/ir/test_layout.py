"""Layouts list their rows as the file says, for any prompt length."""

from __future__ import annotations

from nldc.ir.layout import Layout, Segment, plain
from nldc.ir.size import Size


def quadratic(groups: int, masks: int, by_segment: bool = False) -> Layout:
    one, many = (Size(1),) * groups, (Size(masks),) * groups
    segments = (Segment(one, True, "draft"), Segment(many, False, "mask"))
    return Layout(segments, groups, by_segment)


def test_groups_repeat_their_segments_and_count_from_zero() -> None:
    rows = quadratic(2, 2).rows()
    assert [row.kind for row in rows] == ["draft", "mask", "mask"] * 2
    assert [row.group for row in rows] == [0, 0, 0, 1, 1, 1]
    assert [row.index for row in rows] == [0, 1, 2] * 2
    assert [row.token for row in rows] == [(0, 0), None, None, (0, 1), None, None]


def test_segment_order_changes_places_and_nothing_else() -> None:
    by_group, by_segment = quadratic(3, 2).rows(), quadratic(3, 2, by_segment=True).rows()
    assert [row.kind for row in by_segment] == ["draft"] * 3 + ["mask"] * 6
    assert [row.row for row in by_segment] == list(range(9))

    def facts(rows: tuple) -> set:
        return {(row.kind, row.group, row.index, row.token) for row in rows}

    assert facts(by_group) == facts(by_segment)


def test_a_layout_with_the_prompt_grows_with_it() -> None:
    layout = Layout((Segment((Size(0, 1),), True, None), Segment((Size(3),), False, None)), 1)
    assert layout.size == Size(3, 1)
    assert layout.dynamic
    assert [row.masked for row in layout.rows(2)] == [False, False, True, True, True]
    assert layout.size.at(7) == 10


def test_groups_may_differ_in_length() -> None:
    layout = Layout((Segment((Size(3), Size(1)), False, None),), 2)
    assert [row.group for row in layout.rows()] == [0, 0, 0, 1]


def test_sizes_print_as_sums_of_the_prompts_length() -> None:
    assert [str(size) for size in (Size(3), Size(0, 1), Size(2, 1), Size(0, 2))] == [
        "3",
        "prompt",
        "prompt+2",
        "2*prompt",
    ]
    assert plain(Size(0, 1)).size == Size(0, 1)
