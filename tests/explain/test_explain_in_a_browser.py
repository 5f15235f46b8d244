"""The page that `nldc explain --html` writes, in a real browser: `make test-browser`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nldc import api
from nldc.explain.build import explained
from nldc.explain.print_html import print_html
from nldc.explain.print_svg import print_svg
from tests.explain.told import hostile, told

pytestmark = pytest.mark.browser
Open = Callable[..., Any]


@pytest.fixture
def open_page(browser: Any, tmp_path: Path) -> Iterator[Open]:
    """Opens a text as a file; nothing may be complained of or asked for."""
    said: list[str] = []
    contexts = []

    def opened(text: str, *, width: int = 1180, scheme: str = "light", kind: str = "html") -> Any:
        size = {"width": width, "height": 800}
        context = browser.new_context(viewport=size, color_scheme=scheme, has_touch=width < 500)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda problem: said.append(str(problem)))
        page.on("dialog", lambda dialog: said.append(dialog.message))
        page.on(
            "request",
            lambda asked: None if asked.url[:5] in ("file:", "data:") else said.append(asked.url),
        )
        file = tmp_path / f"page.{kind}"
        file.write_text(text, encoding="utf-8")
        page.goto(file.as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert said == []


def keep(page: Any, name: str) -> None:
    """Keep a picture where NLDC_SCREENSHOTS says."""
    folder = os.environ.get("NLDC_SCREENSHOTS")
    if folder:
        page.screenshot(path=Path(folder) / f"explain_{name}.png", full_page=True)


def row_of(page: Any) -> str:
    return str(page.locator("#row").inner_text())


def lit(page: Any, side: str) -> list[str]:
    """The lines of one side that are lit."""
    texts = "lines => lines.map(line => line.lastChild.textContent.trim())"
    return list(page.locator(f"#{side}-lines .lit").evaluate_all(texts))


def test_the_row_and_the_cell_that_a_mistake_names_are_marked_and_shown_first(
    open_page: Open,
) -> None:
    bad = Path(__file__).parents[1] / "diagnostics" / "NLD103_verifier_sees_masks" / "bad.yaml"
    checked, _ = api.look(str(bad), {}, others=False)
    page = open_page(print_html(explained(checked)))
    keep(page, "mistake")
    assert page.locator("#forward option:checked").inner_text() == "both"
    assert page.locator("#grid .wrong").count() == 1
    assert page.locator("#grid .line").first.locator(".wrong").count() == 1
    label = page.locator("#grid .line text").first.text_content()
    assert label.startswith("! 0 draft")
    assert "! a mistake names this row" in page.locator("#legend").inner_text()


def test_a_row_says_what_it_sees_under_the_pointer_and_by_keys(open_page: Open) -> None:
    page = open_page(print_html(told("linear_ss")))
    page.locator("#grid .line").nth(13).hover()
    assert "row 13" in row_of(page)
    assert "It sees all of the cache and rows 0-13 of this forward." in row_of(page)
    assert "in 3 of 16 outcomes" in row_of(page)
    assert page.locator("#grid .line.seen").count() == 14
    page.locator("#grid").focus()
    page.keyboard.press("ArrowDown")
    assert "row 14" in row_of(page)
    page.keyboard.press("Home")
    assert "row 0" in row_of(page)
    assert page.locator("#grid .line.on").count() == 1


def test_another_forward_is_chosen_from_the_list(open_page: Open) -> None:
    page = open_page(print_html(told("linear_ss")))
    page.select_option("#forward", label="drafted.seen")
    assert "bidirectional" in page.locator("#asks").inner_text()
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")
    assert "changes no token" in row_of(page)


def test_a_line_of_the_file_lights_up_what_it_became_and_back(open_page: Open) -> None:
    page = open_page(print_html(told("linear_ss")))
    page.locator("#left-lines .code", has_text="choice:").click()
    assert lit(page, "right") == ["choice = batch.head_choose(checked)"]
    page.locator("#right-lines .code", has_text="kept = ops.accept_longest_prefix").click()
    (file,) = lit(page, "left")
    assert file.startswith("kept:    {op: accept")
    page.locator("#left-lines").focus()
    page.keyboard.press("Home")
    assert page.locator("#left-lines .on").inner_text().endswith("nldc: 1")
    assert lit(page, "right") == []
    page.select_option("#right", label="program.txt")
    page.locator("#left-lines .code", has_text="choice:").click()
    assert lit(page, "right")[0].startswith("choice = choose ")


def test_a_line_of_another_file_opens_that_file(open_page: Open) -> None:
    page = open_page(print_html(told("quadratic_ss_lora")))
    assert page.locator("#left").input_value() == "0"
    page.locator("#right-lines .code", has_text="choice = batch.head_choose").click()
    assert page.locator("#left option:checked").inner_text() == "quadratic_ss"
    assert "choice: {op: sample" in lit(page, "left")[0]


def test_a_node_of_the_graph_is_told_and_its_lines_light_up(open_page: Open) -> None:
    page = open_page(print_html(told("linear_ss")))
    page.locator('#graph .box:has(text.name:text-is("kept"))').click()
    assert "step.kept: Accepted[<=16] = accept" in page.locator("#said").inner_text()
    assert "kept:    {op: accept" in lit(page, "left")[0]
    page.keyboard.press("ArrowDown")
    assert "emit = step.kept.tokens" in page.locator("#said").inner_text()
    assert page.locator('#graph .box[tabindex="0"]').count() == 1


def test_everything_is_reached_by_the_tab_key(open_page: Open) -> None:
    page = open_page(print_html(told("ar")))
    reached = []
    for _ in range(20):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    for name in ("theme", "SUMMARY", "g", "forward", "grid", "left", "left-lines", "right-lines"):
        assert name in reached


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1180])
@pytest.mark.parametrize("name", ["quadratic_ss", "linear_ss_adaptive", "block_diffusion"])
def test_it_fits_any_width_in_light_and_dark(
    open_page: Open, name: str, width: int, scheme: str
) -> None:
    page = open_page(print_html(told(name)), width=width, scheme=scheme)
    assert page.evaluate("document.documentElement.dataset.theme") == scheme
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    if width < 500:
        page.locator("#grid .line").nth(1).tap()
        assert "row 1" in row_of(page)
    keep(page, f"{name}_{width}_{scheme}")


def test_names_of_a_strategy_run_nothing(open_page: Open) -> None:
    page = open_page(print_html(hostile(told("linear_ss"))))
    for at in range(3):
        page.locator("#grid .line").nth(at).hover()
        page.locator("#graph .box").nth(at).click()
        page.locator("#left-lines .code").nth(at).click()
    assert page.locator("img").count() == 0
    assert "<img src=x onerror=alert(1)>" in page.locator("#said").inner_text()


def test_a_thousand_rows_are_drawn_at_once(open_page: Open) -> None:
    page = open_page(print_html(told("quadratic_ss", block_length=32)))
    assert page.locator("#grid .line").count() == 64
    page.locator("#grid").focus()
    page.keyboard.press("End")
    assert "rows 1024 to 1055" in row_of(page)


@pytest.mark.parametrize(("scheme", "paper"), [("light", "255, 255, 255"), ("dark", "22, 23, 26")])
def test_the_picture_follows_light_and_dark(open_page: Open, scheme: str, paper: str) -> None:
    page = open_page(print_svg(told("linear_ss")), scheme=scheme, kind="svg")
    shown = "getComputedStyle(document.querySelector('.paper')).fill"
    assert page.evaluate(shown) == f"rgb({paper})"
