"""A lowered program is plain data that holds every decision; its passes share, fuse and narrow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from nldc import api
from nldc.ahead.uses import uses_of
from nldc.codegen import program as p
from nldc.codegen.costs import costs
from nldc.codegen.lower import lower
from nldc.codegen.passes.fuse_head_choose import fuse_head_choose
from nldc.codegen.passes.narrow_states import narrow_states
from nldc.codegen.passes.share_layouts import share_layouts
from nldc.codegen.pipeline import PROGRAM_PASSES, compiled, run
from nldc.codegen.print_decode import Header, print_decode
from nldc.codegen.program_text import show_program
from nldc.expr import tree
from nldc.ir.build import build
from nldc.ir.size import Size
from nldc.reuse import parse
from tests.lossless.at_random import random_pick, strategy

STRATEGIES = sorted(api.library())
TWO_FILLS = Path(__file__).parents[1] / "lossless" / "loops" / "two_fills.yaml"
HEADER = Header("case.yaml", "0", "0")
RANDOM = 120


def program_of(text: str) -> p.Program | None:
    graph = build(parse(text, "case.yaml"), {}).graph
    return None if graph is None else compiled(run(graph))


def lowered(name: str) -> p.Program:
    program = program_of(api.library()[name].read_text("utf-8"))
    assert program is not None
    return program


shipped = cache(lowered)


@cache
def at_random() -> tuple[p.Program, ...]:
    programs = (program_of(strategy(random_pick(seed))) for seed in range(RANDOM))
    return tuple(program for program in programs if program is not None)


def everything(part: Any) -> Iterator[Any]:
    """Yield a value and all that is in it."""
    yield part
    if isinstance(part, tuple):
        for item in part:
            yield from everything(item)
    elif is_dataclass(part):
        for item in fields(part):
            yield from everything(getattr(part, item.name))


# What a program is


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_program_holds_plain_frozen_values_only(name: str) -> None:
    for part in everything(shipped(name)):
        if is_dataclass(part):
            assert type(part).__module__ in (p.__name__, tree.__name__, "nldc.ir.size")
            assert type(part).__dataclass_params__.frozen  # type: ignore[attr-defined]
        else:
            assert part is None or type(part) in (tuple, str, int, float, bool), type(part)


def test_every_register_is_written_once_and_before_it_is_read() -> None:
    programs = [*map(shipped, STRATEGIES), *at_random()]
    assert len(programs) > RANDOM // 2
    for program in programs:
        for number, method in enumerate(program.methods):
            known = {"prompt"} if number == 0 else {register for _, register in method.carried}
            known |= {table.name for table in program.tables}
            _read(method.body, known)
            for use in p.uses(method.commit):
                assert use.register in known


def _read(body: Iterable[p.Instruction], known: set[str]) -> None:
    for each in body:
        if isinstance(each, p.Loop):
            for use in p.uses(replace(each, result=each.initial, left=None)):
                assert use.register in known, use
            inside = {*known, each.name}
            _read(each.body, inside)
            for use in p.uses((each.result, each.left)):
                assert use.register in inside
        else:
            for use in p.uses(each):
                assert use.register in known, use
        assert known.isdisjoint(p.writes(each))
        known.update(p.writes(each))


def test_what_a_program_names_is_there_once() -> None:
    for program in (*map(shipped, STRATEGIES), *at_random()):
        layouts = [layout.name for layout in program.layouts]
        tables = [table.name for table in program.tables]
        patterns = [pattern.name for pattern in program.patterns]
        functions = [name for each in program.patterns for name in (each.function, each.loader)]
        names = [*layouts, *tables, *patterns, *functions]
        assert len(set(names)) == len(names)
        for method in program.methods:
            for each in p.walk(method.body):
                if isinstance(each, p.Forward):
                    assert each.layout in layouts
                    assert each.pattern in patterns
            found = [part for part in everything(method) if isinstance(part, p.Numbers | p.ByCount)]
            assert {part.table for part in found} <= set(tables)


def test_equal_programs_print_alike_and_nothing_else_is_asked() -> None:
    for name in STRATEGIES:
        one, other = shipped(name), lowered(name)
        assert one == other
        assert print_decode(one, HEADER) == print_decode(other, HEADER)
        assert show_program(one) == show_program(other)


# Sharing

TWICE = """nldc: 1
name: twice
summary: The prompt is read twice.
guarantee: none
prefill:
  one: {op: forward, tokens: $prompt, attention: causal, cache: {append: "row < 3"}}
  two: {op: forward, tokens: $prompt, attention: bidirectional, cache: {append: "row < 3"},
        predicts: next}
  seed: {op: sample, logits: two.last}
  emit: {tokens: seed}
