"""Bodies as they come in, within their limits, and answers as they go out while they are made."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from nldc.serve.errors import ApiError, later
from nldc.serve.settings import Settings

T = TypeVar("T")
CLOSE = {"Connection": "close"}
GRACE = 5.0
"""Seconds beyond a call's own in which it may still say that these are over."""


SMALL = 64 << 10
"""Bytes of a body that is always let in: connections bound how many there are."""
ARRIVING = 64
"""How many bodies of the largest size may be arriving at a time."""


class ClientGoneError(Exception):
    """Nobody waits for an answer any more."""


class Arriving:
    """How many `bytes` lie here of bodies that are not whole yet, of all requests together."""

    def __init__(self) -> None:
        self.bytes = 0


async def read_body(request: Request, settings: Settings, arriving: Arriving) -> bytes:
    """Return the JSON that a request brings; nothing more is read where it is too long.

    Raises:
        ApiError: it is of another kind, too long or too slow, or others take all memory for bodies.
        ClientGoneError: the client leaves before it is there.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, "send JSON, as `Content-Type: application/json`", None, "not_json")
    most = settings.body_bytes
    length = request.headers.get("content-length", "")
    if length.isascii() and length.isdigit() and (len(length) > 18 or int(length) > most):
        raise _too_large(most)
    data = bytearray()
    try:
        async with asyncio.timeout(settings.body_seconds):
            async for chunk in request.stream():
                data += chunk
                arriving.bytes += len(chunk)
                if len(data) > most:
                    raise _too_large(most)
                if len(data) > SMALL and arriving.bytes > ARRIVING * most:
                    raise _too_many()
    except TimeoutError:
        seconds = f"{settings.body_seconds:g}"
        raise ApiError(
            408, f"the body took longer than {seconds} s to come", None, "slow_body", CLOSE
        ) from None
    except ClientDisconnect:
        raise ClientGoneError from None
    finally:
        arriving.bytes -= len(data)
    return bytes(data)


def _too_large(most: int) -> ApiError:
    message = f"the body is larger than this server's {most} bytes"
    return ApiError(413, message, None, "body_too_large", CLOSE)


def _too_many() -> ApiError:
    found = later(429, "too many large bodies arrive at a time", "queue_full")
    return replace(found, headers={**found.headers, **CLOSE})


async def unless_gone(receive: Receive, work: Awaitable[T]) -> T:
    """Return what `work` does; it is cancelled when the client leaves.

    Raises:
        ClientGoneError: it has left.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGoneError
        return task.result()
    finally:
        for each in (task, gone):
            each.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await each


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Server-sent events as `pieces` makes them; `over` is called however that ends.

    A client that leaves ends it, and one that takes nothing while the `seconds` pass.
    """

    def __init__(
        self, pieces: AsyncGenerator[bytes, None], over: Callable[[], None], seconds: float
    ) -> None:
        super().__init__(
            media_type="text/event-stream",
            headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
        )
        del self.headers["content-length"]
        self._pieces = pieces
        self._over = over
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send the events."""
        try:
            with suppress(ClientGoneError, TimeoutError, OSError):
                async with asyncio.timeout(self._seconds + GRACE):
                    await unless_gone(receive, self._sent(send))
        finally:
            self._over()

    async def _sent(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        async with aclosing(self._pieces) as pieces:
            async for piece in pieces:
                if piece:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
