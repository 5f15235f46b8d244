"""Streams: their form, what they count, and how each piece of text came to be."""

from __future__ import annotations

from typing import Any

import pytest
from asking import CHAT, TEXT, answer, said, streamed, text_of
from fastapi import FastAPI


def test_a_chat_begins_with_the_role_and_ends_with_why(app: FastAPI) -> None:
    events = streamed(app, CHAT, messages=said("a"), max_tokens=6)
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    assert len({event["id"] for event in events}) == 1
    choices = [event["choices"][0] for event in events]
    assert choices[0]["delta"] == {"role": "assistant", "content": ""}
    assert [one["finish_reason"] for one in choices] == [None] * (len(choices) - 1) + ["length"]
    assert choices[-1]["delta"] == {}
    assert all("usage" not in event for event in events)


def test_choices_are_streamed_side_by_side(app: FastAPI) -> None:
    body: dict[str, Any] = {"prompt": ["a", "b"], "n": 2, "max_tokens": 9, "seed": 3}
    body["temperature"] = 1
    whole = answer(app, TEXT, **body)["choices"]
    events = streamed(app, TEXT, **body)
    assert [text_of(events, index) for index in range(4)] == [one["text"] for one in whole]
    ends = [one["index"] for event in events for one in event["choices"] if one["finish_reason"]]
    assert sorted(ends) == [0, 1, 2, 3]


def test_usage_comes_last_where_it_is_asked_for(app: FastAPI) -> None:
    body: dict[str, Any] = {"prompt": "a b c", "max_tokens": 6}
    events = streamed(app, TEXT, **body, stream_options={"include_usage": True})
    assert events[-1]["choices"] == []
    assert events[-1]["usage"] == answer(app, TEXT, **body)["usage"]
    assert all(event["usage"] is None for event in events[:-1])


def test_usage_comes_with_every_piece_where_it_is_asked_for(app: FastAPI) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    events = streamed(app, TEXT, prompt="a b c", max_tokens=6, stream_options=options)
    counts = [event["usage"]["completion_tokens"] for event in events]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1] == 6


@pytest.mark.parametrize("strategy", ["linear_ss", "quadratic_ss", "ar", "block_diffusion"])
def test_every_piece_says_how_it_came_to_be(app: FastAPI, strategy: str) -> None:
    asked = {"steps": True, "metrics": True}
    body: dict[str, Any] = {"prompt": "def f(self", "max_tokens": 24, "strategy": strategy}
    events = streamed(app, TEXT, **body, nldc=asked)
    told = [
        (one["text"], one["nldc"]) for event in events for one in event["choices"] if "nldc" in one
    ]
    for text, each in told:
        assert "".join(span["text"] for span in each["spans"]) == text
    spans = [span for _, each in told for span in each["spans"]]
    steps = {step["number"]: step for _, each in told for step in each["steps"]}
    assert {span["step"] for span in spans} <= set(steps)
    origins = {span["origin"] for span in spans}
    expected = {
        "linear_ss": {"prefill", "accepted", "bonus"},
        "quadratic_ss": {"accepted", "bonus"},
        "ar": {"prefill", "ar"},
        "block_diffusion": {"diffused"},
    }
    assert origins == expected[strategy]
    last = told[-1][1]
    drafts = events[-1]["metrics"]["speculative_decoding"]
    assert last["accepted"] == drafts["num_accepted_draft_tokens"]
    assert last["drafted"] == drafts["num_draft_tokens"]
    assert last["forwards"] == events[-1]["metrics"]["forwards"]
    assert last["tokens"] == 24


def test_what_nobody_asks_for_is_not_there(app: FastAPI) -> None:
    found = answer(app, TEXT, prompt="a", max_tokens=3)
    assert set(found) == {"id", "object", "created", "model", "choices", "usage"}
    events = streamed(app, TEXT, prompt="a", max_tokens=3)
    assert all("nldc" not in one for event in events for one in event["choices"])


def test_the_first_token_of_a_step_is_the_verifiers_where_drafts_come_behind_it(
    app: FastAPI,
) -> None:
    body: dict[str, Any] = {
        "prompt": "import os\nimport ",
        "max_tokens": 24,
        "nldc": {"steps": True},
    }
    for strategy, place in (("linear_ss", -1), ("quadratic_ss", 0)):
        events = streamed(app, TEXT, **body, strategy=strategy)
        found = [
            [span["origin"] for span in one["nldc"]["spans"]]
            for event in events
            for one in event["choices"]
            if "nldc" in one
        ]
        several = [origins for origins in found[1:-1] if len(origins) > 1]
        assert several
        assert all(origins[place] == "bonus" for origins in several)
