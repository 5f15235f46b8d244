"""What a step asks of host and device, counted at its most: launches and waits, node by node.

A launch is one call of the runtime in the step's code that starts work on the device: a forward, a
head, an op. How many kernels the backbone makes of a forward depends on the checkpoint and on the
backend, see `nldc.cost`. Loops count with as many rounds as they may take.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from nldc.codegen.costs import Costs, cost_of
from nldc.codegen.pipeline import compiled, run
from nldc.codegen.program import Instruction, Loop, Method, Program
from nldc.ir.graph import Graph


@dataclass(frozen=True)
class Counts:
    """Launches; `host_waits`, where the host waits for the device; and `device_waits`, where the
    device has nothing to do in the midst of a step until the host has read and gone on.
    """

    launches: int = 0
    host_waits: int = 0
    device_waits: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.launches + other.launches,
            self.host_waits + other.host_waits,
            self.device_waits + other.device_waits,
        )


EMITS = Counts(launches=1, host_waits=1)
"""The end of a step: what it emits is put together and comes to the host in one read. The device
then waits between steps, if it does, and not within one.
"""


@dataclass(frozen=True)
class StepCounts:
    """The counts of one step: by the nodes of its region, those of a loop's body with the loop."""

    step: str
    by_node: Mapping[str, Counts]

    @property
    def total(self) -> Counts:
        """All of them together."""
        return sum(self.by_node.values(), Counts())


def step_counts(graph: Graph, program: Program | None = None) -> tuple[StepCounts, ...]:
    """Return what each step of a strategy counts, as it is compiled, in the graph's order.

    `program` is the graph's, for whoever has it already.
    """
    program = program or compiled(run(graph))
    return tuple(
        StepCounts(step.name, _by_node(step.name, method))
        for step, method in zip(graph.steps, program.steps, strict=True)
    )


def _by_node(step: str, method: Method) -> dict[str, Counts]:
    found: dict[str, Counts] = {}
    for each in method.body:
        node = ".".join(each.origin.node.split(".")[:2])
        found[node] = found.get(node, Counts()) + _most(each)
    found[f"{step}.emit"] = EMITS
    return found


def _most(each: Instruction) -> Counts:
    """Return what an instruction counts if every loop takes as many rounds as it may."""
    own = _counts(cost_of(each).most)
    return own + _left([each])


def _left(body: Iterable[Instruction], times: int = 1) -> Counts:
    """Return the launches that fill what loops leave when their rounds are used up."""
    total = Counts()
    for each in body:
        if isinstance(each, Loop):
            if each.left is not None:
                total += Counts(launches=times)
            total += _left(each.body, times * each.at_most)
    return total


def _counts(cost: Costs) -> Counts:
    launches = cost.forwards + cost.heads + cost.ops
    return Counts(launches, host_waits=cost.waits, device_waits=cost.waits)
