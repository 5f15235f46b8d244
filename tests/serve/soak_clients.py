"""What clients of a soak do: what is served, what is left, and what is refused."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any
from urllib.parse import urlsplit

import httpx

from tests.serve.soak_pool import CHAT, TEXT, Asked

STUCK = 120.0
"""Seconds after which a call that has not ended is said to be stuck."""
MOST_PROBLEMS = 20
LONG = {"prompt": "def f", "max_tokens": 1500, "ignore_eos": True, "temperature": 0}
"""A call that nobody waits for to its end."""


@dataclass
class Told:
    """What clients saw: calls by kind and how they ended, what was compared, what went wrong."""

    calls: Counter[tuple[str, str]] = field(default_factory=Counter)
    compared: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def wrong(self, text: str) -> None:
        """Note what must not be; not all of it where there is much."""
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(text[:600])


class Clients:
    """Asks a server in every way, until a time comes."""

    def __init__(self, url: str, pool: Sequence[Asked], random: Random) -> None:
        self.told = Told()
        self._url = url
        self._pool = pool
        self._random = random
        place = urlsplit(url)
        self._place = (str(place.hostname), int(place.port or 80))
        self._kinds: dict[Callable[[httpx.AsyncClient], Awaitable[None]], float] = {
            self.whole: 30,
            self.stream: 30,
            self.leaves_whole: 8,
            self.leaves_stream: 8,
            self.leaves_body: 4,
            self.reads_slowly: 3,
            self.never_reads: 1,
            self.is_late: 3,
            self.is_wrong: 8,
            self.is_hostile: 5,
            self.looks: 5,
        }

    async def run(self, customers: int, end: float) -> None:
        """Have so many customers at a time until `end`, of `time.monotonic`."""
        limits = httpx.Limits(max_connections=2 * customers)
        async with httpx.AsyncClient(base_url=self._url, timeout=STUCK, limits=limits) as client:
            await asyncio.gather(*(self._customer(client, end) for _ in range(customers)))

    async def _customer(self, client: httpx.AsyncClient, end: float) -> None:
        kinds, weights = list(self._kinds), list(self._kinds.values())
        while time.monotonic() < end:
            (kind,) = self._random.choices(kinds, weights)
            name = getattr(kind, "__name__", "")
            try:
                async with asyncio.timeout(STUCK):
                    await kind(client)
            except TimeoutError:
                self._count(name, "stuck")
                self.told.wrong(f"{name}: no end within {STUCK:g} s")
            except (httpx.HTTPError, OSError, ValueError, KeyError) as problem:
                self._count(name, type(problem).__name__)
                self.told.wrong(f"{name}: {problem!r}")

    def _count(self, kind: str, ending: str | int) -> None:
        self.told.calls[kind, str(ending)] += 1

    async def _seen(self, kind: str, response: httpx.Response, wanted: Sequence[int]) -> bool:
        """Count an answer, and say whether it is a 200; one of another status is a problem.

        Who is told that there is no place waits a moment.
        """
        status = response.status_code
        self._count(kind, status)
        if status not in (*wanted, 429):
            await response.aread()
            self.told.wrong(f"{kind}: {status} {response.text[:300]}")
        if status == 429:
            if "retry-after" not in response.headers:
                self.told.wrong(f"{kind}: 429 without Retry-After")
            await asyncio.sleep(self._random.uniform(0.1, 1.0))
        return status == 200

    # Those that wait for all of it

    async def whole(self, client: httpx.AsyncClient) -> None:
        """Wait for an answer, and compare it."""
        asked = self._random.choice(self._pool)
        response = await client.post(asked.path, json=asked.body)
        if await self._seen("whole", response, (200,)):
            texts = [_text(choice) for choice in response.json()["choices"]]
            self._compare(asked, tuple(texts))

    async def stream(self, client: httpx.AsyncClient) -> None:
        """Read a stream to its end, and compare its text."""
        asked = self._random.choice(self._pool)
        body = asked.body | {"stream": True, "nldc": {"steps": self._random.random() < 0.3}}
        if self._random.random() < 0.3:
            body["stream_options"] = {"include_usage": True}
        texts = [""] * asked.body["n"]
        last = ""
        async with client.stream("POST", asked.path, json=body) as response:
            if not await self._seen("stream", response, (200,)):
                return
            async for line in response.aiter_lines():
                if not line:
                    continue
                last = line.removeprefix("data: ")
                if last == "[DONE]":
                    continue
                event = json.loads(last)
                if "error" in event:
                    self.told.wrong(f"stream: {event}")
                    return
                for choice in event["choices"]:
                    texts[choice["index"]] += _text(choice)
        if last != "[DONE]":
            self.told.wrong(f"stream: it ends with {last[:200]}")
        self._compare(asked, tuple(texts))

    def _compare(self, asked: Asked, texts: tuple[str, ...]) -> None:
        promise = "exact" if asked.exact else "inexact"
        self.told.compared[f"{promise}, {'greedy' if asked.greedy else 'sampled'}"] += 1
        if texts != asked.texts:
            self.told.wrong(f"{asked.body} gave {texts}, alone {asked.texts}")

    # Those that leave

    async def leaves_whole(self, client: httpx.AsyncClient) -> None:
        """Close the connection before the answer is there."""
        try:
            work = client.post(TEXT, json=LONG | {"n": self._random.choice((1, 2))})
            response = await asyncio.wait_for(work, self._random.uniform(0.005, 1.5))
        except TimeoutError:
            self._count("leaves_whole", "left")
        else:
            await self._seen("leaves_whole", response, ())

    async def leaves_stream(self, client: httpx.AsyncClient) -> None:
        """Close the connection after some events."""
        most = self._random.choice((0, 1, 3, 10))
        async with client.stream("POST", TEXT, json=LONG | {"stream": True}) as response:
            if not await self._seen("leaves_stream", response, (200,)):
                return
            async for _ in response.aiter_lines():
                most -= 1
                if most < 0:
                    break

    async def leaves_body(self, _: httpx.AsyncClient) -> None:
        """Close the connection in the middle of a body."""
        content = json.dumps(LONG).encode()
        part = self._random.randrange(len(content))
        reader, writer = await self._connected()
        writer.write(_head(len(content)) + content[:part])
        await writer.drain()
        await asyncio.sleep(self._random.choice((0, 0.05)))
        await _close(writer)
        self._count("leaves_body", "left")
        assert reader is not None

    async def reads_slowly(self, _: httpx.AsyncClient) -> None:
        """Take a stream a few bytes at a time, and go in the end."""
        body = LONG | {"stream": True, "max_tokens": 60, "nldc": {"steps": True}}
        reader, writer = await self._connected(narrow=True)
        await _send(writer, body)
        status = await _status(reader)
        self._count("reads_slowly", status)
        end = time.monotonic() + self._random.uniform(1, 6)
        while time.monotonic() < end and await reader.read(128):
            await asyncio.sleep(0.02)
        await _close(writer)
        if status not in (200, 429):
            self.told.wrong(f"reads_slowly: {status}")

    async def never_reads(self, _: httpx.AsyncClient) -> None:
        """Ask for much and take nothing of it for some seconds."""
        reader, writer = await self._connected(narrow=True)
        await _send(writer, LONG | {"stream": True, "nldc": {"steps": True}})
        await asyncio.sleep(self._random.uniform(1, 8))
        await _close(writer)
        self._count("never_reads", "left")
        assert reader is not None

    async def is_late(self, client: httpx.AsyncClient) -> None:
        """Ask for more than there is time for."""
        body = LONG | {"timeout": self._random.choice((0.01, 0.2))}
        await self._seen("is_late", await client.post(TEXT, json=body), (504,))

    # Those that are refused

    async def is_wrong(self, client: httpx.AsyncClient) -> None:
        """Send a body that means nothing here."""
        path, body, status = self._random.choice(WRONG)
        await self._seen("is_wrong", await client.post(path, json=body), (status,))

    async def is_hostile(self, _: httpx.AsyncClient) -> None:
        """Send bytes that nobody should."""
        name, data, wanted = self._random.choice(HOSTILE)
        reader, writer = await self._connected()
        try:
            writer.write(data)
            await writer.drain()
            status = await _status(reader)
        except (ConnectionError, asyncio.IncompleteReadError):
            status = 0  # it hung up before it had all, which is an answer as well
        await _close(writer)
        self._count("is_hostile", status or "closed")
        if status not in (*wanted, 429):
            self.told.wrong(f"{name}: {status}, not {wanted}")

    async def looks(self, client: httpx.AsyncClient) -> None:
        """Read what is not an answer."""
        path = self._random.choice(("/health", "/ready", "/metrics", "/v1/models", "/version", "/"))
        await self._seen("looks", await client.get(path), (200,))

    async def _connected(
        self, *, narrow: bool = False
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return a connection; a narrow one holds little of what is not read."""
        found = socket.socket()
        if narrow:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        found.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(found, self._place)
            return await asyncio.open_connection(sock=found, limit=1024)
        except BaseException:
            found.close()
            raise


