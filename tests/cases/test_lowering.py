"""Generated code does what the interpreter says where something depends on the prompt's length, on
how often a loop has run, or on how much room there is.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nldc import api
from nldc.certify import certify
from nldc.codegen.columns import column, leading
from nldc.codegen.compact import show_column
from nldc.codegen.emit_artifact import emit_artifact
from nldc.codegen.pipeline import compiled
from nldc.codegen.pipeline import run as lowered
from nldc.codegen.program import Room
from nldc.diagnostics import StrategyError
from nldc.expr import Expr, ExprError, evaluate, parse
from nldc.ir.course import course
from nldc.ir.facts import BadPickError, facts_of, row_lookup
from nldc.ir.layout import Layout, Segment, plain
from nldc.ir.ops import At, Between, Pick, Where
from nldc.ir.picks import picked, prompt_runs
from nldc.ir.size import Size
from nldc.reuse import parse as parse_source
from tests.cases.decoders import differences, with_prefill, written

HERE = Path(__file__).parent / "strategies"
LONG = [[(7 * i + 3) % 60 + 1 for i in range(length)] for length in (1, 2, 70)]


def codes(text: str) -> set[str]:
    with pytest.raises(StrategyError) as caught:
        api.check_source(parse_source(text, "case.yaml"))
    return {found.code for found in caught.value.diagnostics}


def decode_py(text: str) -> str:
    checked = api.check_source(parse_source(text, "case.yaml"))
    return emit_artifact(checked.graph, "case.yaml", text, "0")["decode.py"].decode()


def room(text: str) -> Room:
    return compiled(lowered(api.check_source(parse_source(text, "case.yaml")).graph)).room


# The cases as files


@pytest.mark.parametrize("name", ["nested_repeat", "prefill_of_many_forwards_scratch"])
def test_loops_and_prefills_of_several_forwards_do_what_the_interpreter_says(
    name: str, tmp_path: Path
) -> None:
    assert not differences(HERE / f"{name}.yaml", tmp_path)
    assert not differences(HERE / f"{name}.yaml", tmp_path, LONG, tokens=1)


@pytest.mark.parametrize(
    "name",
    ["iteration_after_unroll", "prefill_of_many_forwards_scratch", "prompt_all_but_the_last"],
)
def test_a_right_file_is_exact_and_equals_ar(name: str, tmp_path: Path) -> None:
    report = certify(api.compile(HERE / f"{name}.yaml", tmp_path / "out"), tokens=12)
    assert report.holds
    assert report.claimed == "exact"


@pytest.mark.parametrize("name", ["iteration_after_unroll", "prompt_all_but_the_last"])
def test_a_right_file_needs_no_more_room_than_it_says(name: str, tmp_path: Path) -> None:
    assert not differences(HERE / f"{name}.yaml", tmp_path, [[5], [1, 7, 7]], tokens=2)


def test_conditions_on_far_rows_of_the_prompt_are_printed_as_they_are(tmp_path: Path) -> None:
    file = HERE / "none_prefill_adapter_threshold.yaml"
    code = decode_py(file.read_text("utf-8"))
    assert "adapter_rows=[row < 40 for row in range(length)]" in code
    assert "offset=[row % 50 for row in range(prompt)]" in code
    assert not differences(file, tmp_path, LONG, tokens=3)


def test_a_forward_over_the_part_that_an_accept_found_is_fine() -> None:
    text = (HERE / "forward_over_ragged_tokens.yaml").read_text("utf-8")
    assert api.check_source(parse_source(text, "own.yaml")).guarantee == "exact"


@pytest.mark.parametrize(
    "position", ["row + 2000000000", "row * 5000", "3 - 2 * row", "row + 8192"]
)
def test_positions_beyond_any_context_or_inside_the_prefix_are_refused(position: str) -> None:
    text = (HERE / "position_of_a_billion.yaml").read_text("utf-8")
    assert codes(text.replace("row + 2000000000", position)) == {"NLD053"}


# Prompts of any length

CONTEXT = "  context: {op: forward, tokens: $prompt, attention: causal, cache: append"
SEED = "  seed: {op: sample, logits: context.last}\n  emit: {tokens: seed}\n"
PREFILLS = {
    "the first hundred rows stay": CONTEXT.replace("append", '{append: "row < 60"}') + "}\n" + SEED,
    "rows in the middle do not stay": CONTEXT.replace("append", '{append: "row < 1 or row > 9"}')
    + "}\n" + SEED,
    "rows predict the next from some row on": CONTEXT + ', predicts: {next: "row >= 40"}}\n' + SEED,
    "the prompt is read twice": CONTEXT.replace("context", "one") + "}\n" + CONTEXT + "}\n" + SEED,
    "the prompt stands there three times": "  all: {op: join, parts: [$prompt, $prompt, $prompt]}\n"
    + CONTEXT.replace("$prompt", "all") + "}\n" + SEED,
    "rows of one kind lie on both sides of others": "  rows: {op: rows, segments: ["
    "{tokens: $prompt, kind: p}, {masks: 2, kind: m}, {tokens: $prompt, kind: p}]}\n"
    + CONTEXT.replace("$prompt", "rows") + "}\n  all: {op: sample, logits: context.p}\n"
    '  seed: {op: join, parts: ["all[-1]"]}\n  emit: {tokens: seed}\n',
    "rows of mixed logits are chosen": CONTEXT.replace("context", "a").replace("append", "read")
    + "}\n" + CONTEXT.replace("context", "b").replace("causal", "bidirectional")
    + ", predicts: next}\n  context: {op: mix, logits: [a, b], weights: [0.5, 0.25]}\n" + SEED,
    "a loop behind the prompt leaves its keys": "  rows: {op: rows, segments: "
    "[{tokens: $prompt, kind: p}, {masks: 3, kind: m}]}\n"
    "  done: {op: denoise, rows: rows, attention: bidirectional, commit: {confidence: 0.9}, "
    "eos: ignored, keys: kept}\n"
    '  context: {op: forward, tokens: "done.m.last", attention: causal, cache: read}\n'
    "  seed: {op: sample, logits: context}\n  emit: {tokens: done.m}\n",
    "no rows at all are joined": CONTEXT + "}\n  all: {op: sample, logits: context}\n"
    '  some: {op: join, parts: ["$prompt[0:0]", "all[-1:]"]}\n'
    '  seed: {op: sample, logits: "context[-1]"}\n  emit: {tokens: some}\n',
}  # fmt: skip


@pytest.mark.parametrize("name", PREFILLS)
def test_a_prefill_does_what_the_interpreter_says_for_short_and_long_prompts(
    name: str, tmp_path: Path
) -> None:
    file = written(with_prefill(PREFILLS[name]), tmp_path)
    assert not differences(file, tmp_path, LONG, tokens=3)


@pytest.mark.parametrize(
    ("nodes", "code"),
    [
        ('  some: {op: join, parts: ["$prompt[:5]"]}\n' + CONTEXT + "}\n" + SEED, "NLD035"),
        ('  some: {op: join, parts: ["$prompt[:90]"]}\n' + CONTEXT + "}\n" + SEED, "NLD035"),
        ('  some: {op: join, parts: ["$prompt[:9000]"]}\n' + CONTEXT + "}\n" + SEED, "NLD035"),
        ('  some: {op: join, parts: ["$prompt[row < 40]"]}\n' + CONTEXT + "}\n" + SEED, "NLD035"),
        ('  some: {op: join, parts: ["$prompt[row * row < 400]"]}\n' + CONTEXT + "}\n" + SEED,
         "NLD035"),
        (CONTEXT.replace("append", "read") + ", position: 3 - row}\n" + SEED, "NLD053"),
        (CONTEXT.replace("append", "read") + ", position: row * 2}\n" + SEED, "NLD053"),
        (CONTEXT.replace("append", "read") + ", position: row * row}\n" + SEED, "NLD053"),
        (CONTEXT + ', predicts: {next: "row // row < 3"}}\n' + SEED, "NLD030"),
    ],
)  # fmt: skip
def test_what_no_list_of_prompts_decides_is_refused(nodes: str, code: str) -> None:
    assert code in codes(with_prefill(nodes))


NUMBERS = st.recursive(
    st.sampled_from(["row", "index", "0", "1", "2", "7", "13"]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-"), inner).map(" ".join).map("({})".format),
        st.tuples(inner, st.sampled_from(["//", "%", "*"]), st.sampled_from("235")).map(" ".join)
        .map("({})".format),
    ),
    max_leaves=4,
)  # fmt: skip
CONDITIONS = st.recursive(
    st.tuples(NUMBERS, st.sampled_from(["<", "<=", "==", "!=", ">"]), NUMBERS).map(" ".join)
    | st.sampled_from(["kind == a", "masked", "true", "kind != b"]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(" ".join).map("({})".format),
        inner.map("not ({})".format),
    ),
    max_leaves=3,
)
KINDS = ("a", "b")
MIXED = Layout(
    (
        Segment((Size(2),), tokens=True, kind="b"),
        Segment((Size(-1, 1),), tokens=True, kind="a"),
        Segment((Size(3),), tokens=False, kind=None),
        Segment((Size(0, 1),), tokens=True, kind="a"),
    ),
    groups=1,
)


def values(expr: Expr, length: int) -> list[int | float]:
    rows = MIXED.rows(length)
    return [evaluate(expr, row_lookup(facts_of(row, KINDS), KINDS, {})) for row in rows]


@given(st.one_of(NUMBERS, CONDITIONS).map(parse))
def test_a_printed_column_has_the_values_of_its_expression_for_any_prompt(expr: Expr) -> None:
    pieces = column(MIXED, KINDS, expr)
    text = show_column(pieces, "prompt")
    for length in (1, 2, 5, 6, 40):
        assert eval(text, {"prompt": length}) == values(expr, length)
    taken = leading(pieces)
    if taken is not None and text.startswith("["):
        for length in (1, 9):
            stay = [bool(value) for value in values(expr, length)]
            assert stay == [True] * taken.at(length) + [False] * (len(stay) - taken.at(length))


@given(st.one_of(NUMBERS, CONDITIONS).map(parse))
def test_an_expression_goes_on_as_its_course_says(expr: Expr) -> None:
    found = course(expr)
    if found is None:
        return
    for row in (*range(found.start, found.start + 40), found.start + 997):
        before, after = (
            int(evaluate(expr, lambda _, at=at: at)) for at in (row, row + found.period)
        )
        assert after - before == found.rise


@pytest.mark.parametrize("text", ["row * row", "row % row", "row * 0.5", "other", "1 // (row - 7)"])
def test_what_does_not_repeat_or_has_no_value_somewhere_has_no_course(text: str) -> None:
    assert course(parse(text)) is None


PICKS = st.lists(
    st.one_of(
        CONDITIONS.map(parse).map(Where),
        st.integers(-3, 3).map(lambda n: At(parse(str(n)))),
        st.tuples(st.integers(-9, 9), st.integers(-9, 9)).map(
            lambda ends: Between(parse(str(ends[0])), parse(str(ends[1])))
        ),
        st.integers(-9, 9).map(lambda n: Between(parse(str(n)), None)),
    ),
    min_size=1,
    max_size=2,
)


@given(st.sampled_from([MIXED, plain(Size(0, 1)), plain(Size(-1, 2))]), PICKS)
def test_rows_chosen_from_a_prompt_are_those_for_every_length(
    layout: Layout, picks: list[Pick]
) -> None:
    try:
        runs = prompt_runs(layout, picks, KINDS)
    except (BadPickError, ExprError):
        return
    for length in (1, 2, 3, 17, 90, 263):
        rows = [start.at(length) + n for start, count in runs for n in range(count.at(length))]
        assert rows == list(picked(layout.rows(length), picks, KINDS, {}))


# Room


@pytest.mark.parametrize(
    ("name", "needed"),
    [
        ("the prompt is read twice", Room(1, prompt=2)),
        ("the prompt stands there three times", Room(1, prompt=3)),
        ("a loop behind the prompt leaves its keys", Room(4)),
        ("the first hundred rows stay", Room(1)),
    ],
)
def test_a_prefill_gets_the_room_that_it_takes(name: str, needed: Room) -> None:
    assert room(with_prefill(PREFILLS[name])) == needed


GROWING = """carry: {seed: prefill.seed}
step:
  a: {op: forward, tokens: seed, attention: causal, cache: append}
  b: {op: forward, tokens: seed, attention: causal, cache: append}
  c: {op: sample, logits: b}
  emit: {tokens: c, cache: keep all, next: {seed: c}}
