"""`nldc init`: what it writes is a strategy that checks and runs, and nothing is written over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from nldc import api
from nldc.cli import cli
from nldc.diagnostics import StrategyError
from nldc.editor_schema import json_schema
from nldc.ir.text import show_graph
from nldc.runtime.errors import NldcRuntimeError
from nldc.source import parse
from nldc.starter import STARTER, starter


def nldc(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(each) for each in arguments])


def graph_of(text: str) -> str:
    return show_graph(api.check_source(parse(text), others=False).graph).partition("\n")[2]


def test_the_starter_is_linear_self_speculation_with_a_comment_for_each_node() -> None:
    checked = api.check_source(parse(starter("mine")), others=False)
    assert checked.graph.name == "mine"
    assert checked.certificate.proved == "exact"
    lines = [line for line in STARTER.splitlines() if line and not line.lstrip().startswith("#")]
    assert len(lines) <= 20
    above = {
        line.split(":")[0].strip()
        for before, line in zip(STARTER.splitlines(), STARTER.splitlines()[1:], strict=False)
        if before.startswith("  #")
    }
    assert {"context", "seed", "block", "drafted", "checked", "choice", "kept", "emit"} <= above


@pytest.mark.parametrize("name", api.library())
def test_every_strategy_of_the_library_can_be_begun_from(name: str) -> None:
    text = starter("mine", name)
    path = api.library()[name]
    assert graph_of(text) == show_graph(api.check(path, others=False).graph).partition("\n")[2]
    assert "  # forward: One pass of the model" in text


def test_a_file_that_extends_others_is_begun_from_as_one(tmp_path: Path) -> None:
    path = tmp_path / "variant.yaml"
    path.write_text("nldc: 1\nname: v\nextends: linear_ss\nsummary: x\n")
    text = starter("mine", str(path))
    assert "extends" not in text
    assert "name: mine" in text


@pytest.mark.parametrize("name", ["my-own", "2nd", "", "a" * 65, "größe", "a\n"])
def test_names_that_are_none_are_refused_in_words(name: str) -> None:
    with pytest.raises(NldcRuntimeError, match="is no name of a strategy"):
        starter(name)


def test_a_name_that_could_be_meant_is_told() -> None:
    with pytest.raises(NldcRuntimeError, match=r"\(a name is a letter.*: my_own\)"):
        starter("my-own")


def test_what_cannot_be_begun_from_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StrategyError, match="there is no file"):
        starter("mine", "linear_sss")
    with pytest.raises(NldcRuntimeError, match="leave @vllm out"):
        starter("mine", "block_diffusion@vllm")
    path = tmp_path / "bad.yaml"
    path.write_text("nldc: 1\nname: bad\n")
    with pytest.raises(StrategyError, match="NLD011"):
        starter("mine", str(path))


# The command


def test_what_was_written_checks_compiles_and_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shlex

    monkeypatch.chdir(tmp_path)
    found = nldc("init", "mine")
    assert found.exit_code == 0
    first, *steps = found.stdout.splitlines()
    assert first == "wrote mine.yaml"
    for step in steps:
        done = nldc(*shlex.split(step)[1:])
        assert done.exit_code == 0, (step, done.output)
    assert len(steps) == 3


def test_nothing_is_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("mine")
    again = nldc("init", "mine")
    assert again.exit_code == 1
    assert "error: mine.yaml is there already" in again.stderr
    assert (tmp_path / "mine.yaml").read_text() == "mine"
    assert nldc("init", "no-name", "-o", "x.yaml").exit_code == 1
    assert nldc("init", "name", "--from", "nothing", "-o", "x.yaml").exit_code == 1
    missing = nldc("init", "name", "-o", "nowhere/x.yaml")
    assert missing.exit_code == 1
    assert "no such file or directory" in missing.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


def test_editors_are_told_of_a_schema_that_lies_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    line = "# yaml-language-server: $schema=./nldc.schema.json"
    assert nldc("init", "before").exit_code == 0
    assert line not in (tmp_path / "before.yaml").read_text()
    assert nldc("init", "mine", "--editor").exit_code == 0
    assert (tmp_path / "mine.yaml").read_text().splitlines()[0] == line
    assert json.loads((tmp_path / "nldc.schema.json").read_text()) == json_schema()
    (tmp_path / "nldc.schema.json").write_text("{}")
    assert nldc("init", "after", "--editor", "--from", "remask").exit_code == 0
    assert (tmp_path / "after.yaml").read_text().splitlines()[0] == line
    assert (tmp_path / "nldc.schema.json").read_text() == "{}"
    assert nldc("check", tmp_path / "after.yaml").exit_code == 0