def _text(choice: dict[str, Any]) -> str:
    part = choice.get("delta") or choice.get("message") or choice
    return str(part.get("content") or part.get("text") or "")


def _head(length: int, kind: str = "application/json", more: str = "") -> bytes:
    head = f"POST {TEXT} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\n{more}"
    return f"{head}Content-Length: {length}\r\n\r\n".encode()


async def _send(writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:
    content = json.dumps(body).encode()
    writer.write(_head(len(content)) + content)
    await writer.drain()


async def _status(reader: asyncio.StreamReader) -> int:
    line = await reader.readuntil(b"\r\n")
    return int(line.split()[1])


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    try:
        await writer.wait_closed()
    except OSError:
        return


def _posted(content: bytes, kind: str = "application/json", more: str = "") -> bytes:
    return _head(len(content), kind, more) + content


def _one(content: Any, **others: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}], "max_tokens": 1, **others}


WRONG: tuple[tuple[str, Any, int], ...] = (
    (TEXT, {}, 400),
    (TEXT, [], 400),
    (TEXT, {"prompt": "x", "max_tokens": -1}, 400),
    (TEXT, {"prompt": "x", "max_tokens": 10**6}, 400),
    (TEXT, {"prompt": "x", "temprature": 0}, 400),
    (TEXT, {"prompt": "x", "n": 129}, 400),
    (TEXT, {"prompt": ["x"] * 200}, 400),
    (TEXT, {"prompt": [10**9]}, 400),
    (TEXT, {"prompt": "x " * 50_000}, 400),
    (TEXT, {"prompt": "x", "strategy": "none_such"}, 400),
    (TEXT, {"prompt": "x", "stop": [str(number) for number in range(10_000)]}, 400),
    (TEXT, {"prompt": "x", "stop": "y" * 10_000}, 400),
    (TEXT, {"prompt": "x", "logit_bias": {str(number): 1 for number in range(1000)}}, 400),
    (TEXT, {"prompt": "x", "logit_bias": {"99999999": 1}}, 400),
    (TEXT, {"prompt": "x", "model": "none-such"}, 404),
    (CHAT, {"messages": []}, 400),
    (CHAT, _one("x", tools=[{"type": "function", "function": {"name": "f"}}]), 400),
    (CHAT, _one("x", response_format={"type": "json_object"}), 400),
    (CHAT, _one("a <|mask|> b"), 400),
    (CHAT, _one([{"type": "image_url", "image_url": {"url": "x"}}]), 400),
    (CHAT, {"messages": [{"role": "tool", "content": "x"}]}, 400),
    (CHAT, _one("{{ 7*7 }}{% for x in range(10**9) %}{{ x }}{% endfor %}"), 200),
    (CHAT, _one("{{ messages.__class__.__mro__[1].__subclasses__() }}"), 200),
    ("/v1/none-such", {}, 404),
    ("/v1/models", {}, 405),
)
"""Bodies, and the status that each is answered with; what spells a template is text like any."""
HOSTILE: tuple[tuple[str, bytes, tuple[int, ...]], ...] = (
    ("not HTTP", b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", (400, 0)),
    ("a long header", _posted(b"{}", more=f"X-Long: {'x' * 200_000}\r\n"), (400, 431, 0)),
    ("a length that lies", _head(10**15), (413,)),
    ("too large", _posted(b'{"prompt": "' + b"x" * (5 << 20) + b'"}'), (413, 0)),
    ("text/plain", _posted(b'{"prompt": "x"}', "text/plain"), (415,)),
    ("deep", _posted(b'{"prompt": ' + b"[" * 100_000), (400,)),
    ("no UTF-8", _posted(b'{"prompt": "\xff\xfe"}'), (400,)),
    ("half a character", _posted(b'{"prompt": "\\ud800"}'), (400,)),
    ("no number", _posted(b'{"prompt": "x", "temperature": NaN}'), (400,)),
    ("a key twice", _posted(b'{"prompt": "x", "prompt": "y"}'), (400,)),
    ("a long number", _posted(b'{"prompt": "x", "seed": ' + b"9" * 100_000 + b"}"), (400,)),
    ("many keys", _posted(json.dumps({f"k{k}": k for k in range(50_000)}).encode()), (400,)),
    ("nothing", _posted(b""), (400,)),
)
"""Bytes, and the statuses that are an answer to them; 0: the connection is closed."""
