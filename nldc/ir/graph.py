"""The graph of a strategy, and the only place that knows networkx.

A `Graph` is what the checks read and what code generation lowers: two regions of nodes that are
already in the order in which they run, and what a step emits, keeps and carries.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal

import networkx as nx

from nldc.diagnostics import Span
from nldc.expr import Expr, references
from nldc.ir.by_request import Declared
from nldc.ir.ops import Node, Region, Repeat, Value
from nldc.ir.taper import Profile
from nldc.ir.types import Count, Type

Guarantee = Literal["exact", "distribution", "none"]
Setting = int | float | Profile
"""The value of a param: a number, or an acceptance profile."""


@dataclass(frozen=True)
class Adapter:
    """A declared adapter; an optional one may be missing when the decoder is loaded."""

    name: str
    optional: bool
    kind: Literal["lora", "sampler"] = "lora"


@dataclass(frozen=True)
class Carried:
    """A value that survives a step, and what the prefill begins it as; `start` of a Count."""

    name: str
    type: Type
    initial: Value
    start: int | None = None


@dataclass(frozen=True)
class Emission:
    """What a step hands out. `keep` counts the appended rows that stay; None keeps them all."""

    tokens: Value
    keep: Value | None


@dataclass(frozen=True)
class Step:
    """One of the steps: its nodes, what it hands out, and what it makes of each carried value.

    `name` is what its nodes' names begin with. It is taken where `when`, a condition on the live
    sequences, holds; None: whenever no step before it is.
    """

    name: str
    when: Expr | None
    region: Region
    emit: Emission
    next: tuple[tuple[str, Value], ...]


@dataclass(frozen=True)
class Graph:
    """One strategy for concrete params.

    Of several `steps` the first that may be taken is; the last always may. All read the same
    carried values. `compat` names the preset that set the attributes the file leaves open; the
    nodes already have them. `checkpoint_params` are the params that follow a checkpoint, each with
    the key of its config; `limits` the most that a step may count, see `nldc.limits`; `profiles`
    the params that are acceptance profiles. `runtime` are those of the params that requests bring:
    the nodes name them, and `params` has their defaults.
    """

    name: str
    summary: str
    guarantee: Guarantee
    params: Mapping[str, int | float]
    adapters: tuple[Adapter, ...]
    prefill: Region
    prefill_tokens: Value | None
    carry: tuple[Carried, ...]
    kinds: tuple[str, ...]
    steps: tuple[Step, ...]
    compat: str | None = None
    checkpoint_params: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=dict)
    profiles: Mapping[str, Profile] = field(default_factory=dict)
    runtime: Declared = field(default_factory=dict)

    @property
    def settings(self) -> Mapping[str, Setting]:
        """All settings, by which the same graph can be built again."""
        return {**self.params, **self.profiles}

    @property
    def shown(self) -> Mapping[str, str]:
        """The settings as text; of a profile, how many steps it counts."""
        numbers = {name: str(value) for name, value in self.params.items()}
        numbers |= {
            name: f"{each.default} (a request may bring {each.low} to {each.high})"
            for name, each in self.runtime.items()
        }
        counted = {name: sum(map(sum, profile)) for name, profile in self.profiles.items()}
        return numbers | {name: f"a profile of {steps} steps" for name, steps in counted.items()}

    @property
    def counts(self) -> Mapping[str, Count]:
        """The carried Counts, by name."""
        return {item.name: item.type for item in self.carry if isinstance(item.type, Count)}

    @property
    def routed_by(self) -> tuple[str, ...]:
        """The carried Counts by which `route` tells which step a sequence takes."""
        asked = {ref.dotted for s in self.steps if s.when for ref in references(s.when)}
        return tuple(name for name in self.counts if name in asked)

    @property
    def regions(self) -> tuple[Region, ...]:
        """The prefill, and every step."""
        return (self.prefill, *(step.region for step in self.steps))

    @property
    def nodes(self) -> tuple[Node, ...]:
        """All nodes, those of loops too, in the order in which they run."""
        return tuple(walk(node for region in self.regions for node in region.nodes))

    def node(self, name: str) -> Node:
        """Return a node by its full name, `step.kept` or `step.filled.pick`.

        Raises:
            KeyError: there is no such node.
        """
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(name)

    def dependencies(self) -> nx.DiGraph[str]:
        """Return the graph of node names, with an edge from each value to its uses."""
        edges: nx.DiGraph[str] = nx.DiGraph()
        for node in self.nodes:
            edges.add_node(node.name)
            for value in uses(node.op):
                edges.add_edge(value.node, node.name)
        for carried in self.carry:
            edges.add_edge(carried.initial.node, f"carry.{carried.name}")
            edges.add_edge(f"carry.{carried.name}", "emit")
        for step in self.steps:
            for name, made in step.next:
                edges.add_edge(made.node, f"carry.{name}")
        for value in uses((self.prefill_tokens, *(step.emit for step in self.steps))):
            edges.add_edge(value.node, "emit")
        return edges


def walk(nodes: Iterable[Node]) -> Iterator[Node]:
    """Yield nodes, and those of the bodies inside them, in the order in which they run."""
    for node in nodes:
        if isinstance(node.op, Repeat):
            yield from walk(node.op.body.nodes)
        yield node


def uses(part: Any) -> Iterator[Value]:
    """Yield every Value inside an op, an emission or a value, but not those of a loop's body."""
    if isinstance(part, Value):
        yield part
        if part.count is not None:
            yield from uses(part.count)
    elif isinstance(part, tuple):
        for item in part:
            yield from uses(item)
    elif is_dataclass(part) and not isinstance(part, (Region, Span)):
        for item in fields(part):
            yield from uses(getattr(part, item.name))


def leading_to(names: Iterable[str], edges: Iterable[tuple[str, str]]) -> set[str]:
    """Return the names from which one of `names` is reached along the edges."""
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_edges_from(edges)
    found: set[str] = set()
    for name in names:
        if name in graph:
            found |= nx.ancestors(graph, name)
    return found


def run_order(
    names: Sequence[str], edges: Iterable[tuple[str, str]]
) -> tuple[list[str], list[list[str]]]:
    """Order names so that values come before their uses, otherwise as in the file.

    Returns the order, and the cycles that stand in its way, each as the names along it; the names
    of a cycle are left out of the order.
    """
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_nodes_from(names)
    graph.add_edges_from(edges)
    cycles: list[list[str]] = []
    for component in list(nx.strongly_connected_components(graph)):
        inside = graph.subgraph(component)
        if len(component) > 1 or inside.number_of_edges():
            start = min(component, key=names.index)
            cycles.append([edge[0] for edge in nx.find_cycle(inside, start)])
            graph.remove_nodes_from(component)
    order = list(nx.lexicographical_topological_sort(graph, key=names.index))
    return order, sorted(cycles, key=lambda cycle: names.index(cycle[0]))
