"""A device that does its work as late as it may, on the CPU: what is replayed waits in a line.

As on a stream of a GPU, all is done in the order in which it was asked for; but nothing is done
before somebody has to have it: a copy that is read, or work that is not replayed. So tokens that
are read too early, memory that is written over before it was copied, and books that are taken for
what the device has come out as wrong tokens.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nldc.runtime.step.host import Copy
from tests.runtime.graph.emulator import Emulator, Tape

T = TypeVar("T")
NOT_YET = -777_777
"""What is read of memory into which nothing was copied yet; for flags, that they are all set."""
MAY_WAIT = ("aten.index_select.default",)
"""Calls beside replays that may wait too: what they return is only given to others."""


@dataclass(eq=False)
class Line(TorchDispatchMode):
    """What is asked of the device and not done; as a mode, lets other work come behind it."""

    waiting: deque[Callable[[], object]] = field(default_factory=deque)
    longest: int = 0
    _works: bool = False

    def __post_init__(self) -> None:
        super().__init__()

    def add(self, work: Callable[[], object]) -> None:
        """Ask for work."""
        self.waiting.append(work)
        self.longest = max(self.longest, len(self.waiting))

    def catch_up(self, last: Callable[[], object] | None = None) -> None:
        """Do what waits, up to some work if it waits (None: to the end)."""
        if self._works or (last is not None and last not in self.waiting):
            return
        self._works = True
        try:
            with torch.inference_mode():
                while self.waiting:
                    work = self.waiting.popleft()
                    work()
                    if work is last:
                        return
        finally:
            self._works = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._works or func.is_view or str(func) == "aten.full.default":
            return func(*args, **kwargs)
        if str(func) in MAY_WAIT and self.waiting:
            source, dim, index = args
            shape = [*source.shape]
            shape[dim] = len(index)
            found = torch.full(shape, NOT_YET, dtype=source.dtype)
            self.add(lambda: found.copy_(func(*args, **kwargs)))
            return found
        self.catch_up()
        return func(*args, **kwargs)


@dataclass(frozen=True, eq=False)
class Arrival:
    """An event behind some work."""

    line: Line
    work: Callable[[], object]

    def synchronize(self) -> None:
        """Wait for it."""
        self.line.catch_up(self.work)


@dataclass(eq=False)
class Late:
    """A tape that is played when it must be."""

    line: Line
    tape: Tape

    def replay(self) -> None:
        """See `Recorded`."""
        self.line.add(self.tape.replay)


@dataclass(eq=False)
class Delayed(Emulator):
    """Records as an emulator does, of which the replays are late."""

    line: Line = field(default_factory=Line)

    def record(self, work: Callable[[Callable[[], Any]], T]) -> tuple[Any, T]:
        """See `Recorder`."""
        last, found = super().record(lambda cut: work(lambda: Late(self.line, cut())))
        return Late(self.line, last), found


@contextmanager
def late_copies(line: Line, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let copies to the host be made where they stand in the line, and others behind them."""

    def of(values: Tensor) -> Copy:
        there = torch.full(values.shape, NOT_YET, dtype=values.dtype)

        def work() -> None:
            there.copy_(values)

        line.add(work)
        return Copy(there, Arrival(line, work))  # type: ignore[arg-type]

    with monkeypatch.context() as patched, line:
        patched.setattr(Copy, "of", staticmethod(of))
        patched.setattr(Copy, "apart", staticmethod(of))
        yield
        line.catch_up()