"""


def test_a_step_that_keeps_more_rows_than_it_emits_tokens_has_room_to_the_end(
    tmp_path: Path,
) -> None:
    text = with_prefill(CONTEXT + "}\n" + SEED).partition("carry:")[0] + GROWING
    assert room(text) == Room(2, token=2)
    assert not differences(written(text, tmp_path), tmp_path, LONG[:2], tokens=30, eos=())


@pytest.mark.parametrize("name", sorted(api.library()))
def test_a_shipped_strategy_needs_a_row_for_a_token(name: str) -> None:
    found = compiled(lowered(api.check(name, others=False).graph)).room
    assert (found.prompt, found.token) == (1, 1)


# Loops

LOOPS = {
    "what a loop computed is not used where it did not run": """
  pre: {op: forward, tokens: seed, attention: causal, cache: read}
  block: {op: rows, segments: [{tokens: seed}]}
  filled:
    op: repeat
    on: block
    until: full
    at_most: 3
    body:
      pick: {op: sample, logits: pre}
      sure: {op: score, logits: pre, tokens: pick, by: probability}
      take: {op: select, among: block.masked, score: sure, best: 1}
      block: {op: fill, rows: block, where: take, tokens: pick}
  store: {op: forward, tokens: filled, attention: causal, cache: append}
  a: {op: sample, logits: store}
  b: {op: sample, logits: pre}
  emit: {tokens: b, cache: keep all, next: {seed: a}}
