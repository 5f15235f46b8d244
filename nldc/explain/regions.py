"""The graph of a strategy as boxes and edges: the prefill, each step, the body of each loop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nldc.diagnostics import counted
from nldc.explain.model import Box, Edge, Region, Sort
from nldc.explain.places import Places, shortened
from nldc.expr import Boolean, show
from nldc.ir.graph import Graph, Step, uses, walk
from nldc.ir.layout import Layout
from nldc.ir.ops import (
    Accept,
    Candidates,
    Forward,
    LayRows,
    Lookup,
    Mix,
    Node,
    Noise,
    Op,
    Recall,
    Reckon,
    Repeat,
    Safety,
    Sample,
    Score,
    Select,
    Value,
)
from nldc.ir.text import op_name, show_op, show_value

MOST_BOXES = 60
"""Boxes of one region that are drawn."""
MOST_REGIONS = 24
LONGEST = 4000
"""Characters of what is said of one node."""
LABEL = 44
"""Characters of what stands in a box."""


def regions_of(graph: Graph, places: Places) -> tuple[Region, ...]:
    """Return the regions in the order in which they run, a loop's body behind what it is in."""
    found = [_prefill(graph, places), *_bodies(graph.prefill.nodes, places)]
    for step in graph.steps:
        found += [_step(graph, step, places), *_bodies(step.region.nodes, places)]
    return tuple(found[:MOST_REGIONS])


def _prefill(graph: Graph, places: Places) -> Region:
    tokens = graph.prefill_tokens
    outs = [("emit:prefill", "emit", (tokens,))] if tokens is not None else []
    outs += [(f"next:{item.name}", f"carry {item.name}", (item.initial,)) for item in graph.carry]
    return _region("prefill", "prefill", graph.prefill.nodes, outs, places)


def _step(graph: Graph, step: Step, places: Places) -> Region:
    emit = step.emit
    handed = (emit.tokens,) if emit.keep is None else (emit.tokens, emit.keep)
    outs = [(f"emit:{step.name}", "emit", handed)]
    outs += [(f"next:{name}", f"next {name}", (made,)) for name, made in step.next]
    title = step.name
    if step.when is not None:
        title += f": taken while {show(step.when)}"
    elif len(graph.steps) > 1:
        title += ": taken otherwise"
    return _region(step.name, title, step.region.nodes, outs, places)


def _bodies(nodes: Sequence[Node], places: Places) -> Iterator[Region]:
    for node in nodes:
        if isinstance(node.op, Repeat):
            loop = node.op
            outs = [(f"next:{node.name}", f"again {loop.variable}", (loop.result,))]
            title = f"{node.name}: each of at most {counted(loop.at_most, 'round')}"
            plain = all(each.span == node.span for each in loop.body.nodes)
            yield _region(node.name, title, loop.body.nodes, outs, places, plain)
            yield from _bodies(loop.body.nodes, places)


def _region(
    name: str,
    title: str,
    nodes: Sequence[Node],
    outs: Sequence[tuple[str, str, tuple[Value, ...]]],
    places: Places,
    plain: bool = False,
) -> Region:
    own = {node.name for node in nodes}
    boxes: dict[str, Box] = {}
    edges: dict[Edge, None] = {}

    def comes(values: Sequence[Value], to: str) -> None:
        for value in values:
            if value.node not in own and value.node not in boxes:
                boxes[value.node] = _given(value.node, places)
            edges[Edge(value.node, to)] = None

    for node in nodes:
        comes(list(_inputs(node)), node.name)
        boxes[node.name] = Box(
            name=node.name,
            title=shortened(_short(node.name), LABEL),
            sort=sort_of(node.op),
            detail=shortened(_detail(node), LABEL),
            text=shortened(f"{node.name}: {node.type} = {show_op(node.op)}", LONGEST),
            place=places.by_node.get(node.name),
        )
    for out, said, values in outs:
        comes(values, out)
        shown = ", keep ".join(map(show_value, values))
        boxes[out] = Box(
            name=out,
            title=shortened(said, LABEL),
            sort="out",
            detail=shortened(", keep ".join(map(_brief, values)), LABEL),
            text=shortened(f"{said} = {shown}", LONGEST),
            place=places.at(values[0].span),
        )
    drawn = dict(list(boxes.items())[:MOST_BOXES])
    kept = tuple(e for e in edges if e.source in drawn and e.target in drawn)
    return Region(
        name, shortened(title, 200), tuple(drawn.values()), kept, plain, len(boxes) - len(drawn)
    )


