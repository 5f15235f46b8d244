"""What the application's OpenAPI document says of bodies and answers is so."""

from __future__ import annotations

from typing import Any

import pytest
from asking import CHAT, TEXT, answer, get, post, problem, said
from fastapi import FastAPI
from pydantic import BaseModel

from nldc.serve.answers import ChatAnswer, CompletionAnswer, ErrorAnswer, Model, ModelList
from nldc.serve.fields import NEUTRAL
from nldc.serve.openapi import ANYWHERE, OF_BODIES


@pytest.fixture(scope="module")
def document(app: FastAPI) -> dict[str, Any]:
    found: dict[str, Any] = get(app, "/openapi.json").json()
    return found


def holds(kind: type[BaseModel], found: dict[str, Any]) -> None:
    """An answer is of its kind, and has no more than that says."""
    kind.model_validate(found, strict=True)


@pytest.mark.parametrize("more", [{}, {"nldc": {"metrics": True}}, {"logprobs": 2, "echo": True}])
def test_a_completion_is_what_the_document_says(app: FastAPI, more: dict[str, Any]) -> None:
    holds(CompletionAnswer, answer(app, TEXT, prompt=["a", "b"], max_tokens=3, n=2, **more))


@pytest.mark.parametrize("more", [{}, {"logprobs": True, "top_logprobs": 2}])
def test_a_chat_is_what_the_document_says(app: FastAPI, more: dict[str, Any]) -> None:
    thinking = {"enable_thinking": True}
    body = {"messages": said("f"), "max_tokens": 40, "chat_template_kwargs": thinking}
    found = answer(app, CHAT, **body, **more)
    assert "reasoning_content" in found["choices"][0]["message"]
    holds(ChatAnswer, found)


def test_facts_and_errors_are_what_the_document_says(app: FastAPI) -> None:
    holds(ModelList, get(app, "/v1/models").json())
    holds(Model, get(app, "/v1/models/demo").json())
    refused = post(app, TEXT, {"prompt": "a", "model": "other"})
    assert problem(refused, 404)
    holds(ErrorAnswer, refused.json())


def test_every_status_that_a_body_may_get_is_documented(document: dict[str, Any]) -> None:
    for path in (CHAT, TEXT):
        known = document["paths"][path]["post"]["responses"]
        assert set(known) == {"200", *map(str, {**ANYWHERE, **OF_BODIES})}
        assert set(known["200"]["content"]) == {"application/json", "text/event-stream"}
    statuses = {status for path in document["paths"].values() for one in path.values()
                for status in one["responses"]}  # fmt: skip
    assert "422" not in statuses


def test_a_schema_names_the_model_and_allows_what_changes_nothing(
    app: FastAPI, document: dict[str, Any]
) -> None:
    schemas = document["components"]["schemas"]
    assert {"enum": ["demo"]} in schemas["ChatRequest"]["properties"]["model"]["anyOf"]
    for name, value in NEUTRAL.items():
        assert {"enum": [value]} in schemas["ChatRequest"]["properties"][name]["anyOf"]
    nothing = schemas["Message"]["additionalProperties"]["enum"]
    assert nothing == [None, []]
    for value in nothing:
        messages = [{"role": "user", "content": "a", "name": value, "other": value}]
        assert answer(app, CHAT, messages=messages, max_tokens=1)