""",
    "outside of a loop it is the first round": """
  block: {op: rows, segments: [{tokens: seed}, {masks: 4}]}
  seen: {op: forward, tokens: block, attention: bidirectional, cache: read}
  pick: {op: sample, logits: seen}
  sure: {op: score, logits: seen, tokens: pick, by: probability}
  take: {op: select, among: block.masked, score: sure, best: iteration + 2}
  some: {op: fill, rows: block, where: take, tokens: pick}
  store: {op: forward, tokens: some, attention: causal, cache: {append: "row < 1"}}
  a: {op: sample, logits: store.first}
  emit: {tokens: a, cache: keep all, next: {seed: a}}
""",
    "a loop that may not run inside one that may not": """
  block: {op: rows, segments: [{tokens: seed}, {masks: 4}]}
  filled:
    op: repeat
    on: block
    until: full
    at_most: 4
    exhausted: fill
    body:
      inner:
        {op: denoise, rows: block, attention: bidirectional, commit: {confidence: 0.7}, at_least: 0}
      seen: {op: forward, tokens: inner, attention: causal, cache: read}
      pick: {op: sample, logits: seen}
      sure: {op: score, logits: seen, tokens: pick, by: probability}
      take:
        {op: select, among: block.masked, score: sure, best: 2, where: "iteration > 1 and rank < 1"}
      block: {op: fill, rows: block, where: take, tokens: pick}
  store: {op: forward, tokens: filled, attention: causal, cache: append}
  a: {op: sample, logits: store.last}
  emit: {tokens: filled, cache: keep all, next: {seed: a}}
