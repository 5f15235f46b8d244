"""Completion, asked as a shell asks: the words so far, and the one that was begun."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete, get_completion_class
from click.testing import CliRunner

from nldc.cli import cli
from nldc.cli.completing import SHELLS

ROOT = Path(__file__).parents[2]


def offered(*words: str) -> list[str]:
    """What is offered for the last word, by its text."""
    *before, begun = words
    found = ShellComplete(cli, {}, "nldc", "_NLDC_COMPLETE").get_completions(before, begun)
    return [str(each.value) for each in found]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with strategies in folders, and two artifacts of which one has several."""
    (tmp_path / "own" / "deep").mkdir(parents=True)
    shutil.copy(ROOT / "strategies" / "wino.yaml", tmp_path / "own" / "deep" / "mine.yaml")
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / ".hidden.yaml").write_text("")
    for name, strategies in (("one", "ar"), ("two", "ar linear_ss")):
        command = ["compile", *strategies.split(), "--no-certify", "-o", str(tmp_path / name)]
        assert CliRunner().invoke(cli, command).exit_code == 0
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", ["check", "compile", "explain", "bench", "tune", "sol"])
def test_strategies_of_the_library_are_offered(command: str) -> None:
    found = offered(command, "linear_ss")
    assert found[:2] == ["linear_ss", "linear_ss_adaptive"]
    assert offered("diff", "ar", "remas") == ["remask"]


@pytest.mark.usefixtures("place")
def test_the_only_folder_is_entered_until_there_is_a_file_or_a_choice() -> None:
    assert offered("check", "ow") == ["own/deep/mine.yaml"]
    assert offered("check", "./ow") == ["./own/deep/mine.yaml"]
    assert offered("check", ".h") == [".hidden.yaml"]
    assert offered("check", "note") == []
    assert "own/" in offered("check", "o") + offered("check", "")


def test_a_path_from_the_root_stays_one(place: Path) -> None:
    assert offered("check", f"{place}/own/") == [f"{place}/own/deep/mine.yaml"]


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    "words", [("run",), ("chat",), ("verify",), ("certify",), ("serve", "one"), ("export",)]
)
def test_artifacts_are_offered_and_not_entered(words: tuple[str, ...]) -> None:
    assert offered(*words, "t") == ["two"]
    assert offered("batch", "rows.jsonl", "--artifact", "on") == ["one"]


@pytest.mark.usefixtures("place")
def test_parts_of_an_artifact_of_several_are_offered() -> None:
    assert offered("run", "two", "--strategy", "") == ["ar", "linear_ss"]
    assert offered("run", "one", "--strategy", "") == []
    assert offered("run", "nowhere", "--strategy", "") == []


@pytest.mark.usefixtures("place")
def test_params_of_the_strategies_that_are_named_are_offered_with_their_defaults() -> None:
    assert offered("check", "linear_ss", "--set", "") == ["block_length=16"]
    assert "block_length=16" in offered("compile", "own/deep/mine.yaml", "--set", "b")
    assert offered("check", "ar", "nowhere", "--set", "") == []


def test_params_that_requests_bring_are_offered_from_what_was_compiled(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    command = ["compile", "block_diffusion", "--no-certify", "-o", out]
    assert CliRunner().invoke(cli, command).exit_code == 0
    found = offered("run", out, "--param", "")
    assert found == offered("bench", "block_diffusion", "--param", "")
    assert found


def test_the_numbers_of_a_recipe_are_offered() -> None:
    assert offered("train", "drafter", "folder", "--set", "ste") == ["steps=500"]


def test_devices_targets_and_geometries_are_offered() -> None:
    assert offered("run", "one", "--device", "cu") == ["cuda", "cuda:0"]
    assert offered("explain", "ar", "--device", "h") == ["h100", "h200"]
    assert offered("bench", "ar", "--predict", "a") == ["a100"]
    assert "cuda:90" in offered("compile", "ar", "--target", "cuda")
    assert offered("tune", "ar", "--geometry", "8") == ["8b"]


def test_codes_of_errors_are_offered_where_they_are_explained() -> None:
    assert offered("explain", "nld03")[0] == "NLD030"
    assert not [each for each in offered("explain", "") if each.startswith("NLD")]


def test_commands_options_and_choices_are_offered() -> None:
    assert offered("ver") == ["verify"]
    assert offered("check", "--js") == ["--json"]
    assert offered("completion", "") == list(SHELLS)
    assert offered("train", "d") == ["drafter"]


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_of_a_shell_is_what_click_writes_for_it(shell: str) -> None:
    found = CliRunner().invoke(cli, ["completion", shell])
    kind = get_completion_class(shell)
    assert kind is not None
    assert found.stdout == kind(cli, {}, "nldc", "_NLDC_COMPLETE").source() + "\n"
    assert f"_NLDC_COMPLETE={shell}_complete" in found.stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_by_the_script(tmp_path: Path) -> None:
    script = CliRunner().invoke(cli, ["completion", "bash"]).stdout
    command = tmp_path / "nldc"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m nldc.cli "$@"\n')
    command.chmod(0o755)
    asks = "COMP_WORDS=(nldc check linear_ss_t); COMP_CWORD=2; _nldc_completion nldc"
    line = f'{script}\n{asks}\necho "${{COMPREPLY[@]}}"'
    found = subprocess.run(
        ["bash", "--norc", "-c", line],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert found.stdout == "linear_ss_tree\n"


def test_completing_loads_no_torch() -> None:
    code = (
        "import sys\nfrom click.shell_completion import ShellComplete\nfrom nldc.cli import cli\n"
        "asked = ShellComplete(cli, {}, 'nldc', 'X').get_completions\n"
        "asked(['check', 'linear_ss', '--set'], '')\n"
        "asked(['explain'], 'NLD'), asked(['run'], '')\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
