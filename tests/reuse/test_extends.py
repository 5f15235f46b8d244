"""A file that extends another is that file with what differs, and says where each thing stands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nldc import api
from nldc.diagnostics import StrategyError
from nldc.diff import diff
from nldc.explain import explain
from nldc.reuse import flat, load, parse
from nldc.runtime.errors import ArtifactError
from tests.reuse.files import graph_of, said_of, written

HEAD = "nldc: 1\nname: mine\nextends: linear_ss\n"


def data_of(text: str) -> dict[str, object]:
    return parse(HEAD + text, "mine.yaml").data


def test_what_is_not_written_is_as_in_the_base() -> None:
    base = load(api.library()["linear_ss"]).data
    assert data_of("") == {**base, "name": "mine"}


def test_the_name_is_never_that_of_the_base() -> None:
    found = said_of("nldc: 1\nextends: linear_ss\n")
    assert found == ["NLD011 the strategy lacks `name`"]


@pytest.mark.parametrize(
    ("written_", "path", "value"),
    [
        ("params: {block_length: {default: 8}}", ("params", "block_length", "max"), 64),
        ("params: {block_length: {default: 8}}", ("params", "block_length", "default"), 8),
        ("carry: {seed: prefill.context}", ("carry",), {"seed": "prefill.context"}),
        ("step: {drafted: {commit: {steps: 4}}}", ("step", "drafted", "commit"), {"steps": 4}),
        ("step: {drafted: {commit: {steps: 4}}}", ("step", "drafted", "rows"), "block"),
        (
            "step: {drafted: {op: fill, rows: block}}",
            ("step", "drafted"),
            {"op": "fill", "rows": "block"},
        ),
        ("step: {emit: {tokens: seed}}", ("step", "emit", "cache"), "keep kept.rows"),
        ("step: {emit: {next: {more: seed}}}", ("step", "emit", "next"),
         {"seed": "kept.bonus", "more": "seed"}),
        ("limits: {launches: 9}", ("limits",), {"launches": 9}),
        ("compat: vllm", ("compat",), "vllm"),
    ],
)  # fmt: skip
def test_keys_change_and_what_has_an_op_replaces(
    written_: str, path: tuple[str, ...], value: object
) -> None:
    assert parse(f"{HEAD}{written_}\n").at(path) == value


@pytest.mark.parametrize(
    ("written_", "path"),
    [
        ("params: {block_length: null}", ("params",)),
        ("prefill: {emit: null}", ("prefill", "emit")),
        ("step: {kept: null}", ("step", "kept")),
        ("step: {drafted: {commit: null}}", ("step", "drafted", "commit")),
        ("step: null", ("step",)),
        ("carry: {seed:}", ("carry", "seed")),
    ],
)
def test_null_takes_away(written_: str, path: tuple[str, ...]) -> None:
    source = parse(f"{HEAD}{written_}\n")
    assert source.at(path[:-1]).get(path[-1]) in (None, {})
    assert path in load(api.library()["linear_ss"]).spans


def test_a_loops_body_changes_node_by_node() -> None:
    text = (
        "nldc: 1\nname: mine\nextends: block_diffusion\nstep: {filled: {body: {take: {best: 2}}}}"
    )
    body = parse(text).at(("step", "filled", "body"))
    assert body["take"]["best"] == 2
    assert body["take"]["op"] == "select"
    assert list(body) == ["seen", "pick", "sure", "take", "block"]


def test_a_step_of_several_changes_and_the_routes_with_it() -> None:
    text = "nldc: 1\nname: mine\nextends: concurrency_router\nroute: {single: live > 9}\n"
    text += "steps: {speculative: {drafted: {commit: {confidence: 0.5}}}}\n"
    source = parse(text)
    assert source.at(("steps", "speculative", "drafted", "commit")) == {"confidence": 0.5}
    assert source.at(("route",)) == {"single": "live > 9"}
    assert "param most" in graph_of(source)


def test_an_extension_of_an_extension_is_as_if_written_out(tmp_path: Path) -> None:
    deep = written(
        tmp_path,
        deep="nldc: 1\nname: deep\nextends: a/b.yaml\nparams: {block_length: {default: 4}}\n",
        a__b="nldc: 1\nname: b\nextends: c.yaml\nstep: {drafted: {commit: {confidence: 0.5}}}\n",
        a__c="nldc: 1\nname: c\nextends: linear_ss\nparams: {block_length: {default: 9}}\n",
    )
    source = load(deep)
    assert source.at(("params", "block_length", "default")) == 4
    assert source.uses == (
        "deep.yaml extends a/b.yaml",
        "a/b.yaml extends a/c.yaml",
        "a/c.yaml extends linear_ss",
    )
    whole = parse(flat(source), "deep.yaml")
    assert whole.data == source.data
    assert graph_of(whole) == graph_of(source)


def test_a_key_and_a_value_know_their_file_and_line(tmp_path: Path) -> None:
    file = written(tmp_path, v=HEAD + "step:\n  drafted: {commit: {confidence: 0.5}}\n")
    source, base = load(file), str(api.library()["linear_ss"])
    own = source.span(("step", "drafted", "commit", "confidence"))
    assert (own.file, own.start_line) == (str(file), 5)
    other = source.inside(("step", "choice", "logits"), 0, 7)
    assert (other.file, other.start_line) == (base, 18)
    text = Path(base).read_text(encoding="utf-8")
    assert text[other.start : other.end] == "checked"


def test_a_mistake_in_the_base_says_that_the_variant_extends_it(tmp_path: Path) -> None:
    bad = "nldc: 1\nname: base\nsummary: s\nguarantee: none\nprefill: {a: {op: nothing}}\n"
    file = written(tmp_path, v="nldc: 1\nname: v\nextends: base.yaml\n", base=bad)
    with pytest.raises(StrategyError) as caught:
        api.check(file)
    for found in caught.value.diagnostics:
        labels = {Path(label.span.file).name: label for label in found.labels}
        assert found.span is not None
        if Path(found.span.file).name == "base.yaml":
            assert labels["v.yaml"].text == "extended here"
            assert not labels["v.yaml"].primary


def test_a_base_that_is_no_yaml_is_shown_where_it_is_wrong(tmp_path: Path) -> None:
    file = written(tmp_path, v="nldc: 1\nname: v\nextends: base.yaml\n", base="nldc: [1\n")
    with pytest.raises(StrategyError) as caught:
        load(file)
    (found,) = caught.value.diagnostics
    assert found.code == "NLD003"
    assert [Path(label.span.file).name for label in found.labels][::2] == ["base.yaml", "v.yaml"]


def test_settings_and_a_checkpoints_params_reach_what_is_extended(tmp_path: Path) -> None:
    file = written(tmp_path, v=HEAD)
    assert api.params_of(file) == {"block_length"}
    assert api.check(file, {"block_length": 4}).graph.params == {"block_length": 4}
    assert api.check(file).graph.checkpoint_params == {"block_length": "block_size"}


def test_an_artifact_holds_the_whole_and_the_digest_of_every_file(tmp_path: Path) -> None:
    files = {
        "v": "nldc: 1\nname: v\nextends: lib/base.yaml\n",
        "lib__base": "nldc: 1\nname: b\nextends: linear_ss\nparams: {block_length: {default: 4}}\n",
    }
    first, again = tmp_path / "first", tmp_path / "again"
    outs = [
        api.compile(written(folder, **files), folder / "out", certify=False)
        for folder in (first, again)
    ]
    contents = [{p.name: p.read_bytes() for p in out.iterdir()} for out in outs]
    assert contents[0] == contents[1]
    manifest = json.loads(contents[0]["manifest.json"])
    assert list(manifest["source"]["files"]) == ["v.yaml", "lib/base.yaml", "linear_ss"]
    recompiled = api.check(outs[0] / "strategy.yaml")
    assert graph_of(recompiled.source) == graph_of(load(first / "v.yaml"))
    files["lib__base"] += "# a comment\n"
    other = api.compile(written(tmp_path / "other", **files), tmp_path / "out", certify=False)
    found = json.loads((other / "manifest.json").read_text("utf-8"))
    assert found["source"]["sha256"] != manifest["source"]["sha256"]
    assert "line 15 of linear_ss.yaml" in (other / "decode.py").read_text("utf-8")


def test_two_files_of_one_name_both_count(tmp_path: Path) -> None:
    file = written(tmp_path, x="nldc: 1\nname: x\nextends: lib/x.yaml\n", lib__x=HEAD)
    assert [text.shown for text in load(file).files] == ["x.yaml", "lib/x.yaml", "linear_ss"]
    inner = tmp_path / "lib" / "linear_ss.yaml"
    inner.write_text(HEAD.replace("mine", "other"), encoding="utf-8")
    out = api.compile(inner, tmp_path / "out", certify=False)
    manifest = json.loads((out / "manifest.json").read_text("utf-8"))
    assert list(manifest["source"]["files"]) == ["linear_ss.yaml", "linear_ss"]


def test_a_variant_is_explained_and_told_from_its_base(tmp_path: Path) -> None:
    file = written(tmp_path, v=HEAD + "step: {drafted: {commit: {confidence: 0.5}}}\n")
    assert "v.yaml extends linear_ss\n" in explain(api.check(file))
    found = diff(api.check("linear_ss"), api.check(file), ("linear_ss", "v"))
    assert {change.node for change in found.nodes} == {"step.drafted.take"}
    same = diff(api.check("linear_ss"), api.check(written(tmp_path, same=HEAD)))
    assert same.same


def test_variants_of_one_base_go_into_one_artifact_under_names_of_their_own(tmp_path: Path) -> None:
    other = written(tmp_path, v=HEAD)
    out = api.compile([other, "linear_ss"], tmp_path / "out", certify=False)
    assert set(json.loads((out / "manifest.json").read_text("utf-8"))["strategies"]) == {
        "mine",
        "linear_ss",
    }
    with pytest.raises(ArtifactError, match="two of the strategies are named `mine`"):
        api.compile([other, other], tmp_path / "twice", certify=False)


def test_a_proof_is_of_the_whole(tmp_path: Path) -> None:
    file = written(tmp_path, v=HEAD + "step: {checked: {attention: bidirectional}}\n")
    with pytest.raises(StrategyError) as caught:
        api.check(file)
    assert "NLD105" in {found.code for found in caught.value.diagnostics}


def test_a_node_named_like_a_carried_list_is_another_node() -> None:
    text = "nldc: 1\nname: mine\nextends: quadratic_ss\nstep:\n  guess: null\n"
    text += '  next_draft: {op: sample, logits: "both.mask[group == kept.rows - 1][1:]"}\n'
    text += "  emit: {next: {draft: [kept.bonus, next_draft]}}\n"
    shown = graph_of(parse(text))
    assert "step.next_draft_: Tokens[8] = join parts=[step.kept.bonus, step.next_draft]" in shown
    assert said_of(text) == []
