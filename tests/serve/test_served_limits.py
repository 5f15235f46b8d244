"""What a call may take: bytes, tokens, time, places. Who takes more harms no other."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from asking import CHAT, JSON, TEXT, Live, answer, post, problem, received, said, until, with_client
from fastapi import FastAPI

from nldc.serve import bodies

ENDLESS: dict[str, Any] = {"prompt": "def f(", "max_tokens": 3000, "ignore_eos": True}


@pytest.fixture(scope="module")
def small(apps: Any) -> FastAPI:
    """An application with room for two sequences, and for one that waits."""
    app: FastAPI = apps(
        temperature=0.0,
        live=2,
        queue=1,
        body_bytes=2000,
        prompt_tokens=40,
        new_tokens=3500,
        sequences=4,
        body_seconds=0.3,
    )
    return app


def idle(app: FastAPI) -> bool:
    service = app.state.service
    return bool(service.engine.idle and service.idle)


def test_a_body_that_says_it_is_too_large_is_not_read(small: FastAPI) -> None:
    reads = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal reads
        reads += 1
        yield b"x" * 5000

    async def send(client: httpx.AsyncClient) -> httpx.Response:
        headers = {**JSON, "content-length": "5000"}
        return await client.post(TEXT, content=body(), headers=headers)

    assert problem(with_client(small, send), 413)["code"] == "body_too_large"
    assert reads == 0


def test_large_bodies_that_arrive_together_are_bounded_and_small_ones_let_in(
    apps: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "ARRIVING", 2)
    monkeypatch.setattr(bodies, "SMALL", 100)
    app = apps(body_bytes=1000)
    arriving = app.state.service.arriving
    arriving.bytes = 1900  # of others
    large = {"prompt": "a", "user": "u" * 500, "max_tokens": 1}
    error = problem(post(app, TEXT, large), 429)
    assert error["code"] == "queue_full"
    assert answer(app, TEXT, prompt="a", max_tokens=1)
    assert arriving.bytes == 1900
    arriving.bytes = 0
    assert answer(app, TEXT, **large)


def test_a_body_that_grows_too_large_is_read_no_further(small: FastAPI) -> None:
    reads = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal reads
        while True:
            reads += 1
            yield b"x" * 500

    async def send(client: httpx.AsyncClient) -> httpx.Response:
        return await client.post(TEXT, content=body(), headers=JSON)

    assert problem(with_client(small, send), 413)["code"] == "body_too_large"
    assert reads <= 6


def test_a_body_that_does_not_come_is_not_waited_for(small: FastAPI) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(60)

    async def send(client: httpx.AsyncClient) -> httpx.Response:
        return await client.post(TEXT, content=body(), headers=JSON)

    assert problem(with_client(small, send), 408)["code"] == "slow_body"


def test_a_body_of_another_kind_is_refused(app: FastAPI) -> None:
    """A page of another origin can send plain text without asking, and JSON it cannot."""
    response = post(app, TEXT, {"prompt": "a"}, {"content-type": "text/plain"})
    assert problem(response, 415)["code"] == "not_json"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": "x " * 200}, "prompt"),
        ({"prompt": [5] * 41}, "prompt"),
        ({"prompt": "a", "max_tokens": 3501}, "max_tokens"),
        ({"prompt": ["a"] * 5}, "prompt"),
        ({"prompt": "a", "n": 5}, "n"),
        ({"prompt": "a", "stop": ["a"] * 17}, "stop"),
        ({"prompt": "a", "stop": "a" * 257}, "stop"),
    ],
)
def test_what_is_too_much_is_refused(small: FastAPI, body: dict[str, Any], param: str) -> None:
    assert problem(post(small, TEXT, body), 400)["param"] == param


def test_more_than_the_context_is_refused(app: FastAPI) -> None:
    error = problem(post(app, TEXT, {"prompt": "a", "max_tokens": 4096}), 400)
    assert (error["param"], error["code"]) == ("max_tokens", "context_length_exceeded")
    error = problem(post(app, TEXT, {"prompt": "a b " * 300_000}), 400)
    assert error["code"] == "context_length_exceeded"
    error = problem(post(app, CHAT, {"messages": said("a b " * 300_000)}), 400)
    assert error["code"] == "context_length_exceeded"


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [1] * 400_000},
        {"messages": [{"role": "user", "content": [1] * 400_000}]},
        {"messages": [{f"k{n}": 1 for n in range(100_000)}]},
        {"messages": said("a"), "stop": [1] * 400_000},
        {"messages": said("a"), "stop_token_ids": ["a"] * 400_000},
        {"messages": said("a"), "nldc": {f"k{n}": 1 for n in range(100_000)}},
        {"messages": said("a"), "logit_bias": {f"k{n}": "a" for n in range(100_000)}},
    ],
)
def test_a_body_of_many_mistakes_is_refused_for_one(app: FastAPI, body: dict[str, Any]) -> None:
    since = time.process_time()
    problem(post(app, CHAT, body), 400)
    assert time.process_time() - since < 5


def test_many_prompts_are_refused_before_they_are_read(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(app.state.service.reader), "_given", None)
    for prompt in (["a"] * 100_000, [[1]] * 100_000):
        assert problem(post(app, TEXT, {"prompt": prompt}), 400)["param"] == "prompt"


def test_no_answer_tells_where_things_lie_on_the_server(
    app: FastAPI, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = replace(app.state.service.settings, chat_template=str(model / "none.jinja"))
    monkeypatch.setattr(app.state.service.reader, "_settings", missing)
    response = post(app, CHAT, {"messages": said("a")})
    assert "chat template" in problem(response, 400)["message"]
    assert str(model) not in response.text


def test_ten_thousand_stop_strings_are_refused(app: FastAPI) -> None:
    body = {"prompt": "a", "stop": [f"s{n}" for n in range(10_000)]}
    assert problem(post(app, TEXT, body), 400)["param"] == "stop"


def test_a_full_queue_sends_away_and_loses_nobody(small: FastAPI) -> None:
    async def flood(client: httpx.AsyncClient) -> list[httpx.Response]:
        body = {"prompt": "a", "max_tokens": 60, "ignore_eos": True}
        return await asyncio.gather(*(client.post(TEXT, json=body) for _ in range(12)))

    found = with_client(small, flood)
    sent_away = [one for one in found if one.status_code == 429]
    served = [one for one in found if one.status_code == 200]
    assert len(sent_away) + len(served) == 12
    assert served
    assert sent_away
    assert len({one.json()["choices"][0]["text"] for one in served}) == 1
    assert int(sent_away[0].headers["retry-after"]) > 0
    assert problem(sent_away[0], 429)["code"] == "queue_full"
    until(lambda: idle(small))


def test_a_call_of_more_than_fit_leaves_none_behind(small: FastAPI) -> None:
    async def ask(client: httpx.AsyncClient) -> list[httpx.Response]:
        long = [client.post(TEXT, json={**ENDLESS, "timeout": 0.5}) for _ in range(3)]
        begun = asyncio.gather(*long)
        await asyncio.sleep(0.2)
        late = await client.post(TEXT, json={"prompt": "a", "n": 4})
        return [late, *await begun]

    late, *_ = with_client(small, ask)
    assert late.status_code == 429
    until(lambda: idle(small))


def test_a_call_ends_when_its_time_is_up(small: FastAPI) -> None:
    error = problem(post(small, TEXT, {**ENDLESS, "timeout": 0.2}), 504)
    assert error["code"] == "deadline_exceeded"
    until(lambda: idle(small))


def test_a_stream_whose_time_is_up_says_so_in_its_last_event(small: FastAPI) -> None:
    text = post(small, TEXT, {**ENDLESS, "timeout": 0.3, "stream": True}).text
    *events, done, end = text.split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    assert json.loads(events[-1][6:])["error"]["code"] == "deadline_exceeded"
    until(lambda: idle(small))


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_place(app: FastAPI, live: Live, stream: bool) -> None:
    engine = app.state.service.engine
    connection = live.send_body(TEXT, {**ENDLESS, "stream": stream})
    until(lambda: engine.live == 1)
    connection.close()
    until(lambda: idle(app), 5)


def test_a_client_that_leaves_within_its_body_is_no_error(app: FastAPI, live: Live) -> None:
    head = f"POST {TEXT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    connection = live.send(f"{head}Content-Length: 500\r\n\r\n{{".encode())
    time.sleep(0.05)
    connection.close()
    until(lambda: not live.server.server_state.connections)
    assert idle(app)
    assert answer(app, TEXT, prompt="a", max_tokens=2)


def test_who_does_not_read_is_given_up_and_others_go_on(apps: Any) -> None:
    """The answer stays in this process, as `send` never returns."""
    app = apps(temperature=0.0, unread=20)
    service = app.state.service
    body = json.dumps({**ENDLESS, "stream": True}).encode()
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": TEXT,
        "raw_path": TEXT.encode(),
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
        "scheme": "http",
        "server": ("test", 80),
        "client": ("test", 1),
        "root_path": "",
    }

    async def run() -> None:
        bodies = iter([{"type": "http.request", "body": body, "more_body": False}])
        leaves = asyncio.Event()

        async def receive() -> dict[str, Any]:
            for message in bodies:
                return message
            await leaves.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.body":
                await asyncio.Event().wait()

        task = asyncio.create_task(app(scope, receive, send))
        (running,) = await first(lambda: list(service._calls))
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            other = await client.post(TEXT, json={"prompt": "a", "max_tokens": 60})
        assert other.status_code == 200
        await first(lambda: service.engine.idle)
        assert running._news.qsize() == 1
        assert running.answers[0].request.finish == "cancelled"
        leaves.set()
        await asyncio.wait_for(task, 10)

    asyncio.run(run())
    assert service.idle


async def first(found: Any, seconds: float = 20.0) -> Any:
    """What a function returns as soon as that is something."""
    async with asyncio.timeout(seconds):
        while not (result := found()):
            await asyncio.sleep(0.005)
    return result


@pytest.mark.serve
def test_a_slow_reader_gets_all_of_it(live: Live, app: FastAPI) -> None:
    body = {"prompt": "a", "max_tokens": 200, "stream": True, "ignore_eos": True}
    connection = live.send_body(TEXT, body)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    time.sleep(0.3)
    data = b""
    for part in received(connection):
        data += part
        if data.endswith(b"0\r\n\r\n"):
            break
    connection.close()
    assert b"data: [DONE]" in data
    until(lambda: idle(app))
