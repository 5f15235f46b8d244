"""What all benchmarks here have in common: the 8B model's shape, and calls captured in a graph."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from nldc.cost.geometry import RELEASED, Geometry

LARGE = RELEASED["8b"]
SMALL = Geometry("small", 64, 96, 2, 4, 2, 16, 300)
"""To try a benchmark without a device."""


def captured(
    call: Callable[[], object], warm: Callable[[], object] | None = None
) -> Callable[[], object]:
    """Return what replays a call that was captured into a CUDA graph.

    `warm` is done before, so that all is compiled and has room; None: the call itself.
    """
    import torch

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        (warm or call)()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay
