"""How long a forward takes on a device: a roofline, its attention, and what passes between kernels.

    m = bytes of weights and activations / (0.96 · memory)
    c = operations of products / (0.58 · peak)
    products  = max(m, c) + 0.2 · min(m, c)
    attention = max(bytes of keys / memory, operations of attention / (0.23 · peak)) + 5 us a layer
    time      = products + attention + kernels · boundary

The factors are fitted once, to one device and one model; docs/performance.md says how, and how far
off they are. Nothing here depends on a strategy.
"""

from __future__ import annotations

from dataclasses import dataclass

from nldc.cost.device import Device
from nldc.cost.work import Work

MICRO = 1e-6


@dataclass(frozen=True)
class Execution:
    """How a step is executed: kernels of each part, and the rates that its kernels reach.

    `layer`, `forward`, `head`, `op` and `adapted` are kernels of each layer, of the rest of a
    forward, of a head, of an op, and of each low-rank product. With `joined`, all that a step does
    between two calls of the model is one. In one `graph` kernels follow each other on the device;
    otherwise the host launches each from Python and waits at a step's end.
    """

    name: str
    layer: int
    forward: int
    head: int
    op: int
    adapted: int
    graph: bool
    joined: bool = False
    memory_rate: float = 0.96
    arithmetic_rate: float = 0.58
    overlap: float = 0.2
    attention_rate: float = 0.23
    attention_us: float = 5.0

    def kernels(self, work: Work) -> int:
        """Return how many kernels a forward or a head takes."""
        if not work.layers:
            return self.head
        return self.forward + work.layers * (self.layer + self.adapted * work.adapted)


GRAPH = Execution("graph", layer=9, forward=2, head=2, op=1, adapted=1, graph=True, joined=True)
"""A step as one CUDA graph of fused kernels: nine a layer, as the measured experiment had them."""

EAGER = Execution("eager", layer=28, forward=8, head=3, op=3, adapted=6, graph=False)
"""Every kernel launched from Python: what the layers took when they were counted on a device."""

RUNTIME = GRAPH
"""What measured steps are held against: how they are executed on a device with kernels."""
EXECUTIONS = {each.name: each for each in (GRAPH, EAGER)}


def floor(work: Work, device: Device, dtype: str) -> float:
    """Return the seconds below which no kernel can be: all bytes once, or all operations."""
    return max(work.bytes / device.memory, work.flops / device.peak(dtype))


def predict(work: Work, device: Device, dtype: str, execution: Execution = GRAPH) -> float:
    """Return the seconds that a forward or a head is predicted to take."""
    peak = device.peak(dtype)
    moved = (work.weights + work.activations) / (execution.memory_rate * device.memory)
    computed = work.products / (execution.arithmetic_rate * peak)
    busy = max(moved, computed) + execution.overlap * min(moved, computed)
    busy += max(work.keys / device.memory, work.attention / (execution.attention_rate * peak))
    busy += work.layers * execution.attention_us * MICRO
    kernels = execution.kernels(work)
    if execution.graph:
        return busy + kernels * device.boundary_us * MICRO
    return max(busy, kernels * device.launch_us * MICRO)