def _inputs(node: Node) -> Iterator[Value]:
    """Yield what a node reads; of a loop, how it begins and what its body reads from outside."""
    if not isinstance(node.op, Repeat):
        yield from uses(node.op)
        return
    loop = node.op
    yield from uses(loop.initial)
    inside = {each.name for each in walk(loop.body.nodes)}
    for each in walk(loop.body.nodes):
        for value in uses(each.op):
            if value.node not in inside and not value.node.startswith(f"{node.name}:"):
                yield value


def _given(name: str, places: Places) -> Box:
    if name.startswith("carry."):
        title, detail = name.removeprefix("carry."), "carried"
    elif name.startswith("$"):
        title, detail = name, "given"
    elif ":" in name:
        title, detail = name.rpartition(":")[2], "of the last round"
    else:
        title, detail = _short(name), "from outside"
    place = places.by_node.get(name)
    return Box(name, shortened(title, LABEL), "given", detail, f"{name}: {detail}", place)


def _short(name: str) -> str:
    return name.rpartition(".")[2]


def _brief(value: Value) -> str:
    """Return a use of a value without the region that it is in."""
    text = show_value(value)
    return text.partition(".")[2] if not text.startswith("$") else text


def sort_of(op: Op) -> Sort:
    """Return what an op is, for its colour."""
    match op:
        case Forward():
            return "forward"
        case LayRows():
            return "rows"
        case Accept():
            return "accept"
        case Repeat():
            return "loop"
        case Sample() | Score() | Safety() | Candidates() | Mix():
            return "choice"
        case _:
            return "other"


def _detail(node: Node) -> str:
    """Return the op and what it is about, in a few words."""
    op, name = node.op, op_name(node.op)
    match op:
        case LayRows():
            return f"rows: {laid(op.layout)}"
        case Forward():
            with_ = "" if op.adapter is None else f", {op.adapter}"
            kept = "" if op.append == Boolean(False) else ", kept"
            rows = f"{op.layout.size} row{'' if str(op.layout.size) == '1' else 's'}"
            return f"forward: {rows}{kept}{with_}"
        case Repeat():
            return f"loop: at most {counted(op.at_most, 'round')}"
        case Score(by=by):
            return by
        case Safety(sampler=sampler):
            return f"safety by {sampler}"
        case Lookup(length, ngram):
            return f"lookup: {length} tokens behind {ngram}"
        case Recall(count=count, entry=entry):
            return f"recall: {count} of {entry} tokens"
        case Candidates(count=count):
            return f"the {count} likeliest"
        case Accept(branches=branches) if branches:
            return f"accept: best of {len(branches)} branches"
        case Accept():
            return "accept: longest prefix"
        case Reckon(expr=expr):
            return show(expr)
        case Select() | Noise():
            return name
        case _:
            size = getattr(node.type, "size", None)
            return name if size is None else f"{name}: {size}"


def laid(layout: Layout) -> str:
    """Return the rows of a layout in words: `1 token, 15 masks`."""
    parts = []
    for segment in layout.segments:
        sizes = {str(size) for size in segment.sizes}
        number = sizes.pop() if len(sizes) == 1 else "some"
        noun = "token" if segment.tokens else "mask"
        parts.append(f"{number} {noun}{'' if number == '1' else 's'}")
    return (f"{layout.groups} x " if layout.groups > 1 else "") + ", ".join(parts)
