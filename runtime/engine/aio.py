"""A call's events for an event loop: a thread steps, and hands them over."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from contextlib import suppress

from nldc.runtime.engine.call import Call
from nldc.runtime.engine.ownership import is_within_a_step
from nldc.runtime.engine.request import Event
from nldc.runtime.errors import NldcRuntimeError

News = Event | BaseException | None
"""What the thread hands over: an event, what went wrong, and None at its very end."""


async def events_of(call: Call) -> AsyncGenerator[Event, None]:
    """Yield the events of a call, which is stepped by a thread of its own until it is over.

    However this ends, the call is closed and the thread has ended.

    Raises:
        NldcRuntimeError: it is called within a step, which holds what the thread would wait for.
    """
    if is_within_a_step():
        raise NldcRuntimeError(
            "the engine is in the midst of a step, and nothing can be streamed to an event loop",
            "within a processor, a chooser or a listener, decode with generate or stream",
        )
    loop = asyncio.get_running_loop()
    news: asyncio.Queue[News] = asyncio.Queue()

    def hand_over(what: News) -> None:
        loop.call_soon_threadsafe(news.put_nowait, what)

    def run() -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits for anything
            try:
                for _, event in call.events():
                    hand_over(event)
            except BaseException as problem:
                hand_over(problem)
            finally:
                hand_over(None)

    thread = threading.Thread(target=run, name="nldc-stream", daemon=True)
    thread.start()
    is_over = False
    try:
        while not is_over:
            what = await news.get()
            if isinstance(what, BaseException):
                raise what
            is_over = what is None
            if what is not None:
                yield what
    finally:
        call.close()
        while not is_over:
            is_over = await news.get() is None
        thread.join()
