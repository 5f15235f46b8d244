"""The one thread that steps the engine: while there is work, and else it sleeps."""

from __future__ import annotations

import logging
import threading

from nldc.runtime.engine.engine import Engine
from nldc.runtime.engine.news import Listener
from nldc.runtime.engine.request import Event, Request
from nldc.serve.errors import ApiError

LOG = logging.getLogger("nldc.serve")
MOST_FAILURES = 3
"""Steps in a row that may fail as steps should not before nothing more is tried."""


class Worker:
    """Steps an engine in a thread of its own, which starts with the first request."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.broken = False
        self._work = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._requests: set[Request] = set()

    def submit(self, request: Request, listener: Listener) -> int:
        """Let a request wait for its turn; return its id.

        Raises:
            QueueFullError: there is no place.
            ApiError: the engine is broken, or closed.
        """
        if self.broken or self._closed:
            raise ApiError(503, "the server decodes no more", None, "not_decoding")

        def heard(event: Event) -> None:
            if event.finish is not None:
                self._requests.discard(request)
            listener(event)

        self._requests.add(request)
        try:
            number = self.engine.submit(request, heard)
        except BaseException:
            self._requests.discard(request)
            raise
        with self._work:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="nldc-engine", daemon=True)
                self._thread.start()
            self._work.notify()
        return number

    def cancel(self, request_id: int) -> None:
        """End a request early, if it has not ended; never waits for a step."""
        self.engine.cancel(request_id)

    def close(self) -> None:
        """End the thread, once the step that runs is over; requests that live are cancelled."""
        with self._work:
            self._closed = True
            self._work.notify()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        failures = 0
        while True:
            with self._work:
                while self.engine.idle and not self._closed:
                    self._work.wait()
                if self._closed:
                    break
            try:
                self.engine.step()
                failures = 0
            except Exception:
                failures += 1
                LOG.exception("a step of the engine failed")
                if failures >= MOST_FAILURES:
                    self.broken = True
                    break
        for request in list(self._requests):
            self.engine.cancel(request.id)
