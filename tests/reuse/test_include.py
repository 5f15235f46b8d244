"""A fragment's nodes stand where it is included, under names that meet no others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from nldc import api
from nldc.diagnostics import Diagnostic, StrategyError
from nldc.editor_schema import FragmentFile, Strategy, Variant, json_schema
from nldc.ir.facts import KEY_FACTS, QUERY_FACTS, ROW_FACTS
from nldc.ir.make.forward import ATTENTION
from nldc.ir.words import FRAGMENT
from nldc.reuse import flat, load, parse
from nldc.source import Source
from nldc.source import load as load_file
from nldc.source import parse as parse_file
from tests.reuse.files import BY_FRAGMENT, FRAGMENTS, graph_of, said_of, written

BY_HAND = """nldc: 1
name: by_fragment
summary: By hand.
guarantee: exact
extends: linear_ss
params: {sure: {type: float, default: 0.25, min: 0.0, max: 1.0}}
step:
  drafted:
    op: repeat
    on: block
    until: full
    at_least: 1
    at_most: 4
    body:
      drafted_seen: {op: forward, tokens: block, attention: bidirectional, cache: read}
      drafted_pick: {op: sample, logits: drafted_seen}
      drafted_sure: {op: score, logits: drafted_seen, tokens: drafted_pick, by: probability}
      drafted_take: {op: select, among: block.masked, score: drafted_sure, at_least: sure, always: best 1}
      block: {op: fill, rows: block, where: drafted_take, tokens: drafted_pick}
"""  # noqa: E501
SEEN = """nldc: 1
name: own
extends: linear_ss
fragments:
  guessed:
    takes: [rows]
    nodes:
      seen: {op: forward, tokens: rows, attention: bidirectional, cache: read}
      pick: {op: sample, logits: seen}
      filled: {op: fill, rows: rows, where: rows.masked, tokens: pick}
    yields: filled
step:
  drafted: {include: "#guessed", with: {rows: block}}
"""


def included(folder: Path, text: str = BY_FRAGMENT, fragments: str = FRAGMENTS) -> Source:
    return load(written(folder, v=text, lib__parts=fragments))


def found_in(text: str) -> tuple[Diagnostic, ...]:
    with pytest.raises(StrategyError) as caught:
        api.check_source(parse(text, "own.yaml"), others=False)
    return caught.value.diagnostics


def test_an_include_is_the_nodes_that_one_would_write(tmp_path: Path) -> None:
    assert graph_of(included(tmp_path)) == graph_of(parse(BY_HAND))
    assert graph_of(parse(flat(included(tmp_path)))) == graph_of(parse(BY_HAND))


def test_a_param_that_is_not_given_has_its_default(tmp_path: Path) -> None:
    source = included(tmp_path, BY_FRAGMENT.replace(", threshold: sure", ", rounds: 2 + 1"))
    drafted = source.at(("step", "drafted"))
    assert drafted["at_most"] == "(2 + 1)"
    assert drafted["body"]["drafted_take"]["at_least"] == 0.5


def test_what_an_include_is_given_can_be_changed_by_an_extension(tmp_path: Path) -> None:
    written(tmp_path, v=BY_FRAGMENT, lib__parts=FRAGMENTS)
    text = "nldc: 1\nname: surer\nextends: v.yaml\nstep: {drafted: {with: {threshold: 0.75}}}\n"
    drafted = load(written(tmp_path, surer=text)).at(("step", "drafted"))
    assert drafted["body"]["drafted_take"]["at_least"] == 0.75


def test_inner_names_meet_none_of_the_strategy() -> None:
    more = "  drafted_seen: {op: sample, logits: checked}\n"
    more += "  drafted_pick: {op: join, parts: [drafted_seen]}\n"
    text = SEEN.replace("  drafted: {inc", f"{more}  drafted: {{inc")
    step = parse(text).at(("step",))
    assert step["drafted_seen_2"]["op"] == "forward"
    assert step["drafted_pick_2"] == {"op": "sample", "logits": "drafted_seen_2"}
    assert step["drafted_pick"] == {"op": "join", "parts": ["drafted_seen"]}


def test_an_inner_name_cannot_be_named_from_outside() -> None:
    (found,) = found_in(SEEN + "  choice: {op: sample, logits: drafted_seen}\n")
    assert (found.code, found.message) == ("NLD031", "`drafted_seen` is not defined here")


def test_a_fragment_is_included_twice_under_other_names() -> None:
    text = SEEN + '  again: {include: "#guessed", with: {rows: drafted}}\n  kept: {draft: again}\n'
    step = parse(text).at(("step",))
    assert {"drafted_seen", "again_seen"} <= set(step)
    assert step["again"] == {
        "op": "fill",
        "rows": "drafted",
        "where": "drafted.masked",
        "tokens": "again_pick",
    }


def test_fragments_include_fragments_and_their_names_stay_apart() -> None:
    outer = """  twice:
    takes: [rows]
    params: {unused: {type: int, default: 3, min: 1, max: 9}}
    nodes:
      seen: {include: "#guessed", with: {rows: rows}}
      last: {include: "#guessed", with: {rows: seen}}
    yields: last
