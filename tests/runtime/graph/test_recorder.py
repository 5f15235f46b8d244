"""What CUDA's graphs share: memory that lives as long as any of them does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from nldc.runtime.graph.recorder import CudaRecorder


class FakeCuda:
    """CUDA's graphs as far as memory goes: a handle is void once the last graph on it is gone."""

    def __init__(self) -> None:
        self.handles = 0
        self.users: dict[int, int] = {}
        cuda = self

        class Graph:
            handle = -1

            def capture_begin(self, pool: int, capture_error_mode: str) -> None:
                assert capture_error_mode == "thread_local"
                if cuda.users.get(pool, 1) == 0:
                    raise RuntimeError("use_count > 0 INTERNAL ASSERT FAILED")
                self.handle = pool
                cuda.users[pool] = cuda.users.get(pool, 0) + 1

            def capture_end(self) -> None: ...

            def __del__(self) -> None:
                if self.handle >= 0:
                    cuda.users[self.handle] -= 1

        self.graph = Graph

    def handle(self) -> int:
        self.handles += 1
        return self.handles


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    class Stream:
        def __init__(self, *_: object) -> None: ...

        def wait_stream(self, _: object) -> None: ...

    @contextmanager
    def within(*_: object) -> Iterator[None]:
        yield

    fake = FakeCuda()
    named: dict[str, Any] = {
        "CUDAGraph": fake.graph,
        "graph_pool_handle": fake.handle,
        "Stream": Stream,
        "current_stream": Stream,
        "synchronize": lambda _: None,
        "device": within,
        "stream": within,
    }
    for name, value in named.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return fake


def test_graphs_share_memory_as_long_as_one_of_them_lives(cuda: FakeCuda) -> None:
    recorder = CudaRecorder(torch.device("cuda"))
    first, found = recorder.record(lambda _cut: 7)
    second, _ = recorder.record(lambda _cut: 8)
    assert found == 7
    assert cuda.handles == 1
    del first
    third, _ = recorder.record(lambda _cut: 9)
    assert cuda.handles == 1
    del second, third
    assert cuda.users == {1: 0}


def test_steps_are_captured_again_after_all_graphs_were_let_go(cuda: FakeCuda) -> None:
    recorder = CudaRecorder(torch.device("cuda"))
    for turn in range(3):
        graph, found = recorder.record(lambda _cut, turn=turn: turn)  # type: ignore[misc]
        assert found == turn
        del graph
    assert cuda.handles == 3


def test_work_that_cannot_be_captured_leaves_no_graph(cuda: FakeCuda) -> None:
    recorder = CudaRecorder(torch.device("cuda"))

    def fails(_cut: object) -> None:
        raise ValueError("asks the host")

    with pytest.raises(ValueError, match="asks the host"):
        recorder.record(fails)
    assert recorder.record(lambda _cut: 1)[1] == 1
    assert cuda.handles == 2
