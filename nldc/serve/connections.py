"""Connections of strangers: what of HTTP they may send, and how long they may be of no use.

uvicorn waits for a client for ever: for a head, for the rest of one, for it to read an answer. So
each of these has its time here, and what comes before a request is one has its bound.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_BYTES = 64 << 10
"""The longest head of a request."""
PIECES = 8192
"""Pieces in which a body may come; each costs as much as some thousand bytes."""
HEAD_SECONDS = 30.0
"""How long a connection may be without a request whose head is complete."""
UNREAD_SECONDS = 60.0
"""How long a client may take nothing of what lies there for it."""
CLOSING_SECONDS = 5.0
"""How long a connection may take to close, where its client still has to read."""


class Http(H11Protocol):
    """HTTP/1.1 by h11 and never httptools, which bounds no head and drops the body of a request
    that offers an upgrade. Upgrades are not taken.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conn = _Bounded(h11.SERVER, HEAD_BYTES)

    def _should_upgrade(self) -> bool:
        return False


class _Bounded(h11.Connection):
    """A connection on which the pieces of a body are counted."""

    _pieces = 0

    def next_event(self) -> Any:
        """Return the next event."""
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._pieces = 0
        elif isinstance(event, h11.Data):
            self._pieces += 1
            if self._pieces > PIECES:
                raise h11.RemoteProtocolError(f"a body in more than {PIECES} pieces")
        return event


class Sweep:
    """Ends connections that have been of no use for too long."""

    def __init__(self) -> None:
        self._since: dict[Any, tuple[tuple[str, object] | None, float]] = {}

    def __call__(self, connections: Collection[Any]) -> None:
        """Look at all that are open now; in the thread of their event loop."""
        now, kept = time.monotonic(), {}
        for each in list(connections):
            state = _waits_for(each)
            before, since = self._since.get(each, (None, now))
            if state != before:
                since = now
            elif state is not None and now - since > _allowed(state):
                each.transport.abort()
            kept[each] = state, since
        self._since = kept


def _waits_for(connection: Any) -> tuple[str, object] | None:
    """Return what a connection waits for, and what changes with progress; None: for a call."""
    cycle, transport = connection.cycle, connection.transport
    if transport.is_closing():
        return "close", None
    unread = transport.get_write_buffer_size()
    if unread:
        return "unread", unread
    return ("head", cycle) if cycle is None or cycle.response_complete else None


def _allowed(state: tuple[str, object]) -> float:
    return {"close": CLOSING_SECONDS, "unread": UNREAD_SECONDS, "head": HEAD_SECONDS}[state[0]]
