"""What the routes share: the decoder's engine and its thread, and which calls run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Any

from nldc.runtime.decoder import Decoder
from nldc.runtime.engine.handover import Handover
from nldc.runtime.errors import NldcRuntimeError
from nldc.serve.artifacts import Way
from nldc.serve.bodies import Arriving
from nldc.serve.choices import Choice
from nldc.serve.errors import ApiError, later, of_runtime
from nldc.serve.metrics import Metrics
from nldc.serve.protocol import Sampled
from nldc.serve.reading import Answer, Reader
from nldc.serve.routing import by_default, chooser, parse
from nldc.serve.running import Running
from nldc.serve.settings import Settings
from nldc.serve.shapes import DONE, Shape, Writer, event
from nldc.serve.traces import Traces
from nldc.serve.watching import Watch
from nldc.serve.worker import Worker

READERS = 4
"""Threads that turn bodies into tokens."""


class Service:
    """One decoder that is served: `ways` are its strategies, as `load_together` has them.

    `traces`, if there are any, wrote the classes of its decoder; see `traces.py`.
    """

    def __init__(
        self,
        decoder: Decoder,
        ways: Mapping[str, Way],
        settings: Settings,
        traces: Traces | None = None,
    ) -> None:
        self.settings = settings
        self.traces = traces
        self.decoder = decoder
        self.ways = ways
        self.draining = False
        self.arriving = Arriving()
        self.started = int(time.time())
        if decoder.config.vision:
            decoder.eye.load()  # before the cache takes its share of what is free
        self.engine = decoder.new_engine(
            max_live=settings.live, max_queue=settings.queue, keep_prefixes=settings.keep_prefixes
        )
        self.worker = Worker(self.engine)
        self.metrics = Metrics(settings.model_name, self.engine)
        handovers = {name: each.handover for name, each in self.engine.strategies.items()}
        skips = {name: _skips(handover) for name, handover in handovers.items()}
        self.watch = Watch(ways, skips, self.metrics.step)
        self.engine.observe(self.watch)
        if traces is not None:
            traces.serve(decoder)
            self.engine.observe(traces.tracer)
        if settings.route is None:
            self.route = by_default(ways, handovers)
        else:
            self.route = parse(settings.route, tuple(ways))
        self.reader = Reader(
            decoder,
            settings,
            chooser(self.route, handovers),
            lambda *rows: self.engine.cache.check(*rows),
        )
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="nldc-reader")
        self._calls: set[Running] = set()
        self._reading = 0

    @property
    def ready(self) -> bool:
        """Whether new calls are taken."""
        return not self.draining and not self.worker.broken

    @property
    def idle(self) -> bool:
        """Whether no call runs."""
        return not self._calls and not self._reading

    async def begin(
        self, make: Callable[[], tuple[Sampled, list[Answer]]]
    ) -> tuple[Sampled, Running]:
        """Return what a body says and its call, under way; a thread `make`s both of the body.

        Raises:
            ApiError: the server ends or is full, or the body cannot be used.
        """
        since = time.perf_counter()
        settings = self.settings
        if not self.ready:
            raise later(503, "the server is shutting down", "shutting_down")
        if self._reading >= settings.queue:
            raise later(429, "too many requests arrive at a time", "queue_full")
        self._reading += 1
        try:
            loop = asyncio.get_running_loop()
            asked, answers = await loop.run_in_executor(self._threads, make)
            seconds = settings.deadline if asked.timeout is None else asked.timeout
            running = Running(
                answers,
                self.worker,
                self.watch,
                self.metrics,
                self.traces,
                seconds=min(seconds, settings.deadline),
                unread=settings.unread,
                since=since,
            )
            try:
                running.submit()
            except NldcRuntimeError as problem:
                raise of_runtime(problem) from problem
            self._calls.add(running)
            return asked, running
        finally:
            self._reading -= 1

    def over(self, running: Running) -> None:
        """Take note that a call has ended, or will not be waited for."""
        running.cancel()
        self._calls.discard(running)

    def end_all(self) -> None:
        """End all calls with an error."""
        for running in list(self._calls):
            running.end(ApiError(503, "the server is shutting down", None, "shutting_down"))

    def close(self) -> None:
        """End the threads."""
        self.draining = True
        self.worker.close()
        if self.traces is not None:
            self.traces.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def choices(self, running: Running) -> list[Choice]:
        """Return the choices of a call, with nothing in them."""
        return [Choice(number, answer) for number, answer in enumerate(running.answers)]

    async def whole(
        self, running: Running, shape: Shape, asked: Sampled, choices: list[Choice]
    ) -> dict[str, Any]:
        """Return a call's answer once all of it is there.

        Raises:
            ApiError: a sequence ended with an error, or the time is up.
        """
        async with aclosing(running.news()) as found:
            async for news in found:
                choices[news.place].add(news)
        return self._writer(shape, asked, choices).whole()

    async def pieces(
        self, running: Running, shape: Shape, asked: Sampled, choices: list[Choice]
    ) -> AsyncGenerator[bytes, None]:
        """Yield a call's answer as it is made; what goes wrong is its last event."""
        writer = self._writer(shape, asked, choices)
        yield writer.opening()
        try:
            async with aclosing(running.news()) as found:
                async for news in found:
                    choice = choices[news.place]
                    yield writer.piece(choice, choice.add(news))
            yield writer.closing()
        except ApiError as problem:
            yield event(problem.body()) + DONE

    def _writer(self, shape: Shape, asked: Sampled, choices: list[Choice]) -> Writer:
        name, tokenizer = self.settings.model_name, self.decoder.tokenizer
        return Writer(shape, asked, name, tokenizer, choices)

    def check_model(self, model: str | None) -> None:
        """Raise ApiError if a body names another model than the one that is served."""
        name = self.settings.model_name
        if model not in (None, name):
            message = f"there is no model `{str(model)[:80]}`; this server has `{name}`"
            raise ApiError(404, message, "model", "model_not_found")


def _skips(handover: Handover | None) -> int:
    return 0 if handover is None else handover.skips
