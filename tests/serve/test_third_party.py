"""Programs that nobody here wrote, against a live server.

`make test-serve` installs them into a folder of their own, which NLDC_CLIENTS names.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from asking import CHAT, Live, answer, said
from fastapi import FastAPI

from nldc.runtime import Decoder

pytestmark = pytest.mark.serve

CLIENTS = os.environ.get("NLDC_CLIENTS", "")
CASES = int(os.environ.get("NLDC_API_CASES", "40"))
"""Bodies of each route that schemathesis makes up, beside those that it derives from the schema."""
LONG = 12
ROWS = (
    {"context": "def fib(", "answer": "n):\n    return n"},
    {"context": "import ", "answer": "os\nimport sys"},
    {"context": "for x in", "answer": " é€🙂"},
    {"context": "class A:\n    def", "answer": " f(self):"},
    {"context": "x", "answer": " = 1"},
)


def tool(name: str) -> str:
    """The path of a program, or the test is skipped."""
    places = [Path(CLIENTS) / "bin" / name, Path(CLIENTS) / "node_modules" / ".bin" / name]
    found = next((str(place) for place in places if CLIENTS and place.exists()), None)
    if found is None:
        pytest.skip(f"{name} is not there: `make test-serve` installs it, or set NLDC_CLIENTS")
    return found


def run(
    command: Sequence[str], folder: Path, seconds: float, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    known = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL") if name in os.environ}
    alone = {**known, "HOME": str(folder), "NO_COLOR": "1", "PYTHONUTF8": "1", **(env or {})}
    return subprocess.run(
        command, cwd=folder, env=alone, capture_output=True, text=True, timeout=seconds, check=False
    )


@pytest.fixture(scope="module")
def small(apps: Any) -> Iterator[Live]:
    """A server whose answers are short."""
    few = {"new_tokens": 2, "chat_tokens": 2, "completion_tokens": 2, "sequences": 2}
    server = Live(apps(deadline=20.0, **few))
    yield server
    server.close()


def test_no_body_that_schemathesis_makes_up_is_the_servers_failure(
    small: Live, tmp_path: Path
) -> None:
    """What it says of statuses, kinds, schemas of answers and wrong bodies holds as well.

    504 is what a client gets that gives its request no time. A body that fits its schema may still
    be refused: a schema cannot say how long the model's context is.
    """
    program = tool("schemathesis")
    (tmp_path / "schemathesis.toml").write_text(
        '[checks]\nnot_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", 504]\n'
    )
    options = ["--max-examples", str(CASES), "--phases", "examples,coverage,fuzzing", "--seed", "1"]
    more = ["--checks", "all", "--exclude-checks", "positive_data_acceptance", "--no-shrink"]
    found = run(
        [program, "run", f"{small.url}/openapi.json", *options, *more, "--no-color",
         "--suppress-health-check", "all", "--continue-on-failure", "--workers", "3"],
        tmp_path,
        600 + CASES,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout[-8000:] + found.stderr[-2000:]
    counted = re.search(r"(\d+) generated, (\d+) passed", found.stdout)
    assert counted is not None, found.stdout[-4000:]
    assert int(counted[1]) == int(counted[2]) > 2 * CASES


def test_compatcanary_passes_all_that_is_supported(small: Live, tmp_path: Path) -> None:
    """Tools and structured output are not, and are refused."""
    program = tool("compatcanary")
    if shutil.which("node") is None:
        pytest.skip("node is not there")
    where = ["--base-url", f"{small.url}/v1", "--model", "demo", "--timeout", "120"]
    command = [program, "scan", *where, "--profile", "chat", "--format", "json"]
    found = run(command, tmp_path, 300)
    report = json.loads(found.stdout)
    said_of = {one["id"]: one for one in report["results"]}
    assert {name: one["status"] for name, one in said_of.items()} == {
        "models.list": "pass",
        "chat.basic": "pass",
        "chat.streaming": "pass",
        "chat.tool_call": "fail",
        "chat.structured_output": "fail",
    }
    assert "400" in json.dumps(said_of["chat.tool_call"])
    assert "400" in json.dumps(said_of["chat.structured_output"])


TASK = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: {kind}
doc_to_text: "{{{{context}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list: [{{metric: {metric}, aggregation: mean, higher_is_better: true}}]
"""
GENERATION = f"""\
generation_kwargs: {{until: ["\\n\\n"], max_gen_toks: {LONG}, temperature: 0}}
"""


