"""Inline a loop that runs one round and is over: its body fills every masked row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

from nldc.codegen.rewrite import map_graph, substitute
from nldc.expr import Expr, fold
from nldc.ir.effects import leaves_rows
from nldc.ir.graph import Graph
from nldc.ir.ops import Fill, Forward, Node, Noise, Repeat, Select, Value
from nldc.ir.scope import TRUE


def unroll_repeat(graph: Graph) -> Graph:
    """Put the body of each such loop in its place; its last node takes the loop's name."""
    instead: dict[str, Value] = {}

    def inline(nodes: tuple[Node, ...]) -> tuple[Node, ...]:
        flat: list[Node] = []
        for node in nodes:
            if isinstance(node.op, Repeat) and _fills_all(node):
                instead[f"{node.name}:{node.op.variable}"] = node.op.initial
                flat.extend(_body(node, node.op))
            else:
                flat.append(node)
        return tuple(flat)

    inlined = map_graph(graph, inline)
    return substitute(inlined, instead) if instead else graph


def _body(node: Node, loop: Repeat) -> Iterator[Node]:
    for inner in loop.body.nodes:
        if isinstance(inner.op, Select):
            inner = replace(inner, op=_in_first_round(inner.op))
        if isinstance(inner.op, Noise):
            inner = replace(inner, op=replace(inner.op, iteration=0))
        if leaves_rows(loop) and isinstance(inner.op, Forward):
            yield replace(inner, op=replace(inner.op, append=TRUE))
        else:
            yield replace(inner, name=node.name) if inner.name == loop.result.node else inner


def _in_first_round(select: Select) -> Select:
    """Return the selection with its rules as they are in the loop's first round."""
    rules = {item.name: getattr(select, item.name) for item in fields(select)}
    known: dict[str, Any] = {
        name: fold(rule, {"iteration": 0}) for name, rule in rules.items() if isinstance(rule, Expr)
    }
    return replace(select, **known)


def _fills_all(node: Node) -> bool:
    loop = node.op
    assert isinstance(loop, Repeat)
    if not loop.at_least or loop.until == "unchanged":
        return False
    last = next((n for n in loop.body.nodes if n.name == loop.result.node), None)
    if last is None or not isinstance(last.op, Fill) or loop.result.picks:
        return False
    current = f"{node.name}:{loop.variable}"
    where = last.op.where
    return (
        last.op.rows.node == current
        and where.node == current
        and where.field == "masked"
        and not where.picks
    )
