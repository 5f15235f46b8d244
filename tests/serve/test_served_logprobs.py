"""Log-probabilities through the server are the decoder's own, in the forms that OpenAI has."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from asking import CHAT, TEXT, answer, post, problem, said, streamed, text_of
from fastapi import FastAPI

from nldc.runtime import Decoder
from nldc.runtime.step.logprobs import TokenLogprob
from nldc.serve.logprobs import LEAST, Placed, of_chat, of_completion

PROMPT = "def fib("
LONG = 20


def joined(parts: list[dict[str, list[Any]] | None]) -> dict[str, list[Any]]:
    """The log-probabilities of pieces, one behind the other."""
    found: dict[str, list[Any]] = {}
    for part in parts:
        for name, values in (part or {}).items():
            if values is not None:
                found.setdefault(name, []).extend(values)
    return found


@pytest.mark.parametrize("strategy", ["linear_ss", "quadratic_ss", "prompt_lookup"])
def test_an_exact_strategy_tells_ars_to_the_bit(app: FastAPI, strategy: str) -> None:
    body = {"prompt": PROMPT, "max_tokens": LONG, "logprobs": 3, "temperature": 0.7, "seed": 3}
    ar = answer(app, TEXT, **body, strategy="ar")["choices"]
    assert answer(app, TEXT, **body, strategy=strategy)["choices"] == ar


def test_a_completions_are_the_decoders(app: FastAPI, decoder: Decoder) -> None:
    result = decoder.generate([PROMPT], max_new_tokens=LONG, logprobs=2)
    found = answer(app, TEXT, prompt=PROMPT, max_tokens=LONG, logprobs=2)["choices"][0]
    logprobs = found["logprobs"]
    assert set(logprobs) == {"tokens", "token_logprobs", "top_logprobs", "text_offset"}
    assert logprobs["token_logprobs"] == [each.logprob for each in result.logprobs[0]]
    for each, token, top in zip(
        result.logprobs[0], logprobs["tokens"], logprobs["top_logprobs"], strict=True
    ):
        assert sorted(top.values(), reverse=True) == [logprob for _, logprob in each.top]
        assert top[token] == each.logprob
    assert found["text"] == result.text[0] == "".join(logprobs["tokens"])


def test_an_offset_is_where_a_token_begins_in_the_text(app: FastAPI) -> None:
    found = answer(app, TEXT, prompt=PROMPT, max_tokens=LONG, logprobs=0, echo=True)["choices"][0]
    starts = found["logprobs"]["text_offset"]
    begin = next(n for n, text in enumerate(found["logprobs"]["tokens"]) if text != "<s>")
    assert starts[begin] == 0
    parts = [found["text"][start:end] for start, end in pairwise([*starts, None])]
    assert parts[begin:] == found["logprobs"]["tokens"][begin:]


@pytest.mark.parametrize("as_text", [True, False])
def test_an_echo_is_the_prompt_with_its_own(app: FastAPI, decoder: Decoder, as_text: bool) -> None:
    tokens = decoder.tokenizer.encode(PROMPT)
    body = {"prompt": PROMPT if as_text else tokens, "echo": True, "logprobs": 1}
    (score,) = decoder.score([tokens])
    alone = answer(app, TEXT, **body, max_tokens=0)
    (one,) = alone["choices"]
    assert (one["text"], one["finish_reason"]) == (PROMPT, "length")
    assert one["logprobs"]["token_logprobs"] == [each and each.logprob for each in score.logprobs]
    assert one["logprobs"]["top_logprobs"][0] is None
    assert alone["usage"] == {
        "prompt_tokens": len(tokens),
        "completion_tokens": 0,
        "total_tokens": len(tokens),
    }
    more = answer(app, TEXT, **body, max_tokens=5)["choices"][0]
    assert more["text"] == PROMPT + decoder.generate([PROMPT], max_new_tokens=5).text[0]
    for name, values in one["logprobs"].items():
        assert more["logprobs"][name][: len(tokens)] == values
        assert len(more["logprobs"][name]) == len(tokens) + 5


def test_an_echo_needs_no_logprobs(app: FastAPI) -> None:
    found = answer(app, TEXT, prompt=["a b", "x"], echo=True, max_tokens=0)["choices"]
    assert [(one["text"], one["logprobs"]) for one in found] == [("a b", None), ("x", None)]
    plain = answer(app, TEXT, prompt="a b", max_tokens=4, n=2)["choices"]
    told = answer(app, TEXT, prompt="a b", max_tokens=4, n=2, echo=True)["choices"]
    assert [one["text"] for one in told] == ["a b" + one["text"] for one in plain]


def test_an_echo_of_special_tokens_is_the_text_that_was_given(app: FastAPI) -> None:
    found = answer(app, TEXT, prompt="a</s>b", echo=True, max_tokens=0, logprobs=0)["choices"][0]
    assert found["text"] == "a</s>b"
    end = found["logprobs"]["tokens"].index("</s>")
    assert found["logprobs"]["text_offset"][end] == 1


@pytest.mark.parametrize("echo", [False, True])
def test_a_streams_are_those_of_the_whole(app: FastAPI, echo: bool) -> None:
    body = {"prompt": PROMPT, "max_tokens": LONG, "logprobs": 1, "echo": echo, "stop": ["\n\n"]}
    whole = answer(app, TEXT, **body)["choices"][0]
    events = streamed(app, TEXT, **body)
    assert text_of(events) == whole["text"]
    parts = [one["logprobs"] for event in events for one in event["choices"]]
    assert joined(parts) == whole["logprobs"]


def test_a_prompt_alone_is_streamed(app: FastAPI) -> None:
    body = {"prompt": PROMPT, "max_tokens": 0, "logprobs": 1, "echo": True}
    whole = answer(app, TEXT, **body)["choices"][0]
    first, last = streamed(app, TEXT, **body)
    assert first["choices"][0]["logprobs"] == whole["logprobs"]
    assert first["choices"][0]["text"] == PROMPT
    assert last["choices"][0]["finish_reason"] == "length"


def test_a_chats_are_the_decoders_and_thoughts_are_among_them(
    app: FastAPI, decoder: Decoder
) -> None:
    options: dict[str, Any] = {"template_variables": {"enable_thinking": True}, "chat": True}
    result = decoder.generate([said("f")], max_new_tokens=64, logprobs=2, **options)
    body = {
        "messages": said("f"),
        "max_tokens": 64,
        "logprobs": True,
        "top_logprobs": 2,
        "chat_template_kwargs": {"enable_thinking": True},
    }
    found = answer(app, CHAT, **body)["choices"][0]
    assert found["message"]["reasoning_content"]
    assert found["logprobs"]["refusal"] is None
    content = found["logprobs"]["content"]
    assert [one["logprob"] for one in content] == [one.logprob for one in result.logprobs[0]]
    for one, of in zip(content, result.logprobs[0], strict=True):
        assert [top["logprob"] for top in one["top_logprobs"]] == [each for _, each in of.top]
        assert bytes(one["bytes"]).decode() == one["token"]
    assert b"".join(bytes(one["bytes"]) for one in content).decode() == result.text[0]
    events = streamed(app, CHAT, **body)
    parts = [one["logprobs"] for event in events for one in event["choices"]]
    assert joined(parts)["content"] == content


def test_a_chat_may_have_them_without_others_beside(app: FastAPI) -> None:
    found = answer(app, CHAT, messages=said("f"), max_tokens=3, logprobs=True)["choices"][0]
    assert [one["top_logprobs"] for one in found["logprobs"]["content"]] == [[], [], []]
    plain = answer(app, CHAT, messages=said("f"), max_tokens=3)["choices"][0]
    assert plain["logprobs"] is None


def test_what_changes_the_choice_does_not_change_them(app: FastAPI) -> None:
    """A bias that forces a token: its log-probability is the model's own."""
    forced = answer(app, TEXT, prompt=PROMPT, max_tokens=1, logprobs=1, logit_bias={"7": 100})
    (logprob,) = forced["choices"][0]["logprobs"]["token_logprobs"]
    assert logprob < -1


