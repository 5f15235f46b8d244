"""Asking an application: in this process, or over a socket."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import httpx
from fastapi import FastAPI

from nldc.serve.run import listen, server_of

T = TypeVar("T")
CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
JSON = {"content-type": "application/json"}


def said(text: str) -> list[dict[str, Any]]:
    """A conversation of one message."""
    return [{"role": "user", "content": text}]


def client(app: FastAPI) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test", timeout=60)


def with_client(app: FastAPI, work: Callable[[httpx.AsyncClient], Awaitable[T]]) -> T:
    """What `work` returns, in an event loop of its own."""

    async def all_of_it() -> T:
        async with client(app) as one:
            return await work(one)

    return asyncio.run(all_of_it())


def post(
    app: FastAPI,
    path: str,
    body: Mapping[str, Any] | bytes,
    headers: Mapping[str, str] | None = None,
) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = {**JSON, **(headers or {})}
    return with_client(app, lambda one: one.post(path, content=content, headers=sent))


def get(app: FastAPI, path: str, headers: Mapping[str, str] | None = None) -> httpx.Response:
    return with_client(app, lambda one: one.get(path, headers=headers))


def answer(app: FastAPI, path: str, **body: Any) -> dict[str, Any]:
    """The body of an answer that is fine."""
    response = post(app, path, body)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def problem(response: httpx.Response, status: int) -> dict[str, Any]:
    """The error of an answer, which has OpenAI's form."""
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    return error


def pieces(text: str) -> list[dict[str, Any]]:
    """The events of a stream, which ends as streams do."""
    events = text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all(event.startswith("data: ") for event in events[:-1])
    return [json.loads(event[6:]) for event in events[:-2]]


def streamed(app: FastAPI, path: str, **body: Any) -> list[dict[str, Any]]:
    response = post(app, path, {**body, "stream": True})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    return pieces(response.text)


def text_of(events: Sequence[Mapping[str, Any]], index: int = 0, name: str = "content") -> str:
    """The text of a choice of a stream, of a chat or a completion."""
    found = (one for event in events for one in event["choices"] if one["index"] == index)
    return "".join(
        (one["delta"].get(name) or "") if "delta" in one else one["text"] for one in found
    )


def until(true: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait until something comes true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.005)


class Live:
    """An application on a free port, in a thread of this process."""

    def __init__(self, app: FastAPI) -> None:
        self._place = listen("127.0.0.1", 0)
        self.port = self._place.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.service = app.state.service
        self.server = server_of(app)
        self._thread = threading.Thread(
            target=self.server.run, kwargs={"sockets": [self._place]}, daemon=True
        )
        self._thread.start()
        until(lambda: self.server.started)

    def close(self) -> None:
        self.server.should_exit = True
        self.wait()

    def wait(self, seconds: float = 30.0) -> None:
        self._thread.join(seconds)
        assert not self._thread.is_alive()
        self._place.close()

    def send(self, data: bytes) -> socket.socket:
        """A connection on which this has been sent."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        connection.sendall(data)
        return connection

    def send_body(self, path: str, body: Mapping[str, Any]) -> socket.socket:
        content = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        return self.send(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)


def received(connection: socket.socket) -> Iterator[bytes]:
    """What comes on a connection until it is closed."""
    while data := connection.recv(65536):
        yield data