def evaluated(
    folder: Path, kind: str, arguments: Mapping[str, Any], tasks: Sequence[str], *more: str
) -> dict[str, list[Any]]:
    """What lm-eval heard of each row, by task; nothing is downloaded."""
    program = tool("lm_eval")
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    texts = {
        "continued": TASK.format(
            name="continued", rows=rows, kind="generate_until", metric="exact_match"
        )
        + GENERATION,
        "scored": TASK.format(name="scored", rows=rows, kind="loglikelihood", metric="acc"),
    }
    for name in tasks:
        (folder / f"{name}.yaml").write_text(texts[name])
    given = ",".join(f"{name}={value}" for name, value in arguments.items())
    offline = dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"), "1")
    found = run(
        [program, "run", "--model", kind, "--model_args", given, "--include_path", str(folder),
         "--tasks", ",".join(tasks), "--output_path", "out", "--log_samples", *more],
        folder,
        300,
        {**offline, "HF_HOME": str(folder / "hf")},
    )  # fmt: skip
    assert found.returncode == 0, found.stdout[-4000:] + found.stderr[-4000:]
    heard = {}
    for name in tasks:
        (path,) = (folder / "out").rglob(f"samples_{name}_*.jsonl")
        samples = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        samples.sort(key=lambda sample: sample["doc_id"])
        heard[name] = [sample["resps"][0][0] for sample in samples]
        assert len(heard[name]) == len(ROWS)
    return heard


def test_lm_eval_hears_the_decoders_texts_and_loglikelihoods(
    live: Live, decoder: Decoder, model: Path, tmp_path: Path
) -> None:
    arguments = {
        "model": "demo",
        "base_url": f"{live.url}/v1/completions",
        "tokenizer": model,
        "tokenizer_backend": "huggingface",
        "max_length": 512,
    }
    tasks = ("continued", "scored")
    # its batches: loglikelihoods of several prompts in one call
    heard = evaluated(tmp_path, "local-completions", arguments, tasks, "--batch_size", "2")

    def encoded(text: str) -> list[int]:
        return decoder.tokenizer.encode(text, special=False)

    contexts = [row["context"] for row in ROWS]
    prompts = [encoded(context) for context in contexts]
    texts = decoder.generate(prompts, max_new_tokens=LONG, stop="\n\n").text
    assert heard["continued"] == texts
    # spaces at a context's end belong to what follows, as lm-eval has it
    begun = [len(encoded(context.rstrip())) for context in contexts]
    whole = [encoded(row["context"] + row["answer"]) for row in ROWS]
    scores = decoder.score(whole, from_token=begun)
    for (logprob, greedy), score in zip(heard["scored"], scores, strict=True):
        assert float(logprob) == pytest.approx(score.total, abs=1e-4)
        assert greedy == str(score.greedy)


def test_lm_eval_hears_the_answers_of_chats(app: FastAPI, live: Live, tmp_path: Path) -> None:
    arguments = {"model": "demo", "base_url": f"{live.url}{CHAT}", "num_concurrent": 2}
    heard = evaluated(
        tmp_path, "local-chat-completions", arguments, ("continued",), "--apply_chat_template"
    )
    expected = [
        answer(app, CHAT, messages=said(row["context"]), max_tokens=LONG, stop="\n\n")
        for row in ROWS
    ]
    assert heard["continued"] == [one["choices"][0]["message"]["content"] for one in expected]
