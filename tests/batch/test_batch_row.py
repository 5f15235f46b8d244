"""What rows ask for, and what is said of those that ask for nothing that can be had."""

from __future__ import annotations

from typing import Any

import pytest

from nldc.batch.row import Row, data_of, name_of, row_of
from nldc.runtime.errors import PromptError

TALK = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("line", "row"),
    [
        (b'"text"', Row("text", False, {}, {})),
        (b"[1, 2]", Row([1, 2], False, {}, {})),
        (b'{"prompt": "a", "seed": 3}', Row("a", False, {"seed": 3}, {})),
        (b'{"prompt": [1, 2], "id": 7}', Row([1, 2], False, {}, {})),
        (b'{"token_ids": [1], "stop": ["x"]}', Row([1], False, {"stop": ["x"]}, {})),
        (
            b'{"messages": [{"role": "user", "content": "hi"}], "system": "s"}',
            Row(TALK, True, {}, {"system": "s"}),
        ),
    ],
)
def test_a_row_is_a_prompt_with_options_of_its_own(line: bytes, row: Row) -> None:
    assert row_of(data_of(line)) == row


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (None, "longer than 16 MiB"),
        (b"{", "no JSON"),
        (b"text", "no JSON"),
        (b"\xff", "not UTF-8"),
        (b'"\\ud800"', "half a character"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"prompt": "a", "prompt": "b"}', "the key 'prompt' is there twice"),
        (b"7", "holds no prompt"),
        (b"{}", "the row has no prompt"),
        (b'{"prompt": null}', "the row has no prompt"),
        (b'{"prompt": 7}', "prompt is of another kind"),
        (b'{"token_ids": "a"}', "token_ids is of another kind"),
        (b'{"messages": "a"}', "messages is of another kind"),
        (b'{"prompt": "a", "messages": []}', "prompt and messages"),
        (b'{"prompt": "a", "temprature": 1}', "did you mean 'temperature'"),
        (b'{"prompt": "a", "source": "web"}', "--ignore-other-keys"),
    ],
)
def test_a_row_that_cannot_be_read_says_why(line: bytes | None, said: str) -> None:
    with pytest.raises(PromptError, match=said):
        row_of(data_of(line))


def test_keys_without_a_meaning_may_be_passed_over() -> None:
    assert row_of({"prompt": "a", "source": "web"}, may_have_more=True) == Row("a", False, {}, {})


@pytest.mark.parametrize(("given", "name"), [("a", "a"), (7, "7"), (None, None)])
def test_an_id_is_text_or_a_number(given: Any, name: str | None) -> None:
    assert name_of({"id": given}) == name
    assert name_of(["no", "object"]) is None


@pytest.mark.parametrize("given", [True, 1.5, ["a"]])
def test_an_id_of_another_kind_is_refused(given: Any) -> None:
    with pytest.raises(PromptError, match="id"):
        name_of({"id": given})
