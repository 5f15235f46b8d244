"""The picture for documents: XML that shows texts as texts, the same each time."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from nldc import api
from nldc.explain.build import explained
from nldc.explain.print_svg import print_svg
from tests.explain.told import HOSTILE, hostile, told

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("name", ["linear_ss", "lookahead", "concurrency_router"])
def test_every_box_is_drawn_inside_the_picture(name: str) -> None:
    root = ElementTree.fromstring(print_svg(told(name)))
    boxes = root.findall(f".//{SVG}g[@class]")
    assert len(boxes) == sum(len(region.boxes) for region in told(name).regions)
    wide, high = float(root.attrib["width"]), float(root.attrib["height"])
    groups = root.findall(f"{SVG}g")
    assert len(groups) == len(told(name).regions)
    for group in groups:
        x, y = map(float, group.attrib["transform"][len("translate(") : -1].split())
        for rect in group.iter(f"{SVG}rect"):
            place = {key: float(rect.attrib[key]) for key in ("x", "y", "width", "height")}
            assert 0 < x + place["x"] < x + place["x"] + place["width"] <= wide
            assert 0 < y + place["y"] < y + place["y"] + place["height"] <= high


def test_a_reader_is_told_what_it_shows() -> None:
    root = ElementTree.fromstring(print_svg(told("linear_ss")))
    assert root.attrib["aria-labelledby"] == "title desc"
    title, desc = root.find(f"{SVG}title"), root.find(f"{SVG}desc")
    assert title is not None
    assert (title.text or "").startswith("linear_ss: ")
    assert desc is not None
    assert "drafted to checked" in (desc.text or "")


def test_it_asks_for_nothing_and_follows_light_and_dark() -> None:
    text = print_svg(told("linear_ss"))
    assert "prefers-color-scheme: dark" in text
    assert text.count("http") == 1  # the namespace
    assert "url(" not in text
    assert "<script" not in text


def test_the_same_strategy_gives_the_same_bytes() -> None:
    again = explained(api.check("lookahead", others=False))
    assert print_svg(again) == print_svg(told("lookahead"))


def test_hostile_names_are_text() -> None:
    root = ElementTree.fromstring(print_svg(hostile(told("linear_ss"))))
    kinds = {element.tag.removeprefix(SVG) for element in root.iter()}
    assert kinds == {"svg", "title", "desc", "style", "rect", "g", "text", "path"}
    titles = [element.text or "" for element in root.iter(f"{SVG}title")]
    assert any("<img src=x onerror=alert(1)>\\x1b[31m\\u202e & 'x'" in text for text in titles)
    assert HOSTILE not in titles[0]


def test_the_picture_in_the_documents_is_the_one_that_is_drawn_now() -> None:
    file = Path(__file__).parents[2] / "docs" / "assets" / "linear_ss.svg"
    assert file.read_text("utf-8") == print_svg(told("linear_ss")), (
        "nldc explain linear_ss --svg docs/assets/linear_ss.svg"
    )
