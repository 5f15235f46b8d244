"""From a graph to its program: row order, layouts, patterns, tables, names, room.

Nothing that is decided here is decided again when the program is printed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nldc.codegen.lower_layouts import lower_layout
from nldc.codegen.lower_method import MethodLowering, Module
from nldc.codegen.lower_params import Params
from nldc.codegen.lower_patterns import Patterns
from nldc.codegen.names import class_scope, module_scope
from nldc.codegen.ordered import Ordered
from nldc.codegen.program import Choice, Layout, Method, Needs, Origin, Pattern, Program
from nldc.codegen.room import Written, room_of
from nldc.codegen.tables import Tables
from nldc.ir.branches import keeps_path, storing
from nldc.ir.effects import carries_prompt
from nldc.ir.graph import Graph
from nldc.ir.ops import Forward, Lookup, Node, Safety
from nldc.ir.types import Scores


def lower(graph: Graph) -> Program:
    """Return the program of a graph."""
    scope = module_scope()
    patterns = Patterns(scope, graph.kinds)
    rows: dict[str, Ordered] = {}
    layouts: dict[str, Layout] = {}
    attention: dict[str, Pattern] = {}
    branched = {
        storing(step.region.nodes)[0].name for step in graph.steps if keeps_path(step.emit.keep)
    }
    for node, forward in forwards(graph):
        origin = Origin.of(node)
        ordered = rows[node.name] = Ordered(forward, graph.kinds, node.name in branched)
        name = node.name.replace(".", "_")
        constant = f"{name}_rows" if ordered.dynamic else f"{name}_rows".upper()
        layouts[node.name] = lower_layout(scope.allot(constant), ordered, origin)
        wanted = name.upper().removeprefix("STEP_")
        attention[node.name] = patterns.of(forward.attention, ordered, wanted, origin)
    tables = Tables(scope)
    params = Params(scope, graph)
    module = Module(scope, rows, layouts, attention, tables, params)
    prefill = MethodLowering(module, graph, None).method("prefill")
    steps = _steps(module, graph)
    registers = scope.inside(("self", "live")).allot_all(graph.routed_by)
    written = {name: Written(each.size, each.appended()) for name, each in rows.items()}
    return Program(
        strategy=graph.name,
        summary=graph.summary,
        guarantee=graph.guarantee,
        compat=graph.compat,
        params=tuple(graph.shown.items()),
        kinds=graph.kinds,
        needs=_needs(graph),
        room=room_of(graph, written),
        layouts=tuple(layouts.values()),
        tables=tables.all,
        patterns=patterns.all,
        prefill=prefill,
        steps=tuple(steps),
        brought=params.brought,
        worths=params.worths,
        choices=tuple(
            Choice(step.when, method.name)
            for step, method in zip(graph.steps, steps, strict=True)
            if step.when is not None
        ),
        routed_by=tuple(zip(graph.routed_by, registers, strict=True)),
    )


def forwards(graph: Graph) -> Iterator[tuple[Node, Forward]]:
    """Yield the forwards of the graph in the order in which they run."""
    for node in graph.nodes:
        if isinstance(node.op, Forward):
            yield node, node.op


def _steps(module: Module, graph: Graph) -> Sequence[Method]:
    """Return the steps in the order in which they are tried."""
    if len(graph.steps) == 1:
        return [MethodLowering(module, graph, graph.steps[0]).method("step")]
    scope = class_scope()
    return [
        MethodLowering(module, graph, step).method(scope.allot(f"step_{step.name}"))
        for step in graph.steps
    ]


def _needs(graph: Graph) -> Needs:
    """Return what the strategy needs of a checkpoint, and of the device.

    A forward that sees other rows than the ones before needs a model that diffuses.
    """
    return Needs(
        adapters=tuple((adapter.name, adapter.optional) for adapter in graph.adapters),
        samplers=tuple(_samplers(graph)),
        checkpoint=tuple(
            (name, key, graph.params[name]) for name, key in graph.checkpoint_params.items()
        ),
        diffuses=any(forward.attention.name != "causal" for _, forward in forwards(graph)),
        texts=any(isinstance(node.op, Lookup) for node in graph.nodes),
        prompt=carries_prompt(graph),
    )


def _samplers(graph: Graph) -> Iterator[tuple[str, int]]:
    """Yield each declared sampler, and the most rows of which it is asked."""
    rows = {adapter.name: 0 for adapter in graph.adapters if adapter.kind == "sampler"}
    for node in graph.nodes:
        if isinstance(node.op, Safety) and isinstance(node.type, Scores):
            rows[node.op.sampler] = max(rows[node.op.sampler], node.type.size.at(0))
    yield from rows.items()
