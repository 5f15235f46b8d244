"""Plots: numbers to places, ticks that are round, labels that cover nothing."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from nldc.view.plot import HEIGHT, WIDTH, Axis, Line, Mark, legend, plot, shown

X, Y = Axis("across"), Axis("up", from_zero=True)


def ticks(text: str) -> list[str]:
    return re.findall(r'<text class="tick"[^>]*>([^<]*)<', text)


def boxes(text: str) -> list[tuple[float, float, float]]:
    found = re.findall(r'<text class="named" x="([\d.]+)" y="([\d.]+)"[^>]*>([^<]*)<', text)
    return [(float(x), float(y), 6.1 * len(label)) for x, y, label in found]


def test_a_plot_is_xml_whose_marks_lie_inside() -> None:
    text = plot("t", X, Y, [Line(((0, 0), (5, 9)), "l")], [Mark(1, 2, "m"), Mark(5, 9, "n")])
    root = ElementTree.fromstring(text)
    circles = list(root.iter("circle"))
    assert len(circles) == 2
    for each in circles:
        assert 0 < float(each.attrib["cx"]) < WIDTH
        assert 0 < float(each.attrib["cy"]) < HEIGHT


def test_larger_numbers_lie_further_right_and_higher_up() -> None:
    root = ElementTree.fromstring(plot("t", X, Y, (), [Mark(1, 2, "m"), Mark(5, 9, "n")]))
    low, high = [each.attrib for each in root.iter("circle")]
    assert float(low["cx"]) < float(high["cx"])
    assert float(low["cy"]) > float(high["cy"])


def test_ticks_are_round_numbers() -> None:
    text = plot("t", X, Y, (), [Mark(0.13, 7.3, "m"), Mark(0.92, 61.5, "n")])
    assert ticks(text) == ["0", "20", "40", "60", "0.2", "0.4", "0.6", "0.8"]


def test_ticks_of_powers_are_powers_of_two() -> None:
    log = Axis("rows", log=True)
    text = plot("t", log, Y, [Line(((1, 1), (512, 2)), "l")])
    assert ticks(text)[-6:] == ["1", "4", "16", "64", "256", "1024"]


@pytest.mark.parametrize("value", [0.0, 3.0, -2.0, 1e-9])
def test_one_point_alone_is_drawn(value: float) -> None:
    assert ElementTree.fromstring(plot("t", X, X, (), [Mark(value, value, "m")])) is not None


def test_one_point_alone_is_drawn_on_powers() -> None:
    log = Axis("a", log=True)
    assert "nan" not in plot("t", log, log, (), [Mark(4, 4, "m")])


def test_labels_cover_neither_marks_nor_each_other() -> None:
    marks = [Mark(1 + n / 40, 5 + n / 30, "m", f"strategy_{n}") for n in range(12)]
    found = boxes(plot("t", X, Y, (), marks))
    assert 2 <= len(found) <= 12
    for number, (x, y, width) in enumerate(found):
        for other_x, other_y, other_width in found[number + 1 :]:
            assert x + width <= other_x or other_x + other_width <= x or abs(y - other_y) >= 12


def test_names_are_text() -> None:
    hostile = '<b>&"'
    text = plot(hostile, Axis(hostile), Y, [Line(((0, 0), (1, 1)), hostile)],
                [Mark(0.5, 0.5, hostile, hostile)])  # fmt: skip
    ElementTree.fromstring(text)
    assert "<b>" not in text
    assert "<b>" not in legend([(hostile, 0, "dot")])


def test_nothing_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        plot("t", X, Y)


@pytest.mark.parametrize(
    ("value", "text"), [(3.0, "3"), (0.125, "0.125"), (0.1 + 0.2, "0.3"), (1e7, "1e+07")]
)
def test_ticks_are_short(value: float, text: str) -> None:
    assert shown(value) == text
