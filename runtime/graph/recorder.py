"""What captures the work of a step, so that it is launched as one graph; on a GPU, CUDA does."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import torch

T = TypeVar("T")


class Recorded(Protocol):
    """Work that was captured. It reads and writes memory where that was then."""

    def replay(self) -> object:
        """Do it again; nothing waits here."""
        ...


Cut = Callable[[], Recorded]
"""Ends the piece that is being captured, returns it, and begins another."""


class Recorder(Protocol):
    """Captures work of one device."""

    def record(self, work: Callable[[Cut], T]) -> tuple[Recorded, T]:
        """Capture what `work` asks of the device, and return it with what `work` returns.

        Where `work` cuts, what is returned is the last piece. Tensors in what it returns are the
        graph's own, which every replay writes. Whether the work is done meanwhile is not said.
        Whatever it asked of the host or sent from there would be the same in each replay, and is
        refused.

        Raises:
            Exception: it cannot be captured.
        """
        ...


class CudaRecorder:
    """CUDA graphs of one device. They share memory, so one of them runs at a time.

    That memory is given back with the last of them, and its handle is void from then on.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool: Any = None
        self._alive: weakref.WeakSet[Any] = weakref.WeakSet()

    def record(self, work: Callable[[Cut], T]) -> tuple[Recorded, T]:
        """See `Recorder`. Other threads may use the device meanwhile."""
        torch.cuda.synchronize(self._device)
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream), _kept_garbage():
            graph = self._begun()

            def cut() -> Recorded:
                nonlocal graph
                graph.capture_end()
                done: Recorded = graph
                graph = self._begun()
                return done

            try:
                found = work(cut)
            finally:
                graph.capture_end()
        torch.cuda.current_stream(self._device).wait_stream(self._stream)
        return graph, found

    def _begun(self) -> Any:
        """Return a graph into which what follows is captured."""
        if not self._alive:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
        self._alive.add(graph)
        return graph


@contextmanager
def _kept_garbage() -> Iterator[None]:
    """Collect no garbage: a graph that is freed within a capture would break it."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
