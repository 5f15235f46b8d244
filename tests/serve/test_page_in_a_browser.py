"""The page in a real browser, as a person uses it: `make test-browser`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asking import Live

pytestmark = pytest.mark.browser
DONE = ".turn.reply:not(.running)"


@pytest.fixture
def page(browser: Any, live: Live) -> Iterator[Any]:
    """The page, which must not complain."""
    context = browser.new_context(viewport={"width": 1180, "height": 760})
    made = context.new_page()
    said: list[str] = []
    made.on("console", lambda message: said.append(message.text))
    made.on("requestfailed", lambda asked: said.append(asked.url))
    made.on("pageerror", lambda problem: said.append(str(problem)))
    made.goto(live.url)
    made.wait_for_selector("#strategy option", state="attached")
    yield made
    keep(made)
    context.close()
    refused = "Failed to load resource: the server responded with a status of 400 (Bad Request)"
    assert [each for each in said if each != refused and not each.endswith("completions")] == []


def keep(page: Any) -> None:
    """Keep a picture where NLDC_SCREENSHOTS says."""
    folder = os.environ.get("NLDC_SCREENSHOTS")
    name = os.environ["PYTEST_CURRENT_TEST"].split("::")[-1].split(" ")[0]
    if folder:
        page.screenshot(path=Path(folder) / f"{name}.png")


def ask(page: Any, text: str, **settings: str) -> None:
    for name, value in settings.items():
        field = page.locator(f"#{name}")
        if name in ("strategy", "thinking"):
            field.select_option(value)
        else:
            field.fill(value)
    page.fill("#prompt", text)
    page.keyboard.press("Enter")


def write(page: Any, text: str, **settings: str) -> str:
    """What is written behind a text, when all of it is there."""
    page.get_by_text("Text", exact=True).click()
    ask(page, text, **settings)
    page.wait_for_selector(DONE, timeout=60_000)
    return str(page.locator(".answer").inner_text())


def test_text_is_what_the_server_answers_and_coloured_by_its_origin(page: Any, live: Live) -> None:
    shown = write(page, "def f(", strategy="linear_ss", max_tokens="40")
    body = {"prompt": "def f(", "strategy": "linear_ss", "max_tokens": 40, "temperature": 0}
    answer = page.request.post(f"{live.url}/v1/completions", data=body).json()
    said = page.locator(".answer .t").all_text_contents()
    assert "".join(said) == answer["choices"][0]["text"]
    assert shown.strip()
    assert page.locator(".t.accepted").count() > 1
    assert page.locator(".t.bonus").count() > 1
    assert "tokens a second" in page.locator(".end").inner_text()
    assert float(page.locator("#f-tpf").inner_text()) > 0.5


def test_ar_has_a_token_a_forward_and_no_draft(page: Any) -> None:
    write(page, "def f(", strategy="ar", max_tokens="12")
    assert page.locator(".answer .t.ar").count() == 11
    assert page.locator("#f-tpf").inner_text() == "1.00"
    assert page.locator("#f-accept").inner_text() == "\u2013"


def test_a_token_tells_of_its_step_under_the_pointer_and_by_keys(page: Any) -> None:
    write(page, "def f(", strategy="linear_ss", max_tokens="24")
    page.locator(".answer .t.accepted").first.hover()
    assert "drafts accepted" in page.locator("#tip").inner_text()
    page.locator('.answer .t[tabindex="0"]').focus()
    page.keyboard.press("ArrowRight")
    assert "linear_ss" in page.locator("#tip").inner_text()
    assert page.locator(".t.same").count() >= 1


def test_a_conversation_goes_on_and_thoughts_are_folded_apart(page: Any) -> None:
    ask(page, "hello", max_tokens="16", thinking="true")
    page.wait_for_selector(DONE, timeout=60_000)
    ask(page, "and then?", max_tokens="8")
    page.wait_for_selector(f"{DONE} >> nth=1", timeout=60_000)
    assert page.locator(".turn.user .said").all_inner_texts() == ["hello", "and then?"]
    assert page.locator("details.thinking").count() >= 1


def test_escape_stops_an_answer_and_the_next_one_comes(page: Any) -> None:
    page.get_by_text("Text", exact=True).click()
    ask(page, "def f(", strategy="ar", max_tokens="3000")
    page.wait_for_selector(".answer .t >> nth=3", timeout=60_000)
    page.keyboard.press("Escape")
    page.wait_for_selector(DONE)
    assert page.locator(".end").inner_text().startswith("stopped")
    ask(page, "def g(", max_tokens="4")
    page.wait_for_selector(f"{DONE} >> nth=1", timeout=60_000)
    assert "ended by length" in page.locator(".end").last.inner_text()


def test_what_the_server_refuses_is_said_and_the_prompt_is_not_lost(page: Any) -> None:
    page.get_by_text("Text", exact=True).click()
    ask(page, "def f(", max_tokens="99999999")
    page.wait_for_selector(".end.error")
    assert "max_tokens" in page.locator(".end.error").inner_text()
    assert page.locator("#prompt").input_value() == "def f("


def test_markup_in_a_text_is_text(page: Any) -> None:
    write(page, "<img src=x onerror=alert(1)><b>", max_tokens="4")
    assert page.locator(".turns img, .turns b").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1180])
def test_it_fits_any_width_in_light_and_dark(
    browser: Any, live: Live, scheme: str, width: int
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 700}, color_scheme=scheme)
    page = context.new_page()
    page.goto(live.url)
    page.wait_for_selector("#strategy option", state="attached")
    assert page.evaluate("document.documentElement.dataset.theme") == scheme
    if width < 760:
        page.click("#more")
        page.fill("#max_tokens", "16")
        page.keyboard.press("Escape")
        assert not page.locator("#max_tokens").is_visible()
    else:
        page.fill("#max_tokens", "16")
    write(page, "def f(" + "x" * 200)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    keep(page)
    context.close()
