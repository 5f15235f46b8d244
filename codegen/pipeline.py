"""The passes, in order. Each leaves a valid graph, or a valid program; `trace` hands out what is
between those over graphs.
"""

from __future__ import annotations

from collections.abc import Callable

from nldc.codegen.lower import lower
from nldc.codegen.passes.drop_dead import drop_dead
from nldc.codegen.passes.fold_select import fold_select
from nldc.codegen.passes.fuse_head_choose import fuse_head_choose
from nldc.codegen.passes.narrow_states import narrow_states
from nldc.codegen.passes.share_layouts import share_layouts
from nldc.codegen.passes.unroll_repeat import unroll_repeat
from nldc.codegen.program import Program
from nldc.ir.graph import Graph

Pass = Callable[[Graph], Graph]

PASSES: tuple[Pass, ...] = (fold_select, unroll_repeat, drop_dead)
PROGRAM_PASSES: tuple[Callable[[Program], Program], ...] = (
    share_layouts,
    fuse_head_choose,
    narrow_states,
)


def run(graph: Graph, trace: Callable[[str, Graph], None] = lambda _name, _graph: None) -> Graph:
    """Return the graph after every pass; `trace` sees each pass's name and result."""
    for step in PASSES:
        graph = step(graph)
        trace(step.__name__, graph)
    return graph


def compiled(graph: Graph) -> Program:
    """Return the program of a graph on which `run` has been, after every pass over programs."""
    program = lower(graph)
    for step in PROGRAM_PASSES:
        program = step(program)
    return program