"""
    text = SEEN.replace('"#guessed"', '"#twice"').replace("step:\n", f"{outer}step:\n")
    step = parse(text).at(("step",))
    assert step["drafted"]["rows"] == "drafted_seen"
    assert step["drafted_seen"]["rows"] == "block"
    assert said_of(text) == []


def test_kinds_of_rows_are_a_fragments_own() -> None:
    text = """nldc: 1
name: own
extends: quadratic_ss
fragments:
  both:
    takes: [draft, wide]
    params: {size: {type: int, default: 8, min: 1, max: 64}}
    nodes:
      laid: {op: rows, groups: size, segments: [{tokens: draft, kind: told}, {masks: size, kind: mask}]}
      both:
        op: forward
        tokens: laid
        position: group + index
        attention: "k.prefix or (k.kind == told and k.group <= q.group) or (q.kind == mask and k.group == q.group)"
        adapter: {wide: "kind == mask"}
        cache: {append: "kind == told"}
      guess: {op: sample, logits: "both.mask[1:]"}
    yields: both
adapters: {told: {kind: lora}}
step:
  both: {include: "#both", with: {draft: draft, wide: told}}
"""  # noqa: E501
    step = parse(text).at(("step",))
    assert step["both_laid"]["segments"][1] == {"masks": 8, "kind": "both_mask"}
    assert step["both"]["adapter"] == {"told": "kind == both_mask"}
    assert step["both"]["cache"] == {"append": "kind == both_told"}
    assert step["both_guess"]["logits"] == "both.both_mask[1:]"


def test_words_of_the_language_are_no_names() -> None:
    text = SEEN.replace("seen", "kept").replace("pick", "margin").replace("filled: {", (
        "sure: {op: score, logits: kept, by: margin}\n"
        "      take: {op: select, among: rows.masked, score: sure, at_least: 0.5, always: best 1}\n"
        "      filled: {"
    )).replace("where: rows.masked", "where: take")  # fmt: skip
    step = parse(text).at(("step",))
    assert step["drafted_sure"] == {"op": "score", "logits": "drafted_kept", "by": "margin"}
    assert step["drafted_margin"] == {"op": "sample", "logits": "drafted_kept"}


def test_numbers_stand_in_expressions_as_one_value() -> None:
    params = "    params: {n: {type: int, default: 2, min: -9, max: 99}}\n"
    text = SEEN.replace("    takes", f"{params}    takes")
    text = text.replace("where: rows.masked", "where: 'rows[row > n * 2]'")
    for given, shown in (
        ("n: 3", "row > 3"),
        ("n: -3", "row > (-3)"),
        ("n: 1 + 1", "row > (1 + 1)"),
        ("n: block_length", "row > block_length"),
    ):
        step = parse(text.replace("rows: block}", f"rows: block, {given}}}")).at(("step",))
        assert step["drafted"]["where"] == f"block[{shown} * 2]"


def test_a_mistake_inside_is_underlined_there_under_its_own_name(tmp_path: Path) -> None:
    wrong = FRAGMENTS.replace("among: rows.masked", "among: pick.masked")
    file = written(tmp_path, v=BY_FRAGMENT, lib__parts=wrong)
    with pytest.raises(StrategyError) as caught:
        api.check(file)
    (found,) = caught.value.diagnostics
    assert found.span is not None
    assert (Path(found.span.file).name, found.span.start_line) == ("parts.yaml", 20)
    assert wrong[found.span.start : found.span.end] in "pick.masked"
    assert [label.text for label in found.labels if not label.primary] == ["included here"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("with: {rows: block}", "with: {rows: block, more: 1}", "`guessed` takes no `more`"),
        ("with: {rows: block}", "with: {}", "`guessed` takes `rows`"),
        ("with: {rows: block}", "with: [rows]", "`with` is not a mapping"),
        ("with: {rows: block}", "with: {rows: 3}", "`rows` is a value of the graph"),
        ("with: {rows: block}", 'with: {rows: "block) + (1"}', "`rows` is a value of the graph"),
        ("with: {rows: block}", "op: fill", "an include has no key `op`"),
        ('"#guessed"', "guessed", "an include names a fragment"),
        ('"#guessed"', '"#"', "an include names a fragment"),
        ('"#guessed"', "[1]", "an include names a fragment"),
        ('"#guessed"', '"linear_ss#guessed"', "`linear_ss` has no fragment `guessed`"),
        ("yields: filled", "yields: fill", "the fragment yields `fill`"),
        ("yields: filled", "yields: rows", "the fragment yields `rows`"),
        ("takes: [rows]", "takes: [rows, rows]", "`rows` cannot name a value"),
        ("takes: [rows]", "takes: [rows, seen]", "`seen` cannot name a node"),
        ("takes: [rows]", "takes: [rows, causal]", "`causal` cannot name a value"),
        ("takes: [rows]", "needs: [rows]", "fragment `guessed` has no key `needs`"),
        ("tokens: rows,", "tokens: $prompt,", "`$prompt` is no name of the fragment"),
        ("tokens: rows,", "tokens: seed,", "`seed` is no name of the fragment"),
        ("attention: bidirectional", "attention: k.kind == mask", "`mask` is no name"),
        ("  guessed:\n", "  other: 3\n  guessed:\n", "fragment `other`"),
    ],
)
def test_an_include_that_does_not_fit_is_refused(old: str, new: str, said: str) -> None:
    assert old in SEEN
    found = said_of(SEEN.replace(old, new, 1))
    assert any(said in each for each in found), found
    assert {each.split()[0] for each in found} <= {"NLD010", "NLD011", "NLD012", "NLD023", "NLD024"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("2", "this is 2, which is not between 0.0 and 1.0"),
        ("block_length", "this is 16, which is not between 0.0 and 1.0"),
        ("1 > 0", "a condition"),
        ("nothing", "`nothing`"),
        ('"0.5) + (1"', ""),
        ("true", ""),
        ("null", ""),
    ],
)
def test_numbers_are_held_against_the_bounds_of_the_fragment(
    tmp_path: Path, given: str, said: str
) -> None:
    text = BY_FRAGMENT.replace("threshold: sure", f"threshold: {given}")
    file = written(tmp_path, v=text, lib__parts=FRAGMENTS)
    with pytest.raises(StrategyError) as caught:
        api.check(file)
    (found,) = caught.value.diagnostics
    assert found.code == "NLD023"
    assert said in found.labels[0].text


def test_bounds_hold_for_what_is_set(tmp_path: Path) -> None:
    text = BY_FRAGMENT.replace("threshold: sure", "rounds: block_length // 4")
    file = written(tmp_path, v=text, lib__parts=FRAGMENTS)
    assert api.check(file, others=False).graph.params["block_length"] == 16
    with pytest.raises(StrategyError, match="NLD023"):
        api.check(file, {"block_length": 3})


def test_a_loops_next_value_may_be_a_fragment() -> None:
    text = """nldc: 1
