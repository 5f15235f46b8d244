"""One call's sequences on their way through the engine, as an event loop hears of them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from nldc.runtime.engine.request import Event
from nldc.runtime.errors import NldcRuntimeError
from nldc.serve.errors import ApiError, of_runtime
from nldc.serve.metrics import Metrics
from nldc.serve.reading import Answer
from nldc.serve.traces import Traces
from nldc.serve.tracing import Span
from nldc.serve.watching import Took, Watch
from nldc.serve.worker import Worker

LOG = logging.getLogger("nldc.serve")
REASONS = {"eos": "stop", "stop": "stop", "length": "length", "cancelled": "abort"}
"""What OpenAI's API calls the ends of a text."""


@dataclass(frozen=True)
class News:
    """What came of sequence `place`: an event, the steps that it came of, and its text in spans."""

    place: int
    event: Event
    steps: tuple[Took, ...]
    spans: tuple[Span, ...]


class Running:
    """The sequences of a call that began at `since`, which may take `seconds`.

    More than `unread` pieces of news that nobody takes end it.
    """

    def __init__(
        self,
        answers: Sequence[Answer],
        worker: Worker,
        watch: Watch,
        metrics: Metrics,
        traces: Traces | None = None,
        *,
        seconds: float,
        unread: int,
        since: float,
    ) -> None:
        self.answers = answers
        self.seconds = seconds
        self.since = since
        self._worker = worker
        self._watch = watch
        self._metrics = metrics
        self._traces = traces
        self._unread = unread
        self._loop = asyncio.get_running_loop()
        self.deadline = self._loop.time() + seconds - (time.perf_counter() - since)
        self._news: asyncio.Queue[News | ApiError] = asyncio.Queue()
        self._heard = [0.0] * len(answers)
        self._ended = False

    def submit(self) -> None:
        """Let all sequences wait for their turn, or none.

        Raises:
            QueueFullError: there is no place for all of them.
            ApiError: nothing is decoded any more.
        """
        try:
            for place, answer in enumerate(self.answers):
                self._worker.submit(answer.request, partial(self._hear, place))
                self._metrics.prompt_tokens.inc(len(answer.request.prompt))
        except BaseException:
            self.cancel()
            raise

    async def news(self) -> AsyncGenerator[News, None]:
        """Yield what comes of the sequences until all have ended; however this ends, none goes on.

        Raises:
            ApiError: one ended with an error, the time is up, or `end` was called.
        """
        left = set(range(len(self.answers)))
        try:
            while left:
                async with asyncio.timeout_at(self.deadline):
                    news = await self._news.get()
                if isinstance(news, ApiError):
                    raise news
                if news.event.finish in ("error", "cancelled"):
                    raise self._failure(news.event)
                if news.event.finish is not None:
                    left.discard(news.place)
                yield news
        except TimeoutError:
            raise ApiError(
                504, f"the request took longer than {self.seconds:g} s", None, "deadline_exceeded"
            ) from None
        finally:
            self.cancel()

    def cancel(self) -> None:
        """End what still runs; its places are free when the step that runs is over."""
        for answer in self.answers:
            if answer.request.id >= 0 and not answer.request.done:
                self._worker.cancel(answer.request.id)

    def end(self, problem: ApiError) -> None:
        """End the call with an error, whatever it has come to; in the thread of its event loop."""
        self._ended = True
        self.cancel()
        while not self._news.empty():
            self._news.get_nowait()
        self._news.put_nowait(problem)

    def _hear(self, place: int, event: Event) -> None:
        """Take an event of the engine, in whatever thread that tells it."""
        now = time.perf_counter()
        before, self._heard[place] = self._heard[place], now
        since = now - before if before else None
        self._metrics.tokens(len(event.tokens), since, now - self.since)
        text = self.answers[place].text
        news = News(place, event, self._watch.take(event.id), text.take())
        if event.finish is not None:
            self._watch.forget(event.id)
            if self._traces is not None:
                self._traces.ended(self.answers[place].request)
            self._metrics.ended(REASONS.get(event.finish, "error"), now - self.since)
        with suppress(RuntimeError):  # the loop is closed: nobody waits for anything
            self._loop.call_soon_threadsafe(self._arrive, news)

    def _arrive(self, news: News) -> None:
        if self._ended:
            return
        if self._news.qsize() >= self._unread:
            self.end(ApiError(503, "the answer was not read", None, "not_read"))
        else:
            self._news.put_nowait(news)

    def _failure(self, event: Event) -> ApiError:
        problem = event.error
        if problem is None:
            return ApiError(503, "the request was cancelled", None, "cancelled")
        if not isinstance(problem, NldcRuntimeError):
            LOG.error("a request failed", exc_info=problem)
        return of_runtime(problem)