def test_the_token_itself_is_beside_the_likeliest(app: FastAPI) -> None:
    body = {"prompt": PROMPT, "max_tokens": 1, "logprobs": 2, "logit_bias": {"7": 100}}
    logprobs = answer(app, TEXT, **body)["choices"][0]["logprobs"]
    (top,), (token,) = logprobs["top_logprobs"], logprobs["tokens"]
    assert len(top) == 3
    assert top[token] == min(top.values()) == logprobs["token_logprobs"][0]


def test_a_call_may_ask_for_so_many_and_no_more(apps: Any) -> None:
    app = apps(logprobs=60)
    body = {"prompt": "a", "max_tokens": 10, "logprobs": 2}
    assert answer(app, TEXT, **body, n=2)
    for more in ({"n": 3}, {"n": 2, "echo": True}):
        error = problem(post(app, TEXT, {**body, **more}), 400)
        assert (error["param"], error["code"]) == ("logprobs", "too_many_logprobs")


class Spelling:
    """Stands in for a tokenizer whose tokens are spelled so."""

    def __init__(self, *tokens: bytes) -> None:
        self._tokens = tokens

    def bytes_of(self, token: int) -> bytes:
        return self._tokens[token]


def test_part_of_a_character_is_told_by_its_bytes() -> None:
    tokenizer: Any = Spelling(b"\xe2\x82", b"\xac")
    placed = [Placed(n, 0, TokenLogprob(n, -1.0, True, ((n, -1.0),))) for n in range(2)]
    found = of_completion(tokenizer, placed)
    assert found["tokens"] == ["bytes:\\xe2\\x82", "bytes:\\xac"]
    content = of_chat(tokenizer, placed)["content"]
    assert [one["token"] for one in content] == ["\\xe2\\x82", "\\xac"]
    assert bytes(content[0]["bytes"] + content[1]["bytes"]).decode() == "€"


def test_a_token_that_cannot_come_has_a_number_that_json_has() -> None:
    tokenizer: Any = Spelling(b"a", b"a")
    placed = [Placed(0, 0, TokenLogprob(0, float("-inf"), False, ((1, -0.5),)))]
    assert of_chat(tokenizer, placed)["content"][0]["logprob"] == LEAST
    found = of_completion(tokenizer, placed)
    assert found["token_logprobs"] == [LEAST]
    assert found["top_logprobs"] == [{"a": -0.5}]