name: own
extends: block_diffusion
fragments:
  once:
    takes: [rows, sure, where]
    nodes:
      pick: {op: sample, logits: sure}
      out: {op: fill, rows: rows, where: where, tokens: pick}
    yields: out
step:
  filled:
    body:
      block: {include: "#once", with: {rows: block, sure: seen, where: take}}
"""
    body = parse(text).at(("step", "filled", "body"))
    assert body["block"] == {
        "op": "fill",
        "rows": "block",
        "where": "take",
        "tokens": "block_pick",
    }
    assert said_of(text) == []
    more = "      more: {op: fill, rows: out, where: where, tokens: pick}\n"
    broken = text.replace("    yields", f"{more}    yields")
    assert "means the rows of the loop's round before" in said_of(broken)[0]


def test_a_value_that_a_loops_body_hides_is_refused(tmp_path: Path) -> None:
    """`other` stands for `block.masked`, and in the body `block` is the loop's own rows."""
    fragments = FRAGMENTS.replace("takes: [rows]", "takes: [rows, other]")
    fragments = fragments.replace("among: rows.masked", "among: other")
    text = BY_FRAGMENT.replace("rows: block", "rows: block, other: block.masked")
    found = said_of(written(tmp_path, v=text, lib__parts=fragments))
    assert found == [
        "NLD024 `other` stands for `block.masked`, which means another value in this body"
    ]


def test_no_name_of_a_fragment_is_a_word_that_expressions_know() -> None:
    known = {*ROW_FACTS, *QUERY_FACTS, *KEY_FACTS, *ATTENTION, "q", "k"}
    assert known <= set(FRAGMENT)
    assert {"rank", "score", "iteration", "left", "live"} <= set(FRAGMENT)


def test_fragments_alone_are_no_strategy(tmp_path: Path) -> None:
    (found,) = said_of(written(tmp_path, parts=FRAGMENTS))
    assert found.endswith("holds fragments and no strategy")


def test_a_prompts_fragment_takes_the_prompt() -> None:
    text = """nldc: 1
name: own
extends: linear_ss
fragments:
  read:
    takes: [text]
    nodes: {context: {op: forward, tokens: text, attention: causal, cache: append}}
    yields: context
prefill: {context: {include: "#read", with: {text: $prompt}}}
"""
    assert graph_of(parse(text)) == graph_of(parse("nldc: 1\nname: own\nextends: linear_ss\n"))


def test_an_editors_schema_knows_variants_and_fragments(tmp_path: Path) -> None:
    form = TypeAdapter(Strategy | Variant | FragmentFile)
    files = [*api.library().values(), written(tmp_path, v=BY_FRAGMENT, own=SEEN, parts=FRAGMENTS)]
    for file in (*files, tmp_path / "own.yaml", tmp_path / "parts.yaml"):
        form.validate_python(load_file(file).data)
    for text in ("extends: 3\n", "extend: linear_ss\n", "extends: linear_ss\nstep: 3\n"):
        with pytest.raises(ValidationError):
            form.validate_python(parse_file(f"nldc: 1\nname: a\n{text}").data)
    shown = json.dumps(json_schema())
    for word in ("A strategy that extends another", "FILE#FRAGMENT", "null takes it away"):
        assert word in shown
