"""Whatever a body says, it is answered or refused: no request is the server's failure."""

from __future__ import annotations

from typing import Any

import pytest
from asking import CHAT, TEXT, post
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st

from nldc.serve.fields import UNSUPPORTED
from nldc.serve.protocol import ChatRequest, CompletionRequest

pytestmark = pytest.mark.serve

NAMES = sorted({*ChatRequest.model_fields, *CompletionRequest.model_fields, *UNSUPPORTED} - {"n"})
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-3, 2000)
    | st.sampled_from((2**31, 2**63, -(2**63), 2**64, 10**40, 0.0, -0.0, 1e-320, 1e308, 0.5))
    | st.text(max_size=6)
    | st.sampled_from(("ar", "ar:1,linear_ss", "ar:0", "demo", "</s>", "\x00", "user", "text"))
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(("role", "content", "type", "text", "include_usage", "steps", "a")),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)
FIELDS = st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=4)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(("user", "system", "assistant", "tool"))},
        optional={"content": VALUES, "name": VALUES, "reasoning_content": VALUES},
    ),
    max_size=3,
)


def check(app: FastAPI, path: str, body: dict[str, Any]) -> None:
    response = post(app, path, {**body, "max_tokens": 2, "timeout": 20})
    assert response.status_code in (200, 400, 404), response.text
    if response.status_code != 200:
        assert response.json()["error"]["message"]


@settings(max_examples=400)
@given(fields=FIELDS, prompt=VALUES | st.text(max_size=8) | st.lists(st.integers(0, 1023)))
def test_any_completion_is_answered_or_refused(app: FastAPI, fields: Any, prompt: Any) -> None:
    check(app, TEXT, {"prompt": prompt, **fields})


@settings(max_examples=400)
@given(fields=FIELDS, messages=MESSAGES)
def test_any_chat_is_answered_or_refused(app: FastAPI, fields: Any, messages: Any) -> None:
    check(app, CHAT, {"messages": messages, **fields})
