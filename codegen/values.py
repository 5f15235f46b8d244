"""What a use of a value is: its type, and the rows among which its picks choose."""

from __future__ import annotations

from nldc.diagnostics import InternalError
from nldc.ir.graph import Graph
from nldc.ir.layout import Layout, plain
from nldc.ir.ops import Value
from nldc.ir.picks import picked, prompt_runs
from nldc.ir.scope import PROMPT
from nldc.ir.size import Size
from nldc.ir.types import Accepted, Count, Logits, RowMask, Rows, Tokens, Type, accepted_fields


def type_of(graph: Graph, value: Value) -> Type:
    """Return the type of a value before its picks."""
    if value.node == PROMPT:
        return Tokens(Size(0, 1))
    if value.node.startswith("carry."):
        carried = {c.name: c.type for c in graph.carry}
        type_: Type = carried[value.node.removeprefix("carry.")]
    else:
        type_ = graph.node(value.node.split(":")[0]).type
    return type_ if value.field is None else _field(type_, value.field)


def layout_of(graph: Graph, value: Value) -> Layout:
    """Return the rows among which the picks of a value choose."""
    type_ = type_of(graph, value)
    if isinstance(type_, Rows | Logits):
        return type_.layout
    size = getattr(type_, "size", None)
    if not isinstance(size, Size):
        raise InternalError(f"{type_} has no rows")
    return plain(size)


def counts_of(graph: Graph, value: Value) -> list[int]:
    """Return each value of the count that the picks of a value depend on; [0] if there is none."""
    if value.count is None:
        return [0]
    count = type_of(graph, value.count)
    if not isinstance(count, Count):
        raise InternalError("rows chosen by what is no count")
    return list(range(count.low, count.high + 1))


def chosen(graph: Graph, value: Value) -> dict[int, tuple[int, ...]]:
    """Return the rows that are chosen, in the file's order, for each value of the count."""
    rows = layout_of(graph, value).rows()
    others = [
        {} if value.count_name is None else {value.count_name: count}
        for count in counts_of(graph, value)
    ]
    found = [picked(rows, value.picks, graph.kinds, env) for env in others]
    return dict(zip(counts_of(graph, value), found, strict=True))


def size_of(graph: Graph, value: Value) -> Size:
    """Return how many rows a value has after its picks, at most."""
    layout = layout_of(graph, value)
    if not value.picks:
        return layout.size
    if layout.dynamic:
        return sum((n for _, n in prompt_runs(layout, value.picks, graph.kinds)), Size(0))
    return Size(max(map(len, chosen(graph, value).values())))


def _field(type_: Type, name: str) -> Type:
    if isinstance(type_, Accepted):
        return accepted_fields(type_)[name]
    if isinstance(type_, Rows):
        return Tokens(type_.size) if name == "tokens" else RowMask(type_.size)
    raise InternalError(f"{type_} has no field {name}")
