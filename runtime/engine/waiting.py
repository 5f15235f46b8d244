"""The requests that have not begun, in the order in which they are to begin."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable

from nldc.runtime.engine.request import Request


class Waiting:
    """Those of higher priority first, and of one priority the first that came.

    An entry goes when it is at the head and the request no longer `waits`, so that what is
    interrupted waits still. `add` may be called from any thread, the rest by the one that steps.
    """

    def __init__(self, waits: Callable[[Request], bool]) -> None:
        self._waits = waits
        self._arriving: deque[Request] = deque()
        self._queue: list[tuple[int, int, Request]] = []

    @property
    def arrived(self) -> bool:
        """Whether some have come that are not in the order yet."""
        return bool(self._arriving)

    def __bool__(self) -> bool:
        """Whether somebody may be in the order."""
        return bool(self._queue)

    def add(self, request: Request) -> None:
        """Let a request arrive."""
        self._arriving.append(request)

    def admit(self, waiting: int) -> None:
        """Put arrivals into the order, of whom `waiting` still wait, those in it included."""
        while self._arriving:
            request = self._arriving[0]
            heapq.heappush(self._queue, (-request.priority, request.id, request))
            self._arriving.popleft()
        if len(self._queue) > 2 * waiting + 8:
            self._queue = [each for each in self._queue if self._waits(each[2])]
            heapq.heapify(self._queue)

    def first(self) -> Request | None:
        """Return the request that is to begin next; None: none waits."""
        while self._queue and not self._waits(self._queue[0][2]):
            heapq.heappop(self._queue)
        return self._queue[0][2] if self._queue else None
