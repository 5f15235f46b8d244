"""What a step of a strategy costs on a device: its program's forwards and heads, one by one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from nldc.acceptance import Acceptance
from nldc.codegen.costs import cost_of, joined_ops
from nldc.codegen.pipeline import compiled, run
from nldc.codegen.program import (
    AdaptedTable,
    ByCount,
    Candidates,
    Choose,
    ChooseScored,
    FixedLayout,
    Forward,
    Head,
    Instruction,
    Layout,
    Loop,
    Method,
    Mix,
    Pattern,
    Program,
    Reader,
    Safety,
    Score,
    States,
    Table,
    Use,
    logits_of,
    walk,
)
from nldc.codegen.values import size_of, type_of
from nldc.cost.device import DTYPES, Device
from nldc.cost.geometry import Geometry
from nldc.cost.predict import GRAPH, MICRO, Execution, floor, predict
from nldc.cost.visible import visible
from nldc.cost.work import Work, forward_work, head_work
from nldc.expr import evaluate
from nldc.ir.graph import Graph
from nldc.ir.ops import Value
from nldc.ir.types import Tokens
from nldc.runtime.errors import ProfileError


@dataclass(frozen=True)
class Setting:
    """What a step is costed for: device, model, tokens in the cache, sequences, how it is executed.

    `rounds` says how many rounds a loop is expected to take, by its node; else, as many as it may.
    """

    device: Device
    geometry: Geometry
    prefix: int = 1024
    batch: int = 1
    dtype: str = "bfloat16"
    execution: Execution = GRAPH
    rounds: Mapping[str, float] = field(default_factory=dict)

    @property
    def width(self) -> int:
        """Bytes of a number."""
        return DTYPES[self.dtype]

    def as_measured(self, acceptance: Acceptance | None) -> Setting:
        """Return the setting with the rounds of loops that were measured; those given stand."""
        measured = {} if acceptance is None else acceptance.rounds
        return replace(self, rounds={**measured, **self.rounds})


@dataclass(frozen=True)
class Part:
    """One forward, or one head with `head` true: its node, its rows a sequence, how often a step
    runs it, what it takes each time, and the seconds of its floor and its prediction.
    """

    node: str
    head: bool
    rows: int
    times: float
    work: Work
    kernels: int
    floor: float
    predicted: float


@dataclass(frozen=True)
class StepCost:
    """What one method costs: its parts, other ops, and waits; seconds are of a whole step.

    `launches` are the kernels that the host launches, or the graphs: what lies before, between and
    behind loops is one, and each round is one. `bounded` are loops whose rounds nobody said: they
    count with as many as they may take, `samplers` nodes that ask a trained sampler, which launches
    more if it is wide. `most` is how many tokens it may emit for each sequence,
    `varies` whether that depends on what is accepted; `drafts`, how many tokens the next draft has
    after 1, 2, … emitted ones, where the rows that it is drafted from depend on them.
    """

    step: str
    parts: tuple[Part, ...]
    ops: float
    kernels: float
    launches: float
    host_waits: float
    device_waits: float
    floor: float
    predicted: float
    bounded: tuple[str, ...]
    samplers: tuple[str, ...] = ()
    most: int = 0
    varies: bool = False
    drafts: tuple[int, ...] = ()

    def tokens(self, acceptance: Acceptance | None) -> float | None:
        """Return how many tokens a step is expected to emit a sequence; None: nobody knows."""
        if not self.varies:
            return float(self.most)
        if acceptance is None:
            return None
        if self.drafts:
            return acceptance.expected_of(self.drafts)
        return acceptance.expected(self.most)


def step_costs(
    graph: Graph, setting: Setting, program: Program | None = None
) -> tuple[StepCost, ...]:
    """Return what each step of a strategy costs, in the graph's order.

    `program` is the graph's, for whoever has it already.
    """
    program = program or compiled(run(graph))
    return tuple(
        replace(
            _cost(program, method, step.name, setting),
            most=most,
            varies=varies,
            drafts=drafts_of(program, method),
        )
        for step, method in zip(graph.steps, program.steps, strict=True)
        for most, varies in [_emitted(graph, step.emit.tokens)]
    )


def prefill_cost(graph: Graph, setting: Setting) -> StepCost:
    """Return what the prefill of one prompt of `setting.prefix` tokens costs."""
    program = compiled(run(graph))
    return _cost(program, program.prefill, "prefill", replace(setting, batch=1))


def prefill_forwards(graph: Graph) -> int:
    """Return how many forwards the prefill of one prompt makes, whether they count or not."""
    body = compiled(run(graph)).prefill.body
    return sum(isinstance(each, Forward) for each in walk(body))


def taken(graph: Graph, costs: tuple[StepCost, ...], live: int) -> StepCost:
    """Return the step that is taken while so many sequences are live, and carry what they begin
    with.
    """
    begun = {item.name: item.start for item in graph.carry if item.start is not None}
    for step, cost in zip(graph.steps, costs, strict=True):
        if step.when is None or evaluate(step.when, {**begun, "live": live}):
            return cost
    return costs[-1]


def drafts_of(program: Program, method: Method) -> tuple[int, ...]:
    """Return how many tokens the next draft has after 1, 2, … accepted ones.

    It is drafted from the rows that the count chooses, behind the bonus token; () if none are. Rows
    of a group that is not that of the count, and rows that are chosen again, only fill it up.
    """
    layouts = {each.name: each for each in program.layouts}
    tables = {each.name: each for each in program.tables}
    forwards = {each.name: each for each in method.body if isinstance(each, Forward)}
    for each in method.body:
        match each:
            case (
                Choose(logits=States(use=Use(register, _, ByCount(table, _, 1))))
                | ChooseScored(logits=States(use=Use(register, _, ByCount(table, _, 1))))
            ):
                layout = layouts[forwards[register].layout] if register in forwards else None
                if isinstance(layout, FixedLayout):
                    return tuple(_drafted(layout, tables[table]))
            case _:
                pass
    return ()


def _drafted(layout: FixedLayout, table: Table) -> Iterator[int]:
    """Yield how many tokens the draft of each line of a table has, its bonus token included."""
    for group, line in enumerate(table.lines):
        rows = line if isinstance(line, tuple) else (line,)
        yield 1 + len({row for row in rows if layout.group[row] == group})


def loops(graph: Graph) -> dict[str, str]:
    """Return the loops of all steps, each with the node of a forward that each round runs."""
    program = compiled(run(graph))
    found: dict[str, str] = {}
    for method in program.steps:
        for each in walk(method.body):
            if isinstance(each, Loop):
                forwards = [inner for inner in each.body if isinstance(inner, Forward)]
                if forwards:
                    found[each.origin.node] = forwards[0].origin.node
    return found


def refuse_unknown_loops(graph: Graph, rounds: Mapping[str, float]) -> None:
    """Raise ProfileError where rounds are given of a node that is no loop of a step."""
    known = loops(graph) if rounds else {}
    for node in rounds:
        if node not in known:
            hint = f"its loops are {', '.join(known)}" if known else "it has no loops"
            raise ProfileError(f"`{graph.name}` has no loop `{node}`", hint)


def most_emitted(graph: Graph) -> int:
    """Return how many tokens a step of a strategy emits at most for one sequence."""
    return max(_emitted(graph, step.emit.tokens)[0] for step in graph.steps)


def _emitted(graph: Graph, tokens: Value) -> tuple[int, bool]:
    """Return how many tokens a step hands out at most, and whether it may hand out fewer."""
    type_ = type_of(graph, tokens)
    return size_of(graph, tokens).at(0), isinstance(type_, Tokens) and type_.ragged


def _cost(program: Program, method: Method, step: str, setting: Setting) -> StepCost:
    walker = _Walk(program, setting, is_prefill=method is program.prefill)
    parts = tuple(walker.parts(method.body, 1.0))
    execution, device = setting.execution, setting.device
    ops = walker.ops + 1  # what is emitted is put together
    kernels = sum(part.times * part.kernels for part in parts) + ops * execution.op
    between = device.boundary_us if execution.graph else device.launch_us
    predicted = sum(part.times * part.predicted for part in parts)
    predicted += ops * execution.op * between * MICRO
    # A graph's loops hear of their end a round late, and tokens leave it through a ring.
    device_waits = 0.0 if execution.graph else walker.rounds + 1
    return StepCost(
        step=step,
        parts=parts,
        ops=ops,
        kernels=kernels,
        launches=1 + walker.rounds + walker.loops if execution.graph else kernels,
        host_waits=walker.rounds + 1,
        device_waits=device_waits,
        floor=sum(part.times * part.floor for part in parts),
        predicted=predicted + device_waits * device.host_wait_us * MICRO,
        bounded=tuple(walker.bounded),
        samplers=tuple(each.origin.node for each in walk(method.body) if isinstance(each, Safety)),
    )


class _Walk:
    """Goes through a method's instructions with the rounds that its loops are expected to take."""

    def __init__(self, program: Program, setting: Setting, *, is_prefill: bool) -> None:
        self.layouts: dict[str, Layout] = {each.name: each for each in program.layouts}
        self.patterns: dict[str, Pattern] = {each.name: each for each in program.patterns}
        self.tables = {each.name: each for each in program.tables}
        self.held = {
            each.name
            for method in program.methods
            for each in walk(method.body)
            if isinstance(each, Loop)
        }
        self.setting = setting
        self.length = setting.prefix if is_prefill else 0
        self.cached = 0 if is_prefill else setting.prefix
        self.joined = setting.execution.joined and not is_prefill
        self.ops = 0.0
        self.rounds = self.loops = 0.0
        self.bounded: list[str] = []

    def parts(self, body: Iterable[Instruction], times: float) -> Iterator[Part]:
        for each in body:
            match each:
                case Forward():
                    yield self._forward(each, times)
                case Loop():
                    rounds = self._rounds(each)
                    self.ops += times * (1 + (1 if self.joined else 2) * rounds)
                    self.loops += times
                    self.rounds += times * rounds
                    yield from self.parts(each.body, times * rounds)
                case Head() | Choose() | Score() | Safety() | ChooseScored() | Candidates() | Mix():
                    yield from self._heads(each, times)
                case _:
                    pass
            if not isinstance(each, Loop):
                self.ops += times * (
                    joined_ops(each, self.held) if self.joined else cost_of(each).ops
                )

    def _rounds(self, loop: Loop) -> float:
        """Return how many rounds a loop is expected to take."""
        node = loop.origin.node
        if node in self.setting.rounds:
            return min(max(self.setting.rounds[node], loop.at_least), loop.at_most)
        self.bounded.append(node)
        return float(loop.at_most)

    def _forward(self, each: Forward, times: float) -> Part:
        rows = each.size.at(self.length)
        layout, pattern = self.layouts[each.layout], self.patterns[each.pattern]
        seen = visible(layout, pattern, rows)
        setting = self.setting
        work = forward_work(
            setting.geometry,
            setting.width,
            setting.batch,
            rows,
            self.cached,
            seen,
            self._adapted(each, rows),
        )
        return self._part(each.origin.node, rows, times, work, is_head=False)

    def _adapted(self, each: Forward, rows: int) -> int | None:
        """Return on how many rows the adapter is on; None without one."""
        if each.adapter is None:
            return None
        if each.adapted is None:
            return rows
        if isinstance(each.adapted, AdaptedTable):
            return len(self.tables[each.adapted.table].lines)
        return sum(
            piece.stop.at(self.length) - piece.start.at(self.length)
            for piece in each.adapted.column
            if piece.constant is not False
        )

    def _heads(self, each: Head | Reader, times: float) -> Iterator[Part]:
        setting = self.setting
        for states in logits_of(each):
            if isinstance(states, States):
                rows = states.size.at(self.length)
                work = head_work(
                    setting.geometry,
                    setting.width,
                    setting.batch * rows,
                    writes=not isinstance(each, Choose | ChooseScored),
                )
                yield self._part(each.origin.node, rows, times, work, is_head=True)

    def _part(self, node: str, rows: int, times: float, work: Work, *, is_head: bool) -> Part:
        setting = self.setting
        device, dtype, execution = setting.device, setting.dtype, setting.execution
        return Part(
            node=node,
            head=is_head,
            rows=rows,
            times=times,
            work=work,
            kernels=execution.kernels(work),
            floor=floor(work, device, dtype),
            predicted=predict(work, device, dtype, execution),
        )
