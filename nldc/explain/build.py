"""The explanation of a strategy, made of its graph, its proof, its program and its cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from nldc import __version__
from nldc.acceptance import Acceptance
from nldc.api import Checked, texts_of
from nldc.check.lossless.needed import needed_rows
from nldc.codegen.counts import step_counts
from nldc.codegen.emit_artifact import header_of
from nldc.codegen.pipeline import compiled, run
from nldc.codegen.print_decode import decode_lines
from nldc.codegen.print_patterns import pattern_lines
from nldc.codegen.program import Program
from nldc.codegen.program_text import program_lines
from nldc.codegen.writer import Line
from nldc.cost.step import Setting as Costed
from nldc.cost.step import StepCost, refuse_unknown_loops, step_costs, taken
from nldc.cost.text import setting_in_words, speed
from nldc.explain.full import between_steps, brought, dealt, followed
from nldc.explain.grid import grid_of, is_laid, kinds_of
from nldc.explain.model import (
    Cost,
    Explained,
    Forward,
    Printed,
    Setting,
    Step,
    Text,
)
from nldc.explain.places import Places, named, places_of, shortened
from nldc.explain.reasons import promise_of, proved_for
from nldc.explain.regions import regions_of
from nldc.expr import show
from nldc.ir import ops
from nldc.ir.graph import Graph
from nldc.limits import in_words
from nldc.reuse import flat

PROMPT = 6
"""How long the prompt is in pictures of a forward that has it, if that length was tried."""
MOST_LINES = 128
"""Lines of a grid, if nobody says less."""
MOST_FORWARDS = 40
ALL_LINES = 1024
"""Lines of all grids together, but for a few in each."""
LEAST_LINES = 16
MOST_PRINTED = 4000
"""Lines of a program, or of a file, that are shown."""


def explained(
    checked: Checked,
    setting: Costed | None = None,
    acceptance: Acceptance | None = None,
    *,
    most_lines: int = MOST_LINES,
    merge: bool = False,
) -> Explained:
    """Return all that is told of a strategy.

    With a `setting`, what its forwards cost there; `most_lines` are the lines of a grid, in which
    rows that are alike share a line where there are more of them, or always with `merge`.

    Raises:
        ProfileError: the setting names a loop that is none, or the device has no figures for it.
    """
    graph, program = checked.graph, compiled(lowered := run(checked.graph))
    places = places_of(checked.source, graph, lowered)
    certificate = checked.certificate
    costs: tuple[StepCost, ...] = ()
    if setting is not None:
        refuse_unknown_loops(graph, setting.rounds)
        setting = setting.as_measured(acceptance)
        costs = step_costs(graph, setting, program)
    notes = [*followed(graph), *brought(graph), *dealt(graph)]
    if certificate.proved == "exact":
        notes.insert(0, proved_for(certificate))
    return Explained(
        name=graph.name,
        summary=graph.summary,
        uses=checked.source.uses,
        params=tuple(graph.shown.items()),
        promise=promise_of(checked),
        notes=tuple("\n".join([*notes, between_steps(checked)]).split("\n")),
        regions=regions_of(graph, places),
        forwards=tuple(_forwards(checked, lowered, places, most_lines, merge)),
        steps=tuple(_steps(graph, program, costs)),
        setting=None if setting is None else _setting(graph, setting, costs, acceptance),
        files=tuple(Text(file.name, _first(file.lines)) for file in places.files),
        program=_printed("program.txt", program_lines(program), places),
        code=tuple(_code(checked, program, places)),
    )


def _forwards(
    checked: Checked, lowered: Graph, places: Places, most: int, merge: bool
) -> Iterator[Forward]:
    graph, solution = checked.graph, checked.proof.solution
    lengths = solution.lengths
    length = PROMPT if PROMPT in lengths or not lengths else min(max(lengths), PROMPT)
    faults = [p.fault for p in checked.certificate.problems if p.fault is not None]
    needed = needed_rows(solution, length)
    rounds = dict(_rounds(lowered))
    found = [node for node in graph.nodes if isinstance(node.op, ops.Forward)]
    most = min(most, max(LEAST_LINES, ALL_LINES // max(len(found), 1)))
    for number, node in enumerate(found):
        op = node.op
        assert isinstance(op, ops.Forward)
        wrong = [fault for fault in faults if fault.forward == node.name]
        if number >= MOST_FORWARDS and not wrong:
            continue
        # A mistake in a prefill is one at the length at which it was found.
        tried = next((fault.length for fault in wrong if fault.length), length)
        rows = op.layout.rows(tried)
        own = needed.get(node.name, {})
        there = [fault for fault in wrong if fault.length in (0, tried)]
        grid = grid_of(graph, node, checked.certificate, own, there, tried, most, merge=merge)
        ends = [line.position + end for line in grid.lines for end in (0, line.last - line.first)]
        predicate = show(op.attention.predicate)
        yield Forward(
            name=node.name,
            title=named(node.name, graph),
            size=str(op.layout.size),
            rows=len(rows),
            kinds=kinds_of(op.layout, laid=is_laid(graph, op)),
            positions=(min(ends, default=0), max(ends, default=0)),
            attention=shortened(op.attention.name or predicate),
            adapter=op.adapter,
            repeats=rounds.get(node.name, 1),
            grid=grid,
            place=places.by_node.get(node.name),
        )


def _rounds(graph: Graph) -> Iterator[tuple[str, int]]:
    """Yield forwards inside loops, with the rounds that these take at most."""

    def inside(nodes: Sequence[ops.Node], times: int) -> Iterator[tuple[str, int]]:
        for node in nodes:
            if isinstance(node.op, ops.Repeat):
                yield from inside(node.op.body.nodes, times * node.op.at_most)
            elif isinstance(node.op, ops.Forward):
                yield node.name, times

    for region in graph.regions:
        yield from inside(region.nodes, 1)


def _steps(graph: Graph, program: Program, costs: Sequence[StepCost]) -> Iterator[Step]:
    counts = step_counts(graph, program)
    if not costs:
        yield from (Step(each.step, in_words(each)) for each in counts)
        return
    for each, found in zip(counts, costs, strict=True):
        parts = [
            Cost(
                part.node,
                named(part.node, graph),
                "head" if part.head else "forward",
                part.rows,
                part.times,
                part.floor,
                part.predicted,
            )
            for part in found.parts
        ]
        total = Cost(each.step, each.step, "step", 0, 1.0, found.floor, found.predicted)
        yield Step(each.step, in_words(each), tuple(parts), total)


def _setting(
    graph: Graph, setting: Costed, costs: tuple[StepCost, ...], acceptance: Acceptance | None
) -> Setting:
    now = taken(graph, costs, setting.batch)
    bounded = [
        f"{node} counts with as many rounds as it may take: give --rounds {node}=MEAN"
        for node in dict.fromkeys(node for each in costs for node in each.bounded)
    ]
    return Setting(setting_in_words(setting), (*speed(graph, now, setting, acceptance), *bounded))


def _code(checked: Checked, program: Program, places: Places) -> Iterator[Text]:
    source = checked.source
    file, proved = Path(source.name).name, checked.certificate.proved
    header = header_of(file, flat(source), __version__, proved, texts_of(source))
    yield _printed("decode.py", decode_lines(program, header), places)
    yield _printed("patterns.py", pattern_lines(program), places)


def _printed(name: str, lines: Sequence[Line], places: Places) -> Text:
    return Text(
        name, _first([Printed(shortened(line.text), places.of(line.nodes)) for line in lines])
    )


def _first(lines: Sequence[Printed]) -> tuple[Printed, ...]:
    """Return the lines that are shown, and say so where there are more."""
    if len(lines) <= MOST_PRINTED:
        return tuple(lines)
    more = Printed(f"... and {len(lines) - MOST_PRINTED} lines more")
    return (*lines[:MOST_PRINTED], more)
