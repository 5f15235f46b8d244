"""The stable text form of a graph: one line a node, for golden files, traces and artifacts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import MISSING, Field, fields
from typing import Any

from nldc.diagnostics import Span
from nldc.expr import Field as Selected
from nldc.expr import Item, Slice, show
from nldc.ir.graph import Graph, Step
from nldc.ir.layout import Layout
from nldc.ir.ops import (
    At,
    Attention,
    Between,
    LayRows,
    Node,
    OfKind,
    Op,
    Padded,
    Region,
    Repeat,
    Value,
    Where,
)
from nldc.ir.size import Size


def show_graph(graph: Graph) -> str:
    """Return the graph as text: params, regions, and what a step emits and carries."""
    lines = [f"strategy {graph.name} guarantee {graph.guarantee}"]
    lines += [f"compat {graph.compat}"] * (graph.compat is not None)
    lines += [f"param {name} = {value}" for name, value in graph.settings.items()]
    lines += [
        f"{'adapter' if a.kind == 'lora' else a.kind} {a.name}{' optional' if a.optional else ''}"
        for a in graph.adapters
    ]
    lines += [f"limit {name} = {most}" for name, most in graph.limits.items()]
    lines.append("prefill:")
    lines += _region(graph.prefill.nodes, 1)
    if graph.prefill_tokens is not None:
        lines.append(f"  emit {show_value(graph.prefill_tokens)}")
    lines += [f"carry {c.name}: {c.type} = {show_value(c.initial)}" for c in graph.carry]
    for step in graph.steps:
        lines.append("step:" if step.when is None else f"step {step.name} while {show(step.when)}:")
        lines += _step(step)
    return "\n".join(lines) + "\n"


def _step(step: Step) -> Iterator[str]:
    yield from _region(step.region.nodes, 1)
    keep = "all" if step.emit.keep is None else show_value(step.emit.keep)
    yield f"  emit {show_value(step.emit.tokens)} keep {keep}"
    yield from (f"  next {name} = {show_value(made)}" for name, made in step.next)


def _region(nodes: Iterable[Node], depth: int) -> Iterator[str]:
    pad = "  " * depth
    for node in nodes:
        yield f"{pad}{node.name}: {node.type} = {show_op(node.op)}"
        if isinstance(node.op, Repeat):
            yield from _region(node.op.body.nodes, depth + 1)
            yield f"{pad}  again {show_value(node.op.result)}"


def op_name(op: Op) -> str:
    """Return the op's name in the file."""
    return "rows" if isinstance(op, LayRows) else type(op).__name__.lower()


def show_op(op: Op) -> str:
    """Return an op as text; of a loop, all but its body."""
    if isinstance(op, Repeat):
        begin = show_value(op.initial)
        return f"repeat {op.variable} from {begin} at most {op.at_most} until full{_open(op)}"
    parts = [op_name(op)]
    for item in fields(op):
        value = getattr(op, item.name)
        if value is not None and not _is_default(item, value):
            parts.append(f"{item.name}={show_part(value)}")
    return " ".join(parts)


def _open(loop: Repeat) -> str:
    """Show the attributes of a loop that are not the default."""
    values = ((item, getattr(loop, item.name)) for item in fields(loop))
    return "".join(
        f" {item.name}={value}"
        for item, value in values
        if item.default is not MISSING and not _is_default(item, value)
    )


def _is_default(item: Field[Any], value: Any) -> bool:
    return item.default is not MISSING and value == item.default


def show_part(part: Any) -> str:
    """Return one field of an op as text."""
    match part:
        case Value():
            return show_value(part)
        case Layout():
            return _layout(part)
        case Attention(predicate, name):
            return name or f"({show(predicate)})"
        case tuple():
            return f"[{', '.join('-' if p is None else show_part(p) for p in part)}]"
        case bool() | int() | float() | str():
            return str(part)
        case Region() | Span():
            raise TypeError(type(part).__name__)
        case _:
            return f"({show(part)})"


def _layout(layout: Layout) -> str:
    segments = [
        f"{'tokens' if s.tokens else 'masks'}"
        f"{'' if s.kind is None else ':' + s.kind}"
        f"*{_sizes(s.sizes)}"
        for s in layout.segments
    ]
    groups = f"{layout.groups}x" if layout.groups > 1 else ""
    groups += "by segment " if layout.by_segment else ""
    return f"{groups}{{{' '.join(segments)}}}"


def _sizes(sizes: tuple[Size, ...]) -> str:
    """Show the size of a segment in each group: once if it is the same in all."""
    each = [str(size) for size in sizes]
    return each[0] if len(set(each)) == 1 else ",".join(each)


def show_value(value: Value) -> str:
    """Return a use of a value as the file would write it, with its full name."""
    text = value.node if value.field is None else f"{value.node}.{value.field}"
    for pick in value.picks:
        match pick:
            case OfKind(kind):
                text += show(Selected(kind))
            case Where(predicate):
                text += show(Item(predicate))
            case At(index):
                text += show(Item(index))
            case Between(start, stop):
                text += show(Slice(start, stop))
            case Padded(size):
                text += f" padded to {size}"
    return text
