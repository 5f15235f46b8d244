"""The page of a trace: the same data as the trace, in one file; and in a real browser."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from nldc.cli import cli
from nldc.trace.document import Trace
from nldc.trace.file import as_data, parse_trace, write_trace
from nldc.trace.page import data_of, page_of
from tests.trace.conftest import Watch

PROMPTS = [[1, 38, 26], [5]]


@pytest.fixture(scope="module")
def speculative(watched: Watch) -> Trace:
    return watched("linear_ss").run(PROMPTS, {"max_new_tokens": 12})[0]


@pytest.fixture(scope="module")
def diffused(watched: Watch) -> Trace:
    return watched("block_diffusion").run(PROMPTS, {"max_new_tokens": 12})[0]


def test_the_page_has_every_token_and_every_draft_that_was_refused(speculative: Trace) -> None:
    data = data_of(speculative)
    for number, sequence in enumerate(data["sequences"]):
        steps = [part for _, part in speculative.parts_of(number)]
        assert [each["origins"] for each in sequence["steps"]] == [part.origins for part in steps]
        kept = sum(each["kept"] for each in sequence["steps"])
        assert kept == speculative.sequences[number].tokens == 12
        for each, part in zip(sequence["steps"], steps, strict=True):
            if part.draft is not None:
                assert each["draft"]["accepted"] == part.draft.accepted
                assert len(each["draft"]["tokens"]) == len(part.draft.tokens)


def test_what_a_model_says_ends_no_element_of_the_page(speculative: Trace) -> None:
    data = as_data(speculative)
    data["pieces"] = {str(token): "</script><script>alert(1)</script>" for token in range(260)}
    text = page_of(parse_trace(data, "x"))
    assert "<script>alert(1)" not in text
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)


def test_trace_writes_the_page(speculative: Trace, tmp_path: Path) -> None:
    write_trace(speculative, tmp_path / "t.json")
    out = tmp_path / "t.html"
    done = CliRunner().invoke(cli, ["trace", str(tmp_path / "t.json"), "--html", str(out)])
    assert done.exit_code == 0, done.output
    found = re.search(
        r'<script type="application/json" id="trace">(.*?)</script>', out.read_text("utf-8"), re.S
    )
    assert found is not None
    assert json.loads(found[1])["summary"]["tokens"] == 24


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Any]:
    """Return what opens a trace's page, which must not complain, nor be wider than its window."""
    made = []

    def get(trace: Trace, width: int = 1180, scheme: str = "light") -> Any:
        file = tmp_path / f"{len(made)}.html"
        file.write_text(page_of(trace), encoding="utf-8")
        context = browser.new_context(
            viewport={"width": width, "height": 844}, color_scheme=scheme, has_touch=width < 500
        )
        page = context.new_page()
        page.said = []
        page.on("console", lambda message: page.said.append(message.text))
        page.on("requestfailed", lambda asked: page.said.append(asked.url))
        page.on("pageerror", lambda problem: page.said.append(str(problem)))
        page.goto(file.as_uri())
        page.wait_for_selector("#text .t")
        made.append(page)
        return page

    yield get
    folder = os.environ.get("NLDC_SCREENSHOTS")
    name = os.environ["PYTEST_CURRENT_TEST"].split("::")[-1].split(" ")[0]
    for number, page in enumerate(made):
        assert page.said == []
        wide = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert wide[0] <= wide[1]
        if folder:
            page.screenshot(path=Path(folder) / f"{name}_{number}.png", full_page=True)
        page.context.close()


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(1180, "light"), (390, "dark")])
def test_a_token_tells_of_its_step_when_it_is_pointed_at_or_tapped(
    opened: Any, speculative: Trace, width: int, scheme: str
) -> None:
    page = opened(speculative, width, scheme)
    assert page.locator("#text .t:not(.refused)").count() == 12
    refused = page.locator("#text .refused").first
    if width < 500:
        refused.tap()
    else:
        refused.hover()
    said = page.locator("#step").inner_text()
    assert "drafted, and refused" in said
    assert "In its place" in said
    assert "step.drafted" in said
    assert page.locator('#steps tr[aria-selected="true"]').count() == 1
    assert page.evaluate("document.documentElement.dataset.theme") == scheme


@pytest.mark.browser
def test_keys_go_from_token_to_token(opened: Any, speculative: Trace) -> None:
    page = opened(speculative)
    page.locator("#text .t").first.focus()
    before = page.locator("#step").inner_text()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.locator("#text .t.here").count() == 1
    assert page.locator("#text .t").nth(2).evaluate("each => each === document.activeElement")
    assert page.locator("#step").inner_text() != before
    page.click("#last")
    page.locator("#text .t").nth(2).focus()
    page.keyboard.press("Enter")
    step = page.locator('#steps tr[aria-selected="true"]').get_attribute("data-step")
    assert f"step {step} ·" in page.locator("#said").inner_text()


@pytest.mark.browser
def test_the_player_fills_the_rows_iteration_by_iteration(opened: Any, diffused: Trace) -> None:
    page = opened(diffused)
    _, part = list(diffused.parts_of(0))[1]
    page.click("#first")
    masked = []
    for _ in part.rounds:
        page.click("#on")
        masked.append(page.locator("#rows .masked").count())
    assert masked == [len(each.masked) for each in part.rounds]
    assert page.locator("#rows .fresh").count() > 0
    page.focus("#frame")
    page.keyboard.press("Home")
    assert page.locator("#said").inner_text().startswith("1 of")
    page.click("#play")
    last = int(page.locator("#frame").get_attribute("max")) + 1
    page.locator("#said", has_text=re.compile(f"^{last} of {last} ")).wait_for()
    assert page.locator("#play").inner_text() == "Play"


@pytest.mark.browser
def test_each_sequence_has_its_text(opened: Any, speculative: Trace) -> None:
    page = opened(speculative)
    before = page.locator("#text").inner_text()
    page.select_option("#sequence", "1")
    assert page.locator("#text").inner_text() != before
    assert page.locator("#text .t:not(.refused)").count() == 12
