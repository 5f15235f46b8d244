"""The page of a benchmark in a real browser: `make test-browser`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bench_made_up import data

from nldc.bench.page import page_of

pytestmark = pytest.mark.browser


@pytest.fixture(params=[(1180, "light"), (1180, "dark"), (390, "light")], ids=str)
def page(request: Any, browser: Any, tmp_path: Path) -> Iterator[Any]:
    """The page, which must not complain, at a width and in a colour scheme."""
    width, scheme = request.param
    (tmp_path / "bench.html").write_text(page_of(data()), encoding="utf-8")
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    made = context.new_page()
    said: list[str] = []
    made.on("console", lambda message: said.append(message.text))
    made.on("pageerror", lambda problem: said.append(str(problem)))
    made.on("request", lambda asked: said.append(asked.url) if "file:" not in asked.url else None)
    made.goto((tmp_path / "bench.html").as_uri())
    yield made
    folder = os.environ.get("NLDC_SCREENSHOTS")
    if folder:
        made.screenshot(path=Path(folder) / f"bench-{width}-{scheme}.png", full_page=True)
    context.close()
    assert [each for each in said if not each.startswith("data:")] == []


def test_the_page_fits_its_window_and_shows_every_plot(page: Any) -> None:
    width = page.viewport_size["width"]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    plots = page.locator("svg.plot")
    assert plots.count() == 5
    for place in range(5):
        box = plots.nth(place).bounding_box()
        assert 300 < box["width"] <= width
        assert box["height"] > 200


def test_words_in_a_plot_can_be_read(page: Any) -> None:
    heights = "each => each.getBoundingClientRect().height"
    sizes = page.evaluate(f"[...document.querySelectorAll('svg.plot text')].map({heights})")
    assert min(sizes) > 7
    colour = page.evaluate("getComputedStyle(document.querySelector('svg.plot .named')).fill")
    paper = page.evaluate("getComputedStyle(document.querySelector('svg.plot')).backgroundColor")
    assert colour != paper


def test_a_table_lies_beside_each_plot_or_opens_below_it(page: Any) -> None:
    details = page.locator("section.plotted details").first
    is_wide = page.viewport_size["width"] > 860
    assert details.evaluate("each => each.open") == is_wide
    if not is_wide:
        details.locator("summary").click()
    assert details.locator("tbody tr").count() == 6
    assert details.locator("td", has_text="factor_threshold").is_visible()
    plot = page.locator("section.plotted figure").first.bounding_box()
    beside = details.bounding_box()
    assert (beside["x"] > plot["x"] + plot["width"]) == is_wide


def test_the_button_changes_light_and_dark(page: Any) -> None:
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.click("#theme")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before
