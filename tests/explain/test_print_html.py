"""The page: what a file says is text in it, and a large strategy makes no large page."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from nldc import api
from nldc.explain.build import explained
from nldc.explain.print_html import print_html
from tests.explain.told import hostile, told


class _Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.ids: list[str] = []
        self.handlers: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.handlers += [name for name, _ in attrs if name.startswith("on") or name == "style"]


def elements(text: str) -> _Elements:
    found = _Elements()
    found.feed(text)
    return found


def data(text: str, name: str) -> Any:
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', text, re.S)
    assert found is not None
    return json.loads(found[1])


def test_the_page_holds_grids_and_texts_as_data() -> None:
    text = print_html(told("linear_ss"))
    assert [each["name"] for each in data(text, "forwards")] == [
        "prefill.context", "drafted.seen", "checked",
    ]  # fmt: skip
    names = [each["name"] for each in data(text, "texts")]
    assert names == ["linear_ss.yaml", "decode.py", "patterns.py", "program.txt"]
    checked = data(text, "forwards")[2]["lines"]
    assert checked[2]["sees"] == [[0, 2]]
    assert checked[2]["why"][1].startswith("The proof rests on it")


def test_the_page_says_which_row_a_mistake_names() -> None:
    bad = Path(__file__).parents[1] / "diagnostics" / "NLD103_verifier_sees_masks" / "bad.yaml"
    checked, _ = api.look(str(bad), {}, others=False)
    text = print_html(explained(checked))
    first, second, *_ = data(text, "forwards")[1]["lines"]
    assert first["wrong"] == {"cached": False, "lines": [1]}
    assert second["wrong"] is None
    assert "! a mistake names this row" in text


def test_an_id_stands_once_and_nothing_is_styled_or_run_in_place() -> None:
    found = elements(print_html(told("quadratic_ss_lora")))
    assert len(found.ids) == len(set(found.ids))
    assert found.handlers == []


def test_hostile_names_are_text() -> None:
    plain, text = print_html(told("linear_ss")), print_html(hostile(told("linear_ss")))
    found = elements(text)
    assert found.tags == elements(plain).tags
    assert found.handlers == []
    assert "img" not in found.tags
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert text.count("</script>") == plain.count("</script>")


def test_a_strategy_of_a_thousand_rows_makes_a_small_page() -> None:
    text = print_html(told("quadratic_ss", block_length=32))
    assert len(text) < 200_000
    assert len(data(text, "forwards")[-1]["lines"]) == 64


def test_what_is_not_exact_says_why_on_the_page() -> None:
    text = print_html(told("block_diffusion"))
    assert "NLD101" in text
    assert 'class="promise open"' in text
