"""A page is one file that asks for nothing, and what it shows cannot become part of it."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from hashlib import sha256

import pytest

from nldc.view.page import as_json, page

HOSTILE = "</script><script>alert(1)</script><!-- \u2028 & 'x' \"y\""


def test_data_come_back_as_they_went_in_and_end_no_element() -> None:
    text = page("t", "<main></main>", {"words": [HOSTILE]})
    found = re.search(r'<script type="application/json" id="words">(.*?)</script>', text, re.S)
    assert found is not None
    assert json.loads(found[1]) == [HOSTILE]
    assert "alert(1)</script>" not in text


def test_what_turns_the_direction_of_text_is_read_and_not_obeyed() -> None:
    turned = "a\u202eb \\u202e \u2066c"
    text = page(turned, "", {"words": [turned]})
    found = re.search(r'id="words">(.*?)</script>', text)
    assert found is not None
    assert json.loads(found[1]) == ["a\\u202eb \\u202e \\u2066c"]
    assert "<h1>a\\u202eb" in text
    assert not re.search("[\u202e\u2066]", text)


def test_a_title_is_text() -> None:
    assert "<title>&lt;b&gt;</title>" in page("<b>", "", {})


def test_only_the_scripts_and_styles_of_the_page_itself_may_run() -> None:
    text = page("t", "", {})
    policy = re.search(r'Content-Security-Policy" content="(.*?)"', text)
    assert policy is not None
    for kind, tag in (("script", 'script type="module"'), ("style", "style")):
        inside = re.search(rf"<{tag}>(.*?)</{kind}>", text, re.S)
        assert inside is not None
        digest = b64encode(sha256(inside[1].encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy[1]
    assert "default-src 'none'" in policy[1]


def test_a_page_names_no_other_address() -> None:
    assert not re.search(r"https?://|url\(|@import", page("t", "", {}))


def test_a_number_that_is_not_finite_is_no_data() -> None:
    with pytest.raises(ValueError, match="JSON"):
        as_json({"loss": float("nan")})
