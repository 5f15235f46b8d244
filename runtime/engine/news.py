"""Events on their way: to a request's listener, or to whoever steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from nldc.runtime.engine.request import Event

Listener = Callable[[Event], None]
"""Is told the news of one request by the thread that steps; keep it short."""


class News:
    """What is to be told, in order. While `held`, nothing is."""

    def __init__(self) -> None:
        self.held = False
        self._listeners: dict[int, Listener] = {}
        self._untold: deque[Event] = deque()
        self._events: list[Event] = []

    def listen(self, request_id: int, listener: Listener) -> None:
        """Let a listener hear of a request from now on, until its end."""
        self._listeners[request_id] = listener

    def add(self, event: Event) -> None:
        """Have one more event to tell."""
        self._untold.append(event)

    def deliver(self) -> tuple[int, Exception] | None:
        """Tell what is untold; stop at a listener that fails, and let it hear no more.

        Returns the id of its request and what it raised; None: all is told that may be.
        """
        while self._untold and not self.held:
            event = self._untold.popleft()
            listener = self._listeners.get(event.id)
            if event.finish is not None:
                self._listeners.pop(event.id, None)
            if listener is None:
                self._events.append(event)
                continue
            try:
                listener(event)
            except Exception as problem:
                self._listeners.pop(event.id, None)
                return event.id, problem
        return None

    def take(self) -> list[Event]:
        """Return the events of requests without a listener, once."""
        events, self._events = self._events, []
        return events
