"""Which forwards and heads a strategy runs, and of how many rows: what kernels are chosen by."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from nldc.codegen.pipeline import compiled, run
from nldc.codegen.program import (
    Candidates,
    ChooseScored,
    Forward,
    Instruction,
    Method,
    Mix,
    Program,
    Score,
    States,
    logits_of,
    walk,
)
from nldc.ir.graph import Graph
from nldc.ir.ops import Safety
from nldc.ir.size import Size
from nldc.ir.types import Scores

if TYPE_CHECKING:
    from nldc.runtime.kernels.coverage import Scored, Uses


def uses_of(graph: Graph) -> Uses:
    """Return what the prefill and the steps of a strategy run, each kind of forward once."""
    from nldc.runtime.kernels import coverage

    program = compiled(run(graph))
    forwards: dict[coverage.Forward, None] = {}
    heads: dict[coverage.Head, None] = {}
    counts: set[int] = set()
    mixes: set[int] = set()
    scores = False
    for method in program.methods:
        batched = method is not program.prefill
        for each, piece in _forwards(program, method):
            is_adapted = each.adapter is not None
            rows = _rows(each.size, piece)
            forwards[coverage.Forward(each.pattern, rows, batched, is_adapted)] = None
        for instruction in walk(method.body):
            for logits in logits_of(instruction):
                if isinstance(logits, States):
                    rows, scored = _rows(logits.size, None), _scored(instruction)
                    heads[coverage.Head(rows, batched, scored)] = None
            if isinstance(instruction, Candidates):
                counts.add(instruction.count)
            if isinstance(instruction, Mix):
                mixes.add(len(instruction.parts))
            scores |= isinstance(instruction, Score)
    return coverage.Uses(
        tuple(forwards),
        tuple(heads),
        tuple(sorted(counts)),
        tuple(sorted(mixes)),
        scores,
        _blocks(graph),
    )


def _blocks(graph: Graph) -> tuple[int, ...]:
    """Return of how many rows of a sequence trained samplers are asked."""
    asked = [node.type for node in graph.nodes if isinstance(node.op, Safety)]
    return tuple(sorted({each.size.at(0) for each in asked if isinstance(each, Scores)}))


def _forwards(program: Program, method: Method) -> Iterator[tuple[Forward, int | None]]:
    """Yield the forwards, and the most rows of a piece where a long prompt passes in pieces."""
    from nldc.runtime.rows.plan import PIECE

    layouts = {each.name: each for each in program.layouts}
    patterns = {each.name: each for each in program.patterns}
    for each in walk(method.body):
        if isinstance(each, Forward):
            in_order = layouts[each.layout].plain and patterns[each.pattern].looks_back
            yield each, PIECE if in_order else None


def _scored(instruction: Instruction) -> Scored | None:
    """Return whose probability a head gives beside its tokens; None: it gives tokens alone."""
    if not isinstance(instruction, ChooseScored):
        return None
    return "chosen" if instruction.tokens is None else "given"


def _rows(size: Size, piece: int | None) -> int | tuple[int, int | None]:
    return (1, piece) if size.prompts else size.fixed