carry: {seed: prefill.seed}
step:
  a: {op: forward, tokens: seed, attention: causal, cache: append}
  b: {op: forward, tokens: seed, attention: "k.row <= q.row", cache: read, predicts: next}
  c: {op: forward, tokens: seed, attention: "k.row <= q.row or k.prefix", cache: append}
  first: {op: sample, logits: b}
  choice: {op: sample, logits: a}
  other: {op: sample, logits: a, mask_token: forbidden}
  all: {op: join, parts: [first, choice, other]}
  emit: {tokens: all, cache: keep all, next: {seed: choice}}
"""


def twice() -> p.Program:
    program = program_of(TWICE)
    assert program is not None
    return program


def test_forwards_over_equal_rows_share_a_layout_and_those_over_others_do_not() -> None:
    graph = build(parse(TWICE, "case.yaml"), {}).graph
    assert graph is not None
    before = lower(run(graph))
    after = share_layouts(before)
    assert [layout.name for layout in before.layouts] == [
        "prefill_one_rows", "prefill_two_rows", "STEP_A_ROWS", "STEP_B_ROWS", "STEP_C_ROWS",
    ]  # fmt: skip
    shared = {layout.name: [o.node for o in layout.origins] for layout in after.layouts}
    assert shared == {
        "prefill_one_rows": ["prefill.one", "prefill.two"],
        "STEP_A_ROWS": ["step.a", "step.c"],
        "STEP_B_ROWS": ["step.b"],
    }
    rows = {each.name: each.layout for m in after.methods for each in m.body
            if isinstance(each, p.Forward)}  # fmt: skip
    assert rows == {
        "one": "prefill_one_rows", "two": "prefill_one_rows",
        "a": "STEP_A_ROWS", "b": "STEP_B_ROWS", "c": "STEP_A_ROWS",
    }  # fmt: skip


def test_patterns_are_shared_by_predicate_and_tables_by_value() -> None:
    program = twice()
    predicates = {pattern.name: pattern.text for pattern in program.patterns}
    assert predicates == {
        "CAUSAL": "k.row <= q.row",
        "BIDIRECTIONAL": "true",
        "C": "k.row <= q.row or k.prefix",
    }
    quadratic = shipped("quadratic_ss_ensemble")
    assert len({table.lines for table in quadratic.tables}) == len(quadratic.tables)


def test_only_a_pattern_that_is_the_causal_one_promises_to_look_back() -> None:
    back = {pattern.name: pattern.looks_back for pattern in twice().patterns}
    assert back == {"CAUSAL": True, "BIDIRECTIONAL": False, "C": False}
    for name in STRATEGIES:
        for pattern in shipped(name).patterns:
            assert pattern.looks_back == (pattern.text == "k.row <= q.row")


# Heads


def heads(program: p.Program) -> list[str]:
    return [
        each.name
        for method in program.methods
        for each in p.walk(method.body)
        if isinstance(each, p.Head)
    ]


def test_a_head_for_one_choice_is_part_of_it_and_one_for_several_stands_alone() -> None:
    graph = build(parse(TWICE, "case.yaml"), {}).graph
    assert graph is not None
    before = lower(run(graph))
    after = fuse_head_choose(before)
    assert heads(before) == ["two_logits", "b_logits", "a_logits"]
    assert heads(after) == ["a_logits"]
    by_name = {each.name: each for method in after.methods for each in method.body}
    assert by_name["first"].logits == p.States(p.Use("b"), Size(1))  # type: ignore[union-attr]
    assert by_name["choice"].logits == p.Use("a_logits")  # type: ignore[union-attr]
    assert by_name["other"].logits == p.Use("a_logits")  # type: ignore[union-attr]


SCORED = """nldc: 1
name: scored
summary: Rows are filled by what a head says of them in several ways.
guarantee: none
prefill:
  context: {op: forward, tokens: $prompt, attention: causal, cache: append}
  seed: {op: sample, logits: context.last}
