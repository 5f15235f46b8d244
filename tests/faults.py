"""Faults at every file operation of some work: the n-th call, before or after it was made."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Iterator
from types import FrameType

OPERATIONS = frozenset(
    ("rename", "replace", "mkdir", "rmdir", "unlink", "remove", "open", "scandir", "write", "close",
     "lstat", "stat", "listdir")
)  # fmt: skip
MODULES = ("posix", "io", "_io")
WAYS = ("interrupted before", "interrupted after", "disk full")


class Fault:
    """A profile function that lets the `number`-th file operation fail."""

    def __init__(self, number: int, way: str) -> None:
        self.left = number
        self.way = way
        self.happened = False

    def __call__(self, _frame: FrameType, event: str, called: object) -> None:
        wanted = "c_return" if self.way.endswith("after") else "c_call"
        if event != wanted or getattr(called, "__name__", "") not in OPERATIONS:
            return
        owner = (
            getattr(called, "__module__", None)
            or type(getattr(called, "__self__", None)).__module__
        )
        if owner not in MODULES or self.happened:
            return
        self.left -= 1
        if self.left < 0:
            self.happened = True
            if self.way == "disk full":
                raise OSError(errno.ENOSPC, "No space left on device")
            raise KeyboardInterrupt


def every_fault(work: Callable[[], object]) -> Iterator[tuple[str, int, BaseException | None]]:
    """Do `work` over and over, each time with one fault further on, until it meets none.

    Yields the way, the number and what was raised; the caller looks at what is left and puts it
    back before going on.
    """
    for way in WAYS:
        for number in range(10_000):
            fault = Fault(number, way)
            raised: BaseException | None = None
            sys.setprofile(fault)
            try:
                work()
            except BaseException as problem:
                raised = problem
            finally:
                sys.setprofile(None)
            if not fault.happened:
                assert raised is None, raised
                break
            yield way, number, raised
