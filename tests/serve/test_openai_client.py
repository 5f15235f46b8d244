"""OpenAI's own Python client against a live server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from asking import Live, said, until
from fastapi import FastAPI
from openai import OpenAI

from nldc.runtime import Decoder


@pytest.fixture(scope="module")
def client(live: Live) -> Iterator[OpenAI]:
    with OpenAI(base_url=live.url + "/v1", api_key="none", max_retries=0) as found:
        yield found


def test_it_lists_the_model(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["demo"]
    assert client.models.retrieve("demo").owned_by == "nldc"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_it_chats(client: OpenAI, decoder: Decoder) -> None:
    found = client.chat.completions.create(
        model="demo",
        messages=said("x = 1"),
        max_tokens=12,
        temperature=0,  # type: ignore[arg-type]
    )
    whole = decoder.generate([said("x = 1")], chat=True, max_new_tokens=12).text[0]
    message = found.choices[0].message
    assert (message.role, found.choices[0].finish_reason) == ("assistant", "length")
    assert found.usage is not None
    assert found.usage.completion_tokens == 12
    events = client.chat.completions.create(
        model="demo",
        messages=said("x = 1"),  # type: ignore[arg-type]
        max_tokens=12,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(events)
    text = "".join(
        (one.delta.content or "") + (getattr(one.delta, "reasoning_content", None) or "")
        for chunk in chunks
        for one in chunk.choices
    )
    assert text == (getattr(message, "reasoning_content", None) or "") + (message.content or "")
    assert text == whole.replace("(", "").replace(")", "")
    assert chunks[-1].usage == found.usage


def test_it_completes(client: OpenAI, decoder: Decoder) -> None:
    prompts = ["def f(", "import "]
    found = client.completions.create(
        model="demo", prompt=prompts, max_tokens=8, n=2, temperature=0.8, seed=5
    )
    expected = decoder.generate(
        ["def f(", "def f(", "import ", "import "], max_new_tokens=8, temperature=0.8, seed=5
    ).text
    assert [choice.text for choice in found.choices] == expected
    pieces = client.completions.create(
        model="demo", prompt="def f(", max_tokens=8, temperature=0.8, seed=5, stream=True
    )
    assert "".join(piece.choices[0].text for piece in pieces) == expected[0]


def test_it_reads_log_probabilities(client: OpenAI, decoder: Decoder) -> None:
    (wanted,) = decoder.generate(["def f("], max_new_tokens=6, logprobs=2).logprobs
    logprobs = (
        client.completions.create(
            model="demo", prompt="def f(", max_tokens=6, temperature=0, logprobs=2
        )
        .choices[0]
        .logprobs
    )
    assert logprobs is not None
    assert logprobs.token_logprobs == [each.logprob for each in wanted]
    asked = {"model": "demo", "messages": said("def f("), "max_tokens": 6, "temperature": 0}
    whole = client.chat.completions.create(**asked, logprobs=True, top_logprobs=2)  # type: ignore[call-overload]
    content = whole.choices[0].logprobs.content
    assert [len(each.top_logprobs) for each in content] == [2] * 6
    chunks = client.chat.completions.create(  # type: ignore[call-overload]
        **asked, logprobs=True, top_logprobs=2, stream=True
    )
    told = [choice.logprobs for chunk in chunks for choice in chunk.choices]
    assert [each for one in told if one is not None for each in one.content] == content


def test_it_scores_a_prompt(client: OpenAI, decoder: Decoder) -> None:
    (score,) = decoder.score(["def f("])
    found = client.completions.create(
        model="demo", prompt="def f(", max_tokens=0, echo=True, logprobs=0
    ).choices[0]
    assert found.text == "def f("
    assert found.logprobs is not None
    assert found.logprobs.token_logprobs is not None
    assert found.logprobs.token_logprobs[1:] == [
        each and each.logprob for each in score.logprobs[1:]
    ]


def test_it_knows_a_missing_key_and_a_full_queue(apps: Any) -> None:
    server = Live(apps(api_keys=("secret",), live=1, queue=1))
    with OpenAI(base_url=server.url + "/v1", api_key="secret", max_retries=0) as known:
        with pytest.raises(openai.AuthenticationError):
            known.with_options(api_key="wrong").models.list()
        with pytest.raises(openai.RateLimitError) as full:
            known.completions.create(model="demo", prompt=["a"] * 4)
        assert full.value.response.headers["retry-after"] == "1"
        assert known.completions.create(model="demo", prompt="a").choices
    server.close()


def test_a_call_that_it_waits_for_no_longer_is_cancelled(client: OpenAI, app: FastAPI) -> None:
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.5).completions.create(
            model="demo", prompt="a", max_tokens=3000, extra_body={"ignore_eos": True}
        )
    until(lambda: app.state.service.engine.idle, 5)


def test_it_raises_its_own_errors(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(
            model="demo",
            messages=said("a"),  # type: ignore[arg-type]
            tools=[{"type": "function", "function": {"name": "f"}}],
        )
    assert refused.value.param == "tools"
    assert refused.value.code == "unsupported_parameter"
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="gpt", prompt="a")


def test_an_error_within_a_stream_is_raised(client: OpenAI) -> None:
    pieces = client.completions.create(
        model="demo",
        prompt="a",
        max_tokens=3000,
        stream=True,
        extra_body={"timeout": 0.3, "ignore_eos": True},
    )
    with pytest.raises(openai.APIError, match="longer than"):
        list(pieces)


def test_a_stream_that_is_closed_is_cancelled(client: OpenAI, app: FastAPI) -> None:
    pieces = client.completions.create(
        model="demo", prompt="a", max_tokens=3000, stream=True, extra_body={"ignore_eos": True}
    )
    next(iter(pieces))
    engine = app.state.service.engine
    assert engine.live == 1
    pieces.close()
    until(lambda: engine.idle, 5)