carry: {seed: prefill.seed}
step:
  block: {op: rows, segments: [{tokens: seed}, {masks: 3}]}
  first: {op: forward, tokens: block, attention: bidirectional, cache: read}
  early: {op: sample, logits: first}
  seen: {op: forward, tokens: block, attention: bidirectional, cache: read}
LINES
  surest: {op: select, among: block.masked, score: sure, best: 1}
  evenest: {op: select, among: block.masked, score: even, best: 1}
  once: {op: fill, rows: block, where: surest, tokens: pick}
  filled: {op: fill, rows: once, where: evenest, tokens: LAST}
  kept: {op: forward, tokens: filled, attention: causal, cache: append}
  after: {op: sample, logits: kept.last}
  emit: {tokens: filled, cache: keep all, next: {seed: after}}
"""


PICK = "pick: {op: sample, logits: seen}"
SURE = "sure: {op: score, logits: seen, tokens: early, by: probability}"
EVEN = "even: {op: score, logits: seen, by: margin}"


def scored(*lines: str, last: str = "pick") -> list[p.ChooseScored]:
    text = SCORED.replace("LINES", "\n".join(f"  {line}" for line in lines))
    program = program_of(text.replace("LAST", last))
    assert program is not None
    (step,) = program.steps
    return [each for each in step.body if isinstance(each, p.ChooseScored)]


@pytest.mark.parametrize("lines", [(PICK, SURE, EVEN), (SURE, EVEN, PICK)])
def test_a_choice_and_the_raw_scores_of_its_head_are_one(lines: tuple[str, ...]) -> None:
    (one,) = scored(*lines)
    assert p.writes(one) == ("pick", "sure", "even")
    assert [each.by for each in one.scores] == ["probability", "margin"]
    assert one.tokens == p.Use("early")
    assert one.logits == p.States(p.Use("seen"), Size(4))
    (chosen,) = scored(PICK, SURE.replace("early", "pick"), EVEN)
    assert chosen.tokens is None
    (barred,) = scored(
        PICK.replace("seen", "seen, mask_token: forbidden"),
        SURE.replace("by:", "mask_token: ignored, by:"),
        EVEN.replace("by:", "mask_token: ignored, by:"),
    )
    assert (barred.mask_token, barred.mask_token_scored) == ("forbidden", "ignored")


@pytest.mark.parametrize(
    "lines",
    [
        (PICK, SURE, EVEN.replace("margin", "margin, of: filtered")),
        (PICK, SURE, EVEN.replace("margin", "margin, mask_token: ignored")),
        (PICK, SURE, "even: {op: score, logits: seen, tokens: pick, by: probability}"),
        (PICK, SURE, EVEN, "also: {op: sample, logits: seen, mask_token: forbidden}"),
        (PICK, EVEN, "late: {op: sample, logits: first}", SURE.replace("early", "late")),
    ],
    ids=["filtered", "counted unlike", "of two tokens", "chosen twice", "of a token that follows"],
)
def test_what_is_more_than_a_choice_and_raw_scores_has_logits(lines: tuple[str, ...]) -> None:
    assert scored(*lines, last="also" if "also" in lines[-1] else "pick") == []


def test_no_logits_are_computed_twice_in_a_place_and_every_head_is_used_again() -> None:
    for program in (*map(shipped, STRATEGIES), *at_random()):
        for method in program.methods:
            _heads_once(method.body, [])
            read = [use.register for each in p.walk(method.body) for use in p.uses(each)]
            for each in p.walk(method.body):
                if isinstance(each, p.Head):
                    assert read.count(each.name) > 1


def _heads_once(body: Iterable[p.Instruction], outer: list[p.States]) -> None:
    here = list(outer)
    for each in body:
        if isinstance(each, p.Loop):
            _heads_once(each.body, here)
            continue
        for states in (part for part in everything(each) if isinstance(part, p.States)):
            assert states not in here, states
            here.append(states)


# States of a prompt

PROMPT = """nldc: 1
name: states
summary: Rows of a prompt are chosen.
guarantee: none
prefill:
  rows: {{op: rows, segments: [{{tokens: $prompt, kind: p}}, {{masks: 4, kind: m}}]}}
  context: {{op: forward, tokens: rows, attention: bidirectional, cache: {{append: "{append}"}}}}
{choices}
  seed: {{op: sample, logits: context.p.last}}
  emit: {{tokens: seed}}
