"""Whole batches in this process: the answers of `generate`, once each, whatever comes between."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from nldc import api
from nldc.batch import run
from nldc.batch.answer import Answer
from nldc.batch.output import check_output
from nldc.batch.run import batch
from nldc.batch.source import Source
from nldc.batch.worker import Plan, Worker
from nldc.cli import batching, cli
from nldc.runtime.errors import NldcRuntimeError, PromptError

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden_checkpoints" / "random-0"
PROMPTS = [f"w{n} w{n + 1} w{(7 * n) % 50}" for n in range(30)]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifacts") / "linear_ss"
    return api.compile("linear_ss", folder, {"block_length": 4}, certify=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden checkpoint with a tokenizer whose words are w0, w1, … and a chat template."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    folder = tmp_path_factory.mktemp("models") / "random"
    shutil.copytree(GOLDEN, folder)
    size = json.loads((folder / "config.json").read_text())["vocab_size"]
    words = Tokenizer(WordLevel({f"w{n}": n for n in range(size)}, unk_token="w0"))
    words.pre_tokenizer = Whitespace()
    words.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(
        "{% for message in messages %}{{ message.role }} {{ message.content }} {% endfor %}"
        "{{ messages[0].content }}"
    )
    return folder


@pytest.fixture
def plan(artifact: Path, model: Path) -> Plan:
    return Plan(str(artifact), str(model), generation={"max_new_tokens": 12}, max_live=4)


@pytest.fixture(scope="module")
def decoder(artifact: Path, model: Path) -> Any:
    return api.load(artifact).from_checkpoint(model)


def written(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_the_answers_are_those_of_generate(
    tmp_path: Path, plan: Plan, decoder: Any, temperature: float
) -> None:
    plan.generation["temperature"] = temperature
    rows = [{"prompt": prompt, "id": f"r{n}"} for n, prompt in enumerate(PROMPTS)]
    prompts, out = written(tmp_path / "p.jsonl", rows), tmp_path / "out.jsonl"
    done = batch(prompts, out, plan)
    expected = decoder.generate(PROMPTS, **plan.generation)
    found = read(out)
    assert [row["row"] for row in found] == list(range(30))
    assert [row["id"] for row in found] == [row["id"] for row in rows]
    assert [row["text"] for row in found] == expected.text
    assert [row["finish"] for row in found] == expected.finish
    assert [row["tokens"] for row in found] == [len(tokens) for tokens in expected.tokens]
    assert [row["nfe"] for row in found] == [stats.nfe for stats in expected.stats]
    assert [row["tpf"] for row in found] == [round(stats.tpf, 4) for stats in expected.stats]
    assert (done.done, done.errors, done.tokens) == (30, 0, sum(row["tokens"] for row in found))
    assert done.nfe == sum(row["nfe"] for row in found)


def test_a_row_has_options_of_its_own(tmp_path: Path, plan: Plan, decoder: Any) -> None:
    talk = [{"role": "user", "content": "w5 w6"}]
    rows: list[Any] = [
        {"prompt": "w1 w2", "max_new_tokens": 3},
        {"prompt": "w1 w2", "temperature": 0.9, "seed": 5, "sequence_id": 17},
        [1, 2],
        {"messages": talk},
        {"messages": talk, "max_new_tokens": 2},
        {"prompt": "w1 w2", "eos": [], "stop": None},
    ]
    batch(written(tmp_path / "p.jsonl", rows), tmp_path / "out.jsonl", plan)
    own: list[tuple[Any, dict[str, Any]]] = [
        ("w1 w2", {"max_new_tokens": 3}),
        ("w1 w2", {"temperature": 0.9, "seed": 5, "sequence_ids": [17]}),
        ([1, 2], {}),
        (talk, {"chat": True}),
        (talk, {"chat": True, "max_new_tokens": 2}),
        ("w1 w2", {"eos": ()}),
    ]
    for row, (prompt, options) in zip(read(tmp_path / "out.jsonl"), own, strict=True):
        expected = decoder.generate([prompt], **{**plan.generation, **options})
        assert (row["text"], row["error"]) == (expected.text[0], None)


BAD = [
    ({"prompt": "w1", "temperature": "hot"}, "temperature"),
    ({"prompt": "w1", "max_new_tokens": 10**6}, "the prompt has 1 tokens"),
    ({"prompt": ""}, "the prompt is empty"),
    ({"prompt": [10**6]}, "the token id 1000000"),
    ({"prompt": [1.5]}, "1.5"),
    ({"prompt": "w1", "strategy": "tidar"}, "tidar"),
    ({"prompt": "w1", "strategy": 3}, "strategy is no name"),
    ({"prompt": "w1", "stop": [""]}, "stop"),
    ({"prompt": "w1", "system": "s"}, "system has no effect"),
    ({"messages": [{"no": "role"}]}, ""),
    ({"messages": [{"role": "user", "content": "w1"}], "tools": 3}, ""),
    ({"prompt": "w1", "seeds": 3}, "did you mean 'seed'"),
    (7, "holds no prompt"),
]


def test_a_bad_row_is_a_row_with_its_error_and_harms_no_other(tmp_path: Path, plan: Plan) -> None:
    rows = [each for row, _ in BAD for each in ("w1 w2", row)]
    done = batch(written(tmp_path / "p.jsonl", rows), tmp_path / "out.jsonl", plan)
    found = read(tmp_path / "out.jsonl")
    assert {row["text"] for row in found[::2]} == {found[0]["text"]}
    assert all(row["error"] is None for row in found[::2])
    for row, (_, said) in zip(found[1::2], BAD, strict=True):
        assert (row["finish"], row["tokens"]) == ("error", 0)
        assert said in row["error"]
        assert row["error"]
    assert done.errors == len(BAD)


def test_a_bad_row_may_stop_the_run_which_then_goes_on(tmp_path: Path, plan: Plan) -> None:
    rows = ["w1", "w2", {"prompt": 7, "id": "bad"}, "w3"]
    prompts, out = written(tmp_path / "p.jsonl", rows), tmp_path / "out.jsonl"
    with pytest.raises(PromptError, match=r"row 2 \(bad\): the row's prompt is of another kind"):
        batch(prompts, out, plan, on_error="stop")
    assert not out.exists()
    done = batch(prompts, out, plan)
    assert done.before + done.done == 4
    assert [row["error"] is None for row in read(out)] == [True, True, False, True]


def test_what_is_wrong_for_all_rows_is_no_error_of_a_row(tmp_path: Path, plan: Plan) -> None:
    prompts = written(tmp_path / "p.jsonl", ["w1"])
    plan.generation["top_p"] = 3.0
    with pytest.raises(PromptError, match="top_p"):
        batch(prompts, tmp_path / "out.jsonl", plan)


def test_rows_that_come_back_twice_or_not_at_all_are_written_once(
    tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts, out = written(tmp_path / "p.jsonl", PROMPTS[:9]), tmp_path / "out.jsonl"
    rounds = []

    def lossy(_: Source, rows: Iterator[int]) -> Iterator[Answer]:
        undone = list(rows)
        rounds.append(len(undone))
        for row in [*undone[: len(undone) // 2 + 1], undone[0], 0]:
            yield Answer(row, None, f"round {len(rounds)}", 1, "length", 1, 1.0)

    monkeypatch.setattr(run, "_here", lambda *_: lossy)
    done = batch(prompts, out, plan)
    assert rounds == [9, 4, 1]
    assert [row["row"] for row in read(out)] == list(range(9))
    assert read(out)[0]["text"] == "round 1"
    assert (done.done, done.tokens) == (9, 9)


def test_rows_that_never_come_back_end_the_run(
    tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "_here", lambda *_: lambda *_: iter(()))
    with pytest.raises(NldcRuntimeError, match="2 rows came back without an answer"):
        batch(written(tmp_path / "p.jsonl", PROMPTS[:2]), tmp_path / "out.jsonl", plan)


def test_rows_are_read_no_faster_than_they_are_answered(plan: Plan) -> None:
    read_so_far = 0

    def rows() -> Iterator[tuple[int, bytes]]:
        nonlocal read_so_far
        for row in range(40):
            read_so_far += 1
            yield row, b'"w1 w2"'

    plan = Plan(plan.artifact, plan.model, generation=plan.generation, max_live=4, max_queue=3)
    answered = 0
    for answer in Worker(plan).answers(rows()):
        assert answer.error is None
        answered += 1
        assert read_so_far - answered <= 4 + 3 + 1
    assert answered == 40


def test_a_run_that_is_killed_goes_on_and_leaves_the_same_file(tmp_path: Path, plan: Plan) -> None:
    rows = [{"prompt": prompt, "temperature": 0.8} for prompt in PROMPTS * 3]
    prompts = written(tmp_path / "p.jsonl", rows)
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    assert command(plan, prompts, "-o", whole).exit_code == 0
    part = out.with_name("out.jsonl.part")
    given = ["batch", str(prompts), "-o", str(out), *options(plan), "--batch", "2"]
    process = subprocess.Popen([sys.executable, "-m", "nldc", *given], cwd=ROOT)
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        if part.exists() and part.stat().st_size:
            break
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept = part.read_bytes().count(b"\n")
    assert 0 < kept < len(rows), "it was killed amid its work"
    done = command(plan, prompts, "-o", out)
    assert f"{out}: {len(rows) - kept} rows, {kept} before; " in done.output
    assert out.read_bytes() == whole.read_bytes()


def test_parquet_has_the_columns_of_json(tmp_path: Path, plan: Plan) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [*({"prompt": prompt, "id": n} for n, prompt in enumerate(PROMPTS[:5])), 7]
    prompts = written(tmp_path / "p.jsonl", rows)
    plan = Plan(plan.artifact, plan.model, generation=plan.generation, token_ids=True)
    for name in ("out.jsonl", "out.parquet"):
        batch(prompts, tmp_path / name, plan)
    found = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    expected = read(tmp_path / "out.jsonl")
    assert found == [{**row, "token_ids": row.get("token_ids")} for row in expected]
    assert len(found[0]["token_ids"]) == found[0]["tokens"] > 0


def test_parquet_without_its_library_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(PromptError) as refused:
        check_output(tmp_path / "out.parquet")
    assert refused.value.hint == "pip install 'nldc[batch]'"


@pytest.mark.parametrize("name", ["out.csv", "out", "none/out.jsonl", "folder.jsonl"])
def test_an_output_that_cannot_be_written_is_refused_before_anything(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(PromptError):
        check_output(tmp_path / name)


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.part", "out.jsonl.run.json"])
def test_prompts_are_never_written_over(tmp_path: Path, plan: Plan, name: str) -> None:
    prompts = written(tmp_path / name, ["w1"])
    with pytest.raises(PromptError, match="would be written over"):
        batch(prompts, tmp_path / "out.jsonl", plan, overwrite=True)
    assert prompts.read_text() == '"w1"\n'
    assert list(tmp_path.iterdir()) == [prompts]


def test_a_run_goes_on_only_with_the_same_templates(
    tmp_path: Path, plan: Plan, model: Path
) -> None:
    prompts, out = written(tmp_path / "p.jsonl", ["w1"]), tmp_path / "out.jsonl"
    own = tmp_path / "model"
    shutil.copytree(model, own)
    given = tmp_path / "given.jinja"
    given.write_text("w1")
    mine = replace(plan, model=str(own), chat=True, templating={"chat_template": str(given)})
    batch(prompts, out, mine)
    assert batch(prompts, out, mine).before == 1
    given.write_text("w2")
    with pytest.raises(PromptError, match="another chat_template"):
        batch(prompts, out, mine)
    given.write_text("w1")
    (own / "chat_template.jinja").write_text("w3")
    with pytest.raises(PromptError, match="another model"):
        batch(prompts, out, mine)


def options(plan: Plan) -> list[str]:
    return ["--artifact", plan.artifact, "--model", str(plan.model), "--max-new-tokens", "5"]


def command(plan: Plan, *arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["batch", *map(str, arguments), *options(plan)])


def test_the_command_says_what_it_did(tmp_path: Path, plan: Plan) -> None:
    rows = ["w1 w2", {"prompt": "w3", "source": "web"}, 7]
    prompts, out = written(tmp_path / "p.jsonl", rows), tmp_path / "out.jsonl"
    done = command(plan, prompts, "-o", out, "--ignore-other-keys", "--token-ids")
    assert done.exit_code == 0, done.output
    assert f"{out}: 3 rows, 1 with an error; 10 tokens in " in done.output
    assert [len(row.get("token_ids") or ()) for row in read(out)] == [5, 5, 0]
    again = command(plan, prompts, "-o", out, "--ignore-other-keys", "--token-ids")
    assert again.output == f"{out}: 3 rows, all done before\n"
    other = command(plan, prompts, "-o", out, "--token-ids")
    assert other.exit_code == 1
    assert "begun with another ignore_other_keys" in other.output
    assert command(plan, prompts, "-o", out, "--actors", "2").exit_code == 2


def test_a_terminal_is_shown_how_far_a_run_is(
    tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = written(tmp_path / "p.jsonl", ["w1 w2", 7, "w3"])
    monkeypatch.setattr("nldc.cli.output.BAR_EVERY", 0.0)
    monkeypatch.setattr(batching, "takes_bars", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    shown = command(plan, prompts, "-o", tmp_path / "out.jsonl").output
    assert [f"{done}/3" in shown for done in (1, 2, 3)] == [True, True, True]
    assert "tokens/s, 1 with an error" in shown


def test_a_template_is_given_what_the_command_says(tmp_path: Path, plan: Plan) -> None:
    rows = ["w1", {"messages": [{"role": "user", "content": "w1"}]}]
    prompts = written(tmp_path / "p.jsonl", rows)
    found = {}
    for name, options in (("plain", ()), ("chat", ("--chat",)), ("system", ("--system", "w7"))):
        out = tmp_path / f"{name}.jsonl"
        assert command(plan, prompts, "-o", out, *options).exit_code == 0
        found[name] = [row["text"] for row in read(out)]
    assert found["chat"][0] == found["chat"][1] == found["plain"][1]
    assert found["plain"][0] == found["system"][0] != found["chat"][0]
    assert found["system"][1] != found["plain"][1]