""",
    "a count is asked inside a loop": """
  found: {op: lookup, length: 3, ngram: 1}
  draft: {op: join, parts: [seed, found]}
  block: {op: rows, segments: [{tokens: seed}, {masks: 4}]}
  filled:
    op: repeat
    on: block
    until: full
    at_most: 6
    at_least: 1
    exhausted: fill
    body:
      checked: {op: forward, tokens: draft, attention: causal, cache: read}
      choice: {op: sample, logits: checked}
      kept: {op: accept, draft: draft, target: choice, rule: longest_prefix}
      again: {op: sample, logits: "checked[row == kept.matches]"}
      many: {op: join, parts: [again, again, again, again, kept.bonus]}
      seen: {op: forward, tokens: block, attention: bidirectional, cache: read}
      pick: {op: sample, logits: seen}
      sure: {op: score, logits: seen, tokens: many, by: probability}
      take: {op: select, among: block.masked, score: sure, best: 1}
      block: {op: fill, rows: block, where: take, tokens: pick}
  store: {op: forward, tokens: filled, attention: causal, cache: append}
  next: {op: sample, logits: store.last}
  emit: {tokens: filled, cache: keep all, next: {seed: next}}
""",
}


def with_step(nodes: str) -> str:
    head = with_prefill(CONTEXT + "}\n" + SEED).partition("carry:")[0]
    return f"{head}carry: {{seed: prefill.seed}}\nstep:{nodes}"


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_does_what_the_interpreter_says(name: str, tmp_path: Path) -> None:
    file = written(with_step(LOOPS[name]), tmp_path)
    assert not differences(file, tmp_path, proved=name != "a count is asked inside a loop")


def test_a_divisor_that_may_be_zero_when_a_step_runs_is_refused() -> None:
    text = with_step(LOOPS["a loop that may not run inside one that may not"])
    assert codes(text.replace("best: 2,", 'best: "left // (3 - iteration)",')) == {"NLD030"}
    attention = 'attention: "k.prefix or k.row % (q.row + 1) == 0"'
    assert codes(text.replace("attention: causal, cache: read", f"{attention}, cache: read")) == {
        "NLD030"
    }


def test_a_loop_inside_a_loop_leaves_no_keys() -> None:
    text = with_step(LOOPS["a loop that may not run inside one that may not"])
    kept = text.replace("at_least: 0}", "keys: kept}")
    assert "NLD075" in codes(kept)
