"""Who may run an engine: one thread at a time, and one engine at a time on a device.

Whoever lets go of something (a stream that is collected as garbage, an event loop) may do so in any
thread and in the midst of anything, so nothing here waits but `take`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import get_ident

import torch

LOOK_AGAIN = 1.0
"""Seconds after which a waiting thread looks again: an interrupt may come before it is woken."""

_DEVICES: dict[tuple[str, int], threading.RLock] = {}


def device_lock(device: torch.device) -> threading.RLock:
    """Return the one lock of a device, which whoever computes on it holds."""
    index = device.index
    if index is None:
        index = torch.cuda.current_device() if device.type == "cuda" else 0
    return _DEVICES.setdefault((device.type, index), threading.RLock())


_WITHIN = threading.local()


@contextmanager
def stepping() -> Iterator[None]:
    """Let `is_within_a_step` say so in this thread."""
    before = is_within_a_step()
    _WITHIN.a_step = True
    try:
        yield
    finally:
        _WITHIN.a_step = before


def is_within_a_step() -> bool:
    """Whether an engine calls this thread's code from a step: a processor, say, or a chooser.

    It holds a device then, so it must not wait for an engine that another thread runs.
    """
    return getattr(_WITHIN, "a_step", False)


class Ownership:
    """The thread that runs an engine now, if any does: `thread` is its number.

    Who has taken it gives it back by setting `thread` to None, inline, since an interrupt can come
    at any call, and then calls `wake`.
    """

    def __init__(self) -> None:
        self.thread: int | None = None
        self._turn = threading.Condition()

    def take(self, unless: Callable[[], bool]) -> bool:
        """Wait until nobody runs the engine, and take it; False: `unless` has come true."""
        with self._turn:
            while not unless():
                if self.thread is None:
                    self.thread = get_ident()
                    return True
                self._turn.wait(LOOK_AGAIN)
            return False

    def try_to_take(self) -> bool:
        """Take the engine unless somebody runs it."""
        with self._turn:
            if self.thread is not None:
                return False
            self.thread = get_ident()
            return True

    def wake(self) -> None:
        """Let those look that wait."""
        with self._turn:
            self._turn.notify_all()
