"""What nodes do beside having a value, decided in one place for checks, passes and printers.

A forward leaves the rows of its `append` in the cache; a loop that keeps its keys, those of its
last round's forward. Such a node stays though nobody uses its value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from nldc.expr import Expr, ExprError, Number, evaluate
from nldc.ir.graph import Graph, uses, walk
from nldc.ir.ops import (
    Candidates,
    Fill,
    Forward,
    Lookup,
    Mask,
    Node,
    Op,
    Repeat,
    Sample,
    Select,
    Value,
)
from nldc.ir.scope import FALSE, PROMPT, TRUE


def leaving(op: Op) -> Forward | None:
    """Return the forward of which an op leaves rows in the cache, those of `append`, if it does."""
    if isinstance(op, Repeat):
        return replace(forward_of(op)[1], append=TRUE) if op.keys == "kept" else None
    return op if isinstance(op, Forward) and op.append != FALSE else None


def leaves_rows(op: Op) -> bool:
    """Whether an op leaves rows in the cache, so that it must stay whoever uses its value."""
    if isinstance(op, Repeat):
        return op.keys == "kept"
    return isinstance(op, Forward) and op.append != FALSE


def carries_prompt(graph: Graph) -> bool:
    """Whether tokens of the prompt themselves may go from the prefill to the first step.

    What is chosen from logits, or looked up in the text, is a token of its own.
    """
    nodes = {node.name: node.op for node in walk(graph.prefill.nodes)}
    left, seen = [item.initial for item in graph.carry], set[str]()
    while left:
        name = left.pop().node
        if name == PROMPT:
            return True
        op = nodes.get(name)
        if name in seen or isinstance(op, Sample | Candidates | Lookup):
            continue
        seen.add(name)
        left += uses(op)
        if isinstance(op, Repeat):
            left += (value for node in walk(op.body.nodes) for value in uses(node.op))
    return False


def forward_of(loop: Repeat) -> tuple[Node, Forward]:
    """Return the only forward of a loop that keeps its keys."""
    ((node, forward),) = ((n, n.op) for n in loop.body.nodes if isinstance(n.op, Forward))
    return node, forward


def last_fill(loop: Repeat) -> Fill | None:
    """Return the fill whose tokens a loop's last round offers to the rows that are left, if any.

    It is what makes the next value, or what is masked again for it.
    """
    nodes = {node.name: node.op for node in loop.body.nodes}
    last = nodes.get(loop.result.node)
    while isinstance(last, Mask):
        last = nodes.get(last.rows.node)
    return last if isinstance(last, Fill) else None


def live(graph: Graph, *, unread: bool = True) -> set[str]:
    """Return the nodes, and values as `carry.NAME`, from which something emitted or cached is made.

    With `unread`, carried values that no node reads are among them, and what they are made from.
    """
    ops = {node.name: node.op for node in graph.nodes}
    carried = {f"carry.{item.name}": [*uses(item.initial)] for item in graph.carry}
    waiting = [f"carry.{name}" for name in graph.routed_by]
    waiting += _nodes(uses(graph.prefill_tokens))
    for step in graph.steps:
        waiting += _nodes(uses(step.emit))
        for name, made in step.next:
            carried[f"carry.{name}"] += uses(made)
    waiting += [name for name, op in ops.items() if leaves_rows(op)]
    waiting += carried if unread else ()
    found: set[str] = set()
    while waiting:
        name = waiting.pop().split(":")[0]
        if name not in found:
            found.add(name)
            waiting += _sources(ops[name]) if name in ops else _nodes(carried.get(name, ()))
    return found


def _sources(op: Op) -> list[str]:
    """Return the nodes that an op cannot do without, those of a loop's body too."""
    found = _nodes(uses(op))
    if isinstance(op, Repeat):
        found.append(op.result.node)
        found += [forward_of(op)[0].name] if leaves_rows(op) else []
    return found


def _nodes(values: Iterable[Value]) -> list[str]:
    return [value.node for value in values]


def takes_all(select: Select, numbers: Mapping[str, int] | None = None) -> bool:
    """Whether a selection surely takes all of `among`: a probability is always at least 0.

    `numbers` are what is known of a round. A bound that a step would compute in real numbers
    decides nothing: it is rounded otherwise there.
    """
    if select.at_least is None or select.less_is_surer:
        return False
    return sure_number(select.at_least, numbers or {}) <= 0


def sure_number(rule: Expr, numbers: Mapping[str, int]) -> float:
    """Return a rule's value, or NaN where it has none that is the same wherever it is computed."""
    try:
        value = evaluate(rule, numbers)
    except ExprError:
        return float("nan")
    exact = isinstance(rule, Number) or isinstance(value, int)
    return float(value) if exact else float("nan")
