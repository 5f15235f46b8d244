"""`--json`: every command has it, and gives one document whose head is the same everywhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from nldc.acceptance import Acceptance, write_acceptance
from nldc.cli import cli
from nldc.cli.group import INTERNAL, INTERRUPTED
from nldc.cli.machine import FORM, plain

GOLDEN = Path(__file__).parents[1] / "golden_checkpoints" / "random-0"
SHORT = ("--max-new-tokens", "4")
HEAD = ["form", "nldc", "command", "ok"]


def nldc(*arguments: object, input: str | None = None) -> Result:  # noqa: A002
    return CliRunner().invoke(cli, [str(each) for each in arguments], input=input)


def leaves(group: click.Group, before: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from leaves(command, f"{before}{name} ")
        else:
            yield before + name, command


COMMANDS = dict(leaves(cli))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_the_option(name: str) -> None:
    (found,) = [each for each in COMMANDS[name].params if each.name == "as_json"]
    assert found.opts == ["--json"]
    assert found.is_eager, "take the option from nldc.cli.machine: mistakes are told by it too"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("machine")
    assert nldc("compile", "ar", "--no-certify", "-o", folder / "ar").exit_code == 0
    write_acceptance(
        Acceptance("linear_ss", {"block_length": 32}, {1: 10, 2: 30}, {}, 32),
        folder / "profile.json",
    )
    (folder / "prompts.jsonl").write_text('{"prompt": [1, 2, 3]}\n')
    return folder


def document(found: Result) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(found.stdout)
    assert list(data)[:4] == HEAD, found.stderr
    assert list(data)[-1] == "diagnostics"
    assert data["form"] == FORM
    assert data["ok"] is (found.exit_code == 0), found.stderr
    return data


# Commands that go well: what is run, and what the document then has beside its head.
WELL: dict[str, tuple[Callable[[Path], tuple[object, ...]], set[str]]] = {
    "init": (
        lambda at: ("mine", "-o", at / "mine.yaml"),
        {"file", "name", "schema", "next"},
    ),
    "check": (lambda _: ("linear_ss",), {"strategies"}),
    "compile": (
        lambda at: ("linear_ss", "ar", "--no-certify", "-o", at / "two"),
        {"artifact", "strategies", "between_steps"},
    ),
    "explain": (
        lambda _: ("linear_ss", "--device", "h100"),
        {
            *("name", "summary", "uses", "params", "promise", "notes", "regions", "forwards"),
            *("steps", "setting", "files", "program", "code"),
        },
    ),
    "run": (
        lambda at: (at / "ar", "--ids", "1,2", "--model", GOLDEN, *SHORT),
        {"text", "tokens", "finish", "stats", "logprobs"},
    ),
    "batch": (
        lambda at: (
            at / "prompts.jsonl",
            *("-o", at / "out.jsonl", "--artifact", at / "ar", "--model", GOLDEN, *SHORT),
        ),
        {"out", "rows", "before", "done", "failed", "tokens", "nfe", "seconds"},
    ),
    "verify": (
        lambda at: (at / "ar", "--model", GOLDEN, "--count", "1", *SHORT),
        {"trials", "adapters"},
    ),
    "bench": (
        lambda _: ("ar", "--model", GOLDEN, "--count", "1", "--repeats", "1", *SHORT),
        {"format", "environment", "results"},
    ),
    "sol": (
        lambda _: ("ar", "--model", GOLDEN, "--count", "1", "--block-length", "2", *SHORT),
        {"prompts", "ceilings", "strategies"},
    ),
    "tune": (
        lambda at: (
            "linear_ss",
            *("--device", "h100", "--acceptance", at / "profile.json"),
            *("--param", "block_length=4,8"),
        ),
        {"strategy", "profile", "is_dealt", "ar_tokens_per_second", "refused", "best", "choices"},
    ),
    "strategies": (lambda _: (), {"strategies"}),
    "completion": (lambda _: ("zsh",), {"shell", "script"}),
    "export": (lambda at: (at / "ar", "-o", at / "exported"), {"folder"}),
    "quantize": (
        lambda at: (GOLDEN, "--bits", "8", "-o", at / "eight"),
        {"source", "out", "bits", "floating", "group", "matrices", "before", "after", "error"},
    ),
    "doctor": (lambda _: (), {"findings"}),
}


@pytest.mark.parametrize("name", WELL)
def test_what_a_command_finds_is_one_document(name: str, folder: Path) -> None:
    arguments, keys = WELL[name]
    found = nldc(name, *arguments(folder), "--json")
    assert found.exit_code == 0, found.output
    data = document(found)
    assert data["command"] == name
    assert set(data) - {*HEAD, "diagnostics"} == keys


# Commands that a mistake ends: what is run, the exit code, and the word for the mistake.
ILL: dict[str, tuple[tuple[object, ...], int, str]] = {
    "init": (("my-own",), 1, "runtime"),
    "check": (("linear_sss",), 1, "NLD001"),
    "compile": (("linear_ss", "--set", "block_length=1", "-o", "out"), 1, "NLD016"),
    "run": (("nowhere", "--prompt", "a"), 1, "artifact"),
    "chat": (("nowhere",), 1, "artifact"),
    "batch": (("nowhere", "-o", "a.jsonl", "--artifact", "nowhere"), 1, "prompt"),
    "serve": (("nowhere",), 1, "artifact"),
    "verify": (("nowhere", "--temperature", "-1"), 1, "prompt"),
    "certify": (("nowhere",), 1, "artifact"),
    "trace": (("nowhere",), 1, "trace"),
    "bisect": (("nowhere",), 1, "artifact"),
    "diff": (("ar", "linear_sss"), 1, "NLD001"),
    "tune": (("ar", "--device", "h100", "--acceptance", "nowhere"), 1, "profile"),
    "export": (("nowhere", "-o", "out"), 1, "artifact"),
    "import-gguf": (("nowhere.gguf", "-o", "out"), 1, "checkpoint"),
    "quantize": (("nowhere", "--bits", "8", "-o", "out"), 1, "checkpoint"),
    "train base": (("out", "--set", "stepps=1"), 1, "runtime"),
    "train drafter": (("nowhere", "--set", "stepps=1"), 1, "runtime"),
    "train sampler": (("nowhere", "--set", "stepps=1"), 1, "runtime"),
    "run --max-new-tokens": (("x",), 2, "usage"),
    "schema --nothing": ((), 2, "usage"),
    "nothing": ((), 2, "usage"),
}


@pytest.mark.parametrize("name", ILL)
def test_a_mistake_is_one_document_beside_what_is_said(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, code, word = ILL[name]
    found = nldc(*name.split(" "), *arguments, "--json")
    assert found.exit_code == code, found.output
    (mistake,) = document(found)["diagnostics"]
    assert list(mistake) == [
        *("code", "severity", "message", "file", "place", "labels", "help", "notes"),
    ]
    assert mistake["code"] == word
    assert " ".join(mistake["message"].split()[:2]) in " ".join(found.stderr.split())


def test_every_command_is_tried_with_the_option() -> None:
    elsewhere = {"schema"}
    assert set(COMMANDS) - set(WELL) - set(ILL) - elsewhere == set()


def test_mistakes_of_a_file_have_their_place_in_both_forms(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("nldc: 1\nname: bad\nsumary: x\n")
    whole = document(nldc("check", file, "ar", "--json"))
    assert whole["diagnostics"] == json.loads(nldc("check", file, "--format", "json").stdout)
    assert [each["name"] for each in whole["strategies"]] == ["ar"]
    first = whole["diagnostics"][0]
    assert (first["file"], first["place"]) == (str(file), [1, 1])


def test_two_that_differ_are_told_apart_by_what_is_ok() -> None:
    same, other = (document(nldc("diff", "ar", each, "--json")) for each in ("ar", "linear_ss"))
    assert same["ok"]
    assert not same["nodes"]
    assert not other["ok"]
    assert other["are_exact"]
    assert {"node": "step.block", "key": None, "a": None, "b": "rows"} in other["nodes"]


def test_a_stage_is_a_text_in_its_document() -> None:
    found = document(nldc("compile", "ar", "--emit", "graph", "--json"))
    assert found["text"] == nldc("compile", "ar", "--emit", "graph").stdout


def test_the_schema_is_json_with_the_option_and_without() -> None:
    assert nldc("schema", "--json").stdout == nldc("schema").stdout


def test_each_turn_of_a_conversation_is_a_line_and_so_is_a_mistake(folder: Path) -> None:
    text = "a = 1\n/stats\n/nothing\n"
    found = nldc("chat", folder / "ar", *SHORT, "--json", input=text)
    turn, end = map(json.loads, found.stdout.splitlines())
    assert turn["message"] == "a = 1"
    assert turn["answer"]
    assert turn["stats"]["tokens"] == 4
    assert (end["ok"], end["diagnostics"][0]["code"]) == (False, "prompt")
    assert "4 tokens in" in found.stderr


def test_a_server_that_listens_says_where(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nldc.serve import run

    monkeypatch.setattr(run, "run", lambda _app, _place, begun: begun(4321))
    found = document(nldc("serve", folder / "ar", "--port", "0", "--json"))
    assert found["url"] == "http://127.0.0.1:4321/v1"
    assert found["strategies"] == ["ar"]


@pytest.mark.parametrize(
    ("raised", "code", "word"),
    [
        (RuntimeError("oh"), INTERNAL, "internal"),
        (KeyboardInterrupt(), INTERRUPTED, "interrupted"),
        (OSError(28, "No space left on device"), 1, "machine"),
    ],
)
def test_what_is_no_mistake_of_the_user_is_a_document_too(
    raised: BaseException, code: int, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nldc import api

    def fail(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr(api, "check", fail)
    found = nldc("diff", "ar", "ar", "--json")
    assert found.exit_code == code
    assert document(found)["diagnostics"][0]["code"] == word


def test_a_word_behind_two_dashes_is_no_option() -> None:
    found = nldc("check", "--nothing", "--", "--json")
    assert (found.exit_code, found.stdout) == (2, "")


def test_numbers_that_are_none_are_null() -> None:
    assert plain({"a": (float("nan"), 1.5), 2: float("-inf")}) == {"a": [None, 1.5], "2": None}
