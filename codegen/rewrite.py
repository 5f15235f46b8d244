"""Rebuilding graphs: ops are frozen, so a pass returns a new graph with parts replaced."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from nldc.diagnostics import Span
from nldc.ir.graph import Graph
from nldc.ir.layout import Layout
from nldc.ir.ops import Node, Region, Value

T = TypeVar("T")


def map_values(part: T, change: Callable[[Value], Value]) -> T:
    """Return the part with every Value in it changed, loop bodies included."""
    return _map(part, change)  # type: ignore[no-any-return]


def _map(part: Any, change: Callable[[Value], Value]) -> Any:
    if isinstance(part, Value):
        inner = part if part.count is None else replace(part, count=_map(part.count, change))
        return change(inner)
    if isinstance(part, tuple):
        return tuple(_map(item, change) for item in part)
    if is_dataclass(part) and not isinstance(part, (type, Span, Layout)):
        old = {item.name: getattr(part, item.name) for item in fields(part)}
        new = {name: _map(value, change) for name, value in old.items()}
        changed = {name: value for name, value in new.items() if value is not old[name]}
        return replace(part, **changed) if changed else part
    return part


def substitute(graph: Graph, instead: Mapping[str, Value]) -> Graph:
    """Return the graph with each use of a node replaced by a use of another.

    The replacement's field is taken as it stands; what is chosen from the old use is chosen from
    the new one.
    """

    def change(value: Value) -> Value:
        new = instead.get(value.node)
        if new is None:
            return value
        return replace(
            new,
            span=value.span,
            field=value.field if new.field is None else new.field,
            picks=(*new.picks, *value.picks),
            count=value.count or new.count,
            count_name=value.count_name or new.count_name,
        )

    return map_graph(graph, lambda nodes: map_values(nodes, change), change)


def map_graph(
    graph: Graph,
    nodes: Callable[[tuple[Node, ...]], tuple[Node, ...]],
    value: Callable[[Value], Value] = lambda v: v,
) -> Graph:
    """Return the graph with the nodes of its regions and its outer values changed."""

    def outer(part: T) -> T:
        return map_values(part, value)

    return replace(
        graph,
        prefill=Region(nodes(graph.prefill.nodes)),
        prefill_tokens=outer(graph.prefill_tokens),
        carry=outer(graph.carry),
        steps=tuple(
            replace(
                step,
                region=Region(nodes(step.region.nodes)),
                emit=outer(step.emit),
                next=outer(step.next),
            )
            for step in graph.steps
        ),
    )


def without(nodes: Iterable[Node], names: set[str]) -> tuple[Node, ...]:
    """Return the nodes that are not named."""
    return tuple(node for node in nodes if node.name not in names)
