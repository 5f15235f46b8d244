"""What the server answers is what the decoder decodes, whoever else is served meanwhile."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from asking import CHAT, TEXT, answer, get, pieces, said, streamed, text_of, with_client
from fastapi import FastAPI

from nldc.runtime import Decoder

EXACT = ("linear_ss", "ar", "quadratic_ss", "prompt_lookup")
PROMPTS = (
    "def fib(",
    "import os\n",
    "class A:\n    def ",
    "for x in ",
    "a = b",
    "return [",
    "# the ",
    "x",
)
LONG = 24


@pytest.fixture(scope="module")
def expected(decoder: Decoder) -> list[str]:
    return decoder.generate(list(PROMPTS), strategy="ar", max_new_tokens=LONG).text


@pytest.mark.parametrize("strategy", EXACT)
def test_a_greedy_completion_is_what_the_decoder_gives(
    app: FastAPI, expected: list[str], strategy: str
) -> None:
    body = {"prompt": PROMPTS[0], "max_tokens": LONG, "strategy": strategy}
    found = answer(app, TEXT, **body)
    assert found["choices"][0]["text"] == expected[0]
    assert found["choices"][0]["finish_reason"] == "length"
    assert found["usage"]["completion_tokens"] == LONG
    assert text_of(streamed(app, TEXT, **body)) == expected[0]


@pytest.mark.parametrize("stream", [False, True])
def test_eight_at_a_time_get_the_same_while_others_join_and_leave(
    app: FastAPI, expected: list[str], stream: bool
) -> None:
    async def one(client: httpx.AsyncClient, number: int) -> str:
        body = {
            "prompt": PROMPTS[number],
            "max_tokens": LONG,
            "strategy": EXACT[number % len(EXACT)],
            "stream": stream,
        }
        response = await client.post(TEXT, json=body)
        assert response.status_code == 200, response.text
        return text_of(pieces(response.text)) if stream else response.json()["choices"][0]["text"]

    async def passing(client: httpx.AsyncClient) -> None:
        """One that leaves before it has its answer."""
        work = client.post(TEXT, json={"prompt": "y", "max_tokens": 500, "ignore_eos": True})
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(work, 0.1)

    async def all_of_them(client: httpx.AsyncClient) -> list[str]:
        others = [asyncio.create_task(passing(client)) for _ in range(3)]
        texts = await asyncio.gather(*(one(client, number) for number in range(8)))
        await asyncio.gather(*others)
        return texts

    assert with_client(app, all_of_them) == expected


def test_a_sampled_answer_is_its_seeds_alone(app: FastAPI, decoder: Decoder) -> None:
    asked: dict[str, Any] = {"temperature": 0.9, "seed": 7, "top_p": 0.9}
    alone = decoder.generate(["def a"] * 3, max_new_tokens=LONG, **asked).text

    async def loaded(client: httpx.AsyncClient) -> list[httpx.Response]:
        others = [client.post(TEXT, json={"prompt": text, "temperature": 1}) for text in PROMPTS]
        mine = client.post(TEXT, json={"prompt": "def a", "n": 3, "max_tokens": LONG, **asked})
        return await asyncio.gather(mine, *others)

    found = with_client(app, loaded)[0].json()["choices"]
    assert [each["text"] for each in found] == alone
    assert len(set(alone)) > 1


def test_without_a_seed_every_call_samples_anew(app: FastAPI) -> None:
    body = {"prompt": "def ", "temperature": 1.5, "max_tokens": 24}
    assert answer(app, TEXT, **body)["choices"] != answer(app, TEXT, **body)["choices"]


def test_a_temperature_that_nobody_gives_is_the_settings(app: FastAPI, expected: list[str]) -> None:
    assert app.state.service.settings.temperature == 0
    found = answer(app, TEXT, prompt=PROMPTS[0], max_tokens=LONG)
    assert found["choices"][0]["text"] == expected[0]


def test_prompts_come_as_texts_and_as_tokens(
    app: FastAPI, decoder: Decoder, expected: list[str]
) -> None:
    tokens = [decoder.tokenizer.encode(text) for text in PROMPTS[:2]]
    for prompt in (list(PROMPTS[:2]), tokens):
        found = answer(app, TEXT, prompt=prompt, max_tokens=LONG)
        assert [one["text"] for one in found["choices"]] == expected[:2]
        assert [one["index"] for one in found["choices"]] == [0, 1]
        assert found["usage"]["prompt_tokens"] == sum(map(len, tokens))
    alone = answer(app, TEXT, prompt=tokens[1], max_tokens=LONG)
    assert alone["choices"][0]["text"] == expected[1]


def test_a_prompt_counts_once_whatever_n_is(app: FastAPI, decoder: Decoder) -> None:
    found = answer(app, TEXT, prompt=["a b", "c"], n=2, max_tokens=3)
    length = sum(len(decoder.tokenizer.encode(text)) for text in ("a b", "c"))
    assert len(found["choices"]) == 4
    assert found["usage"] == {
        "prompt_tokens": length,
        "completion_tokens": 12,
        "total_tokens": length + 12,
    }


def test_a_text_ends_before_a_stop_string(app: FastAPI, expected: list[str]) -> None:
    stop = expected[0][5:8]
    found = answer(app, TEXT, prompt=PROMPTS[0], max_tokens=LONG, stop=[stop, "never"])
    one = found["choices"][0]
    assert one["text"] == expected[0][: expected[0].index(stop)]
    assert one["finish_reason"] == "stop"
    again = streamed(app, TEXT, prompt=PROMPTS[0], max_tokens=LONG, stop=stop)
    assert text_of(again) == one["text"]


def test_a_text_ends_at_a_special_token_that_a_stop_string_names(app: FastAPI) -> None:
    """The end is what the model writes once it is made to."""
    body = {"prompt": "a", "max_tokens": 8, "ignore_eos": True, "logit_bias": {"2": 100}}
    whole = answer(app, TEXT, **body)
    assert whole["usage"]["completion_tokens"] == 8
    found = answer(app, TEXT, **body, stop="</s>")
    assert found["usage"]["completion_tokens"] == 1
    one = found["choices"][0]
    assert (one["text"], one["finish_reason"]) == ("", "stop")
    ended = answer(app, TEXT, **{**body, "ignore_eos": False})
    assert ended["usage"]["completion_tokens"] == 1


def test_a_text_ends_at_a_stop_token(app: FastAPI, decoder: Decoder) -> None:
    tokens = decoder.generate([PROMPTS[0]], max_new_tokens=LONG).tokens[0]
    place = next(n for n, token in enumerate(tokens) if n > 3 and token not in tokens[:n])
    found = answer(app, TEXT, prompt=PROMPTS[0], max_tokens=LONG, stop_token_ids=[tokens[place]])
    assert found["choices"][0]["finish_reason"] == "stop"
    assert found["usage"]["completion_tokens"] == place + 1


def test_a_chat_goes_through_the_template(app: FastAPI, decoder: Decoder) -> None:
    talk = [{"role": "system", "content": "be brief"}, *said("x = 1")]
    tokens = decoder.generate([talk], chat=True, max_new_tokens=LONG).tokens[0]
    thought, shown = split(decoder, tokens, inside=False)
    found = answer(app, CHAT, messages=talk, max_completion_tokens=LONG)
    message = found["choices"][0]["message"]
    assert found["object"] == "chat.completion"
    assert (message["role"], message["content"]) == ("assistant", shown)
    assert message.get("reasoning_content", "") == thought


def test_a_developer_speaks_as_the_system_and_parts_of_text_are_one(app: FastAPI) -> None:
    plain = [{"role": "system", "content": "ab"}, *said("c")]
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    same = [{"role": "developer", "content": parts}, *said("c")]
    one = answer(app, CHAT, messages=plain, max_tokens=8)
    other = answer(app, CHAT, messages=same, max_tokens=8)
    assert one["choices"] == other["choices"]


def test_thoughts_stand_apart_from_the_answer(app: FastAPI, decoder: Decoder) -> None:
    body: dict[str, Any] = {
        "messages": said("f"),
        "max_tokens": 64,
        "chat_template_kwargs": {"enable_thinking": True},
    }
    whole = decoder.generate(
        [said("f")], chat=True, template_variables={"enable_thinking": True}, max_new_tokens=64
    )
    thoughts, answers = split(decoder, whole.tokens[0], inside=True)
    assert thoughts
    assert answers
    message = answer(app, CHAT, **body)["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == (thoughts, answers)
    events = streamed(app, CHAT, **body)
    assert text_of(events, name="reasoning_content") == thoughts
    assert text_of(events) == answers


def split(decoder: Decoder, tokens: list[int], inside: bool) -> tuple[str, str]:
    """The text of a thought and of what is none, by the marks between them."""
    start, end = (decoder.tokenizer.id_of_text(mark) for mark in "()")
    sides: tuple[list[int], list[int]] = ([], [])
    for token in tokens:
        if token in (start, end):
            inside = token == start
        else:
            sides[not inside].append(token)
    thought, shown = (decoder.tokenizer.decode(side) for side in sides)
    return thought, shown


def test_a_thought_is_bounded(app: FastAPI) -> None:
    found = answer(
        app,
        CHAT,
        messages=said("f"),
        max_tokens=16,
        max_thinking_tokens=3,
        chat_template_kwargs={"enable_thinking": True},
    )
    assert found["usage"]["completion_tokens_details"]["reasoning_tokens"] >= 3
    assert found["choices"][0]["message"]["content"]


def test_nothing_is_split_where_special_tokens_are_to_be_shown(
    app: FastAPI, decoder: Decoder
) -> None:
    variables = {"enable_thinking": True}
    text = decoder.generate(
        [said("f")], chat=True, template_variables=variables, max_new_tokens=64
    ).text[0]
    body = {"messages": said("f"), "max_tokens": 64, "chat_template_kwargs": variables}
    found = answer(app, CHAT, **body, skip_special_tokens=False)["choices"][0]["message"]
    assert found == {"role": "assistant", "content": text}
    assert ")" in text


def test_a_strategy_may_change_on_the_way(app: FastAPI, expected: list[str]) -> None:
    found = answer(
        app,
        TEXT,
        prompt=PROMPTS[0],
        max_tokens=LONG,
        strategy="ar:4,quadratic_ss:6,linear_ss",
        nldc={"metrics": True},
    )
    assert found["choices"][0]["text"] == expected[0]
    assert found["metrics"]["strategies"] == ["ar", "quadratic_ss", "linear_ss"]


def test_many_live_sequences_are_decoded_by_ar_with_the_same_text(app: FastAPI) -> None:
    body = {"prompt": ["q ="] * 12, "max_tokens": 12, "nldc": {"metrics": True}}
    found = answer(app, TEXT, **body)
    assert "ar" in found["metrics"]["strategies"]
    alone = answer(app, TEXT, **{**body, "prompt": "q ="})
    assert alone["metrics"]["strategies"] == ["linear_ss"]
    assert {one["text"] for one in found["choices"]} == {alone["choices"][0]["text"]}


def test_what_a_call_cost_is_what_the_decoder_says(app: FastAPI, decoder: Decoder) -> None:
    stats = decoder.generate([PROMPTS[0]], max_new_tokens=LONG).stats[0]
    found = answer(app, TEXT, prompt=PROMPTS[0], max_tokens=LONG, nldc={"metrics": True})
    cost, drafts = found["metrics"], found["metrics"]["speculative_decoding"]
    assert cost["forwards"] == stats.nfe
    assert cost["forwards_per_token"] == pytest.approx(stats.nfe / LONG)
    assert drafts["num_spec_steps"] == len(stats.accepted)
    assert drafts["num_accepted_draft_tokens"] == sum(stats.accepted) - len(stats.accepted)
    assert drafts["num_draft_tokens"] == 3 * len(stats.accepted)
    histogram = drafts["acceptance_histogram"]
    assert {n + 1: times for n, times in enumerate(histogram) if times} == stats.histogram


def test_a_call_brings_params_of_its_strategy(app: FastAPI, decoder: Decoder) -> None:
    way = {"strategy": "block_diffusion", "max_tokens": 12}
    given = {"threshold": 0.0}
    found = answer(app, TEXT, prompt="import ", **way, strategy_params=given)
    wanted = decoder.generate(
        "import ", strategy="block_diffusion", max_new_tokens=12, params=given
    )
    assert found["choices"][0]["text"] == wanted.text[0]
    (model,) = get(app, "/v1/models").json()["data"]
    held = model["nldc"]["strategies"]
    assert held["ar"]["params"] == {}
    assert held["block_diffusion"]["params"]["threshold"] == {
        "type": "float", "default": 0.9, "min": 0.0, "max": 1.0, "help": "how sure a row must be",
    }  # fmt: skip


def test_the_model_and_its_strategies_are_listed(app: FastAPI) -> None:
    (model,) = get(app, "/v1/models").json()["data"]
    assert model["id"] == "demo"
    assert model["nldc"]["route"] == "ar: live > 8, linear_ss"
    assert model["nldc"]["strategies"]["ar"]["guarantee"] == "exact"
    assert get(app, "/v1/models/demo").json() == model
    assert get(app, "/v1/models/other").status_code == 404
    assert set(get(app, "/version").json()) == {"version"}
    assert json.loads(get(app, "/openapi.json").text)["components"]["schemas"]["ChatRequest"]