carry: {{seed: prefill.seed}}
step:
  again: {{op: forward, tokens: seed, attention: causal, cache: append}}
  choice: {{op: sample, logits: again}}
  emit: {{tokens: choice, cache: keep all, next: {{seed: choice}}}}
"""


def context(*rows: str, append: str = "kind == p") -> tuple[p.Program, p.Forward, list[object]]:
    """Return a program, its forward over a prompt, and the states that heads take of it."""
    choices = "\n".join(
        f'  x{number}: {{op: sample, logits: "context{each}"}}' for number, each in enumerate(rows)
    )
    parts = ", ".join(["seed", *(f"x{number}" for number in range(len(rows)))])
    text = PROMPT.format(choices=choices, append=append).replace(
        "emit: {tokens: seed}", f"all: {{op: join, parts: [{parts}]}}\n  emit: {{tokens: all}}", 1
    )
    program = program_of(text)
    assert program is not None
    body = program.prefill.body
    (forward,) = (each for each in body if isinstance(each, p.Forward))
    taken: list[object] = [part.use.rows for part in everything(body) if isinstance(part, p.States)]
    return program, forward, taken


def run_of(start: tuple[int, int], stop: tuple[int, int]) -> p.Run:
    return p.Run(Size(*start), Size(*stop))


LAST = run_of((-1, 1), (0, 1))


@pytest.mark.parametrize(
    ("rows", "states", "taken"),
    [
        ((), LAST, [None]),
        ((".p[-1]",), LAST, [None]),  # the same head
        ((".m[1:3]",), run_of((-1, 1), (3, 1)), [run_of((2, 0), (4, 0)), run_of((0, 0), (1, 0))]),
        ((".m", ".m[0]"), run_of((-1, 1), (4, 1)), [
            run_of((1, 0), (5, 0)), run_of((1, 0), (2, 0)), run_of((0, 0), (1, 0)),
        ]),
        # The last row of a prompt of one token comes before its row 1, otherwise not.
        (("[1:]",), None, [run_of((1, 0), (4, 1)), LAST]),
        ((".p[0:1]",), run_of((0, 0), (0, 1)), [run_of((0, 0), (1, 0)), LAST]),
        (("",), None, [None, LAST]),
    ],
)  # fmt: skip
def test_a_prompts_forward_returns_the_states_that_are_used_and_uses_count_from_there(
    rows: tuple[str, ...], states: p.Run | None, taken: list[object]
) -> None:
    _, forward, found = context(*rows)
    assert (forward.states, found) == (states, taken)


def test_states_of_rows_that_are_not_in_the_files_order_are_all_returned() -> None:
    program, forward, _ = context(append="kind == m or row < 1")
    assert forward.states is None
    assert forward.held is not None
    assert f"{forward.held}.places(" in print_decode(program, HEADER)


def test_a_step_has_its_states_whole() -> None:
    for name in STRATEGIES:
        program = shipped(name)
        prompts = {each.name for each in program.layouts if isinstance(each, p.PromptLayout)}
        for method in program.methods:
            for each in p.walk(method.body):
                if isinstance(each, p.Forward):
                    assert (each.states is not None) <= (each.layout in prompts)


def test_a_second_run_of_a_pass_changes_nothing() -> None:
    for program in map(shipped, STRATEGIES):
        for step in PROGRAM_PASSES:
            if step is not narrow_states:  # its uses count from the first state already
                assert step(program) == program


# Costs


def test_costs_count_forwards_rows_heads_and_waits() -> None:
    linear = costs(shipped("linear_ss"))
    assert (linear["prefill"].forwards, linear["prefill"].rows) == (1, Size(0, 1))
    assert (linear["prefill"].heads, linear["prefill"].head_rows) == (1, Size(1))
    step = linear["step"]
    assert (step.forwards, step.rows, step.heads, step.head_rows) == (2, Size(32), 2, Size(32))
    assert (step.waits, step.host_reads, step.loops) == (0, 0, ())
    assert costs(shipped("prompt_lookup"))["step"].host_reads == 1


def test_a_loop_costs_its_rounds() -> None:
    step = costs(shipped("block_diffusion"))["step"]
    (loop,) = step.loops
    assert (loop.at_most, loop.round.forwards, loop.round.rows) == (16, 1, Size(16))
    assert (loop.round.heads, loop.round.waits) == (1, 1)
    assert (step.forwards, step.waits) == (1, 0)
    assert step.most.forwards == 17
    assert step.most.rows == Size(17 * 16)
    assert step.most.waits == 16
    assert step.most.loops == ()


def test_each_step_of_several_has_costs_of_its_own() -> None:
    router = costs(shipped("concurrency_router"))
    assert [(name, cost.forwards) for name, cost in router.items()] == [
        ("prefill", 1), ("step_single", 1), ("step_speculative", 2),
    ]  # fmt: skip


def test_what_is_counted_is_what_is_printed() -> None:
    for program in (*map(shipped, STRATEGIES), *at_random()):
        text = print_decode(program, HEADER)
        counted = [part for cost in costs(program).values() for part in _rounds(cost)]
        assert text.count("batch.forward(") == sum(cost.forwards for cost in counted)
        calls = ("head", "head_choose", "head_choose_scored")
        heads = sum(text.count(f"batch.{call}(") for call in calls)
        assert heads == sum(cost.heads for cost in counted)
        assert text.count("batch.rounds(") == sum(cost.waits for cost in counted)
        assert text.count("ops.lookup(") == sum(cost.host_reads for cost in counted)


def test_a_head_that_only_a_score_reads_is_counted() -> None:
    """A score of states computes the logits itself: there is no line for a head."""
    text = TWO_FILLS.read_text("utf-8")
    alone = text.replace("two:   {op: sample, logits: look}", "two:   {op: sample, logits: seen}")
    assert alone != text
    program = program_of(alone)
    assert program is not None
    step = costs(program)["step"]
    assert [part.heads for part in _rounds(step)] == [0, 2]
    found = print_decode(program, HEADER)
    assert found.count("batch.head(") + found.count("batch.head_choose(") == 2
    graph = build(parse(alone, "case.yaml"), {}).graph
    assert graph is not None
    assert {head.rows for head in uses_of(graph).heads} == {5}


def _rounds(cost: Any) -> Iterator[Any]:
    yield cost
    for loop in cost.loops:
        yield from _rounds(loop.round)
