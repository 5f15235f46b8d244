"""Bodies that mean two things, or that would cost more than they say, are refused as 400."""

from __future__ import annotations

import time
from contextlib import suppress

import pytest
from asking import TEXT, post, problem
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st

from nldc.serve.errors import ApiError
from nldc.serve.strict_json import DEEPEST, parse

HOSTILE = {
    "nothing": b"",
    "no JSON": b"{prompt: 1}",
    "half": b'{"prompt": "a',
    "no object": b"[1]",
    "not UTF-8": b'{"prompt": "\xff"}',
    "deep": b'{"metadata":' + b'{"a":' * 5000 + b"1" + b"}" * 5001,
    "deep lists": b'{"prompt":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a key twice": b'{"prompt": "a", "prompt": "b"}',
    "a key twice within": b'{"prompt": "a", "metadata": {"x": 1, "x": 2}}',
    "NaN": b'{"prompt": "a", "temperature": NaN}',
    "infinite": b'{"prompt": "a", "temperature": -Infinity}',
    "too large": b'{"prompt": "a", "temperature": 1e999}',
    "a huge whole number": b'{"prompt": "a", "seed": ' + b"9" * 10_000 + b"}",
    "half a character": b'{"prompt": "\\ud800"}',
    "a key of half a character": b'{"prompt": "a", "metadata": {"\\udfff": 1}}',
    "UTF-16": '{"prompt": "a"}'.encode("utf-16"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_body_that_is_no_plain_json_is_refused(app: FastAPI, name: str) -> None:
    error = problem(post(app, TEXT, HOSTILE[name]), 400)
    assert error["code"] == "invalid_json"


@pytest.mark.parametrize(
    "body",
    [b'{"a": "' + b'\\"' * 200_000, b'{"a": "' + b'\\"' * 200_000 + b"\\"],
    ids=["a text without end", "a text that ends in half an escape"],
)
def test_a_text_without_end_takes_no_longer_than_another(body: bytes) -> None:
    begin = time.process_time()
    with pytest.raises(ApiError):
        parse(body)
    assert time.process_time() - begin < 5  # hours, where each quote is tried as a beginning


def test_a_key_twice_behind_very_many_is_found_at_once() -> None:
    names = ",".join(f'"{number}":1' for number in range(100_000))
    begin = time.process_time()
    with pytest.raises(ApiError, match="`z` twice"):
        parse(f'{{{names},"z":1,"z":2}}'.encode())
    assert time.process_time() - begin < 10  # minutes, where each is looked for among all


def test_brackets_within_texts_are_no_depth() -> None:
    text = "[" * 1000 + '\\"' + "{" * 1000
    assert parse(b'{"prompt": "' + text.encode() + b'"}')["prompt"] == text.replace("\\", "")
    deep = b'{"a":' + b"[" * (DEEPEST - 1) + b"]" * (DEEPEST - 1) + b"}"
    assert parse(deep)["a"] is not None


@given(st.binary(max_size=200))
def test_any_bytes_are_an_object_or_refused(data: bytes) -> None:
    with suppress(ApiError):
        assert isinstance(parse(data), dict)
