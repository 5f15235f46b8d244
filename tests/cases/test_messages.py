"""What is said of a wrong file names the node that is wrong, and what mends it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from nldc import api
from nldc.check.rules import check_graph
from nldc.diagnostics import Diagnostic, StrategyError
from nldc.reuse import parse
from tests.lossless.mutants import base_text, built

HERE = Path(__file__).parent / "strategies"


def errors(name: str) -> Sequence[Diagnostic]:
    with pytest.raises(StrategyError) as caught:
        api.check(HERE / f"{name}.yaml")
    return [found for found in caught.value.diagnostics if found.severity == "error"]


@pytest.mark.parametrize(
    ("name", "code", "line", "says", "mends"),
    [
        (
            "w03_last_target_of_the_drafter", "NLD101", 20,
            "`end` is chosen from row 3 of `seen`: row 3 is a mask",
            "sample every target from the row of the verifier before its place",
        ),
        (
            "w04_offset_zero_with_the_seed", "NLD101", 18,
            "`offset: 0` holds target i against draft i + 0; it is AR's choice for the place",
            "write `offset: 1`",
        ),
        (
            "float_in_where", "NLD036", 19, "", "write it in whole numbers",
        ),
    ],
)  # fmt: skip
def test_the_mistake_is_named_where_it_is(
    name: str, code: str, line: int, says: str, mends: str
) -> None:
    (found,) = errors(name)
    assert found.code == code
    assert found.span is not None
    assert found.span.start_line == line
    assert found.labels[0].text.startswith(says)
    assert found.help[0].startswith(mends)


@pytest.mark.parametrize("weights", ["[0.5, 0.25]", "[1.5, 0.5]"])
def test_the_verifier_mixed_with_itself_is_refused_where_sums_are_rounded(weights: str) -> None:
    text = (HERE / "r_mixed_with_itself.yaml").read_text("utf-8")
    source, graph = built(text.replace("[0.5, 0.5]", weights))
    (found,) = [d for d in check_graph(graph, source) if d.severity == "error"]
    assert (found.code, found.span and found.span.start_line) == ("NLD110", 19)
    assert found.labels[0].text.startswith("logits that are added up are rounded")
    assert found.help[0].startswith("sample from the logits of a verifier row alone")


def test_a_target_of_the_drafter_is_named_whatever_the_names() -> None:
    """The last target is sampled from the drafter, through two joins."""
    text = (HERE / "w03_last_target_of_the_drafter.yaml").read_text("utf-8")
    text = (
        text.replace(
            "choice:  {op: join, parts: [most, end]}",
            "both:    {op: join, parts: [end]}\n  choice:  {op: join, parts: [most, both]}",
        )
        .replace("end:", "wrong:")
        .replace("[end]", "[wrong]")
    )
    source, graph = built(text)
    (found,) = [d for d in check_graph(graph, source) if d.severity == "error"]
    assert found.labels[0].text.startswith("`wrong` is chosen from row")


@pytest.mark.parametrize("settings", [None, {"block_length": 8}])
def test_a_large_param_for_which_it_fails_is_warned_of_with_the_least_one(
    settings: dict[str, int] | None,
) -> None:
    checked = api.check(HERE / "w26_wrong_only_for_large_params.yaml", settings)
    (warning,) = checked.warnings
    assert (warning.code, warning.severity) == ("NLD106", "warning")
    assert warning.notes == ("with block_length = 9; for the params as they are it is proved",)


@pytest.mark.parametrize("length", [9, 16])
def test_a_setting_for_which_it_fails_is_refused(length: int, tmp_path: Path) -> None:
    file = HERE / "w26_wrong_only_for_large_params.yaml"
    with pytest.raises(StrategyError):
        api.compile(file, tmp_path / "a", {"block_length": length})
    assert not (tmp_path / "a").exists()


def test_a_verifier_that_is_not_counted_is_warned_of_and_a_drafter_is_not() -> None:
    checked = api.check(HERE / "w25_counted_false_on_the_verifier.yaml")
    assert checked.guarantee == "exact"
    (warning,) = checked.warnings
    assert (warning.code, warning.severity) == ("NLD078", "warning")
    assert warning.span is not None
    assert warning.span.start_line == 16
    text = base_text("verified_twice").replace(
        "checked: {op: forward, tokens: drafted, attention: causal, cache: read}",
        "checked: {op: forward, tokens: drafted, attention: causal, cache: read, counted: false}",
    )
    source, graph = built(text)
    assert [d.code for d in check_graph(graph, source)] == ["NLD078"]
    text = (HERE / "w25_counted_false_on_the_verifier.yaml").read_text("utf-8")
    drafter = """blank: {op: rows, segments: [{masks: 1}]}
  look: {op: forward, tokens: blank, attention: bidirectional, cache: read, counted: false}
  thought: {op: sample, logits: look}
  block:   {"""
    text = text.replace(", counted: false", "").replace("block:   {", drafter)
    text = text.replace("{masks: block_length - 1}", "{tokens: thought}, {masks: block_length - 2}")
    source, graph = built(text)
    assert not list(check_graph(graph, source))


def test_what_only_another_step_uses_is_used() -> None:
    text = base_text("concurrency_router")
    emits = "    emit:    {tokens: choice, cache: keep all, next: {seed: choice}}\n"
    alone = "alone: {op: forward, tokens: seed, attention: bidirectional, adapter: a, cache: read}"
    text = text.replace("params:", "adapters: {a: {kind: lora}, b: {kind: lora}}\nparams:")
    text = text.replace("confidence: 0.0}}", "confidence: 0.0}, adapter: b}")
    text = text.replace(emits, f"    {alone}\n{emits}")
    source, graph = built(text)
    assert [(d.code, d.message) for d in check_graph(graph, source)] == [
        ("NLD033", "nothing uses `alone`")
    ]


@pytest.mark.parametrize(
    ("begins", "becomes", "help_text"),
    [
        ("seed", "choice", "choose 1 row of the 16, as in `choice.last`, or begin"),
        ("both", "choice", "choose 2 rows of the 16, as in `choice[0:2]`, or begin"),
        ("both", '"choice[0:3]"', "choose 2 rows of the 3 or begin `seed` with Tokens[3]"),
        ("both", "[seed, seed, seed]", "choose 2 rows of the 6 or begin `seed` with Tokens[6]"),
        ("both", "kept.bonus", "begin `seed` with Tokens[1], or carry Tokens[2] on"),
        ("seed", "drafted", "as in `drafted.last`, or begin `seed` with Tokens[16]"),
    ],
)
def test_a_carried_value_that_changes_its_size_says_what_to_change(
    begins: str, becomes: str, help_text: str
) -> None:
    text = base_text("linear_ss").replace("next: {seed: kept.bonus}", f"next: {{seed: {becomes}}}")
    if begins == "both":
        text = text.replace("{masks: block_length - 1}", "{masks: block_length - 2}")
    text = text.replace(
        "carry: {seed: prefill.seed}",
        f"  both:    {{op: join, parts: [seed, seed]}}\ncarry: {{seed: prefill.{begins}}}",
    )
    with pytest.raises(StrategyError) as caught:
        api.check_source(parse(text, "x.yaml"))
    (found,) = [d for d in caught.value.diagnostics if d.code == "NLD074"]
    assert help_text in found.help[0]
