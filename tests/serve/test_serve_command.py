"""`nldc serve` as its users start and end it."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import httpx
import pytest
from click.testing import CliRunner

from nldc.cli import cli
from nldc.cli.options import loading
from nldc.cli.serving import serve
from nldc.runtime.errors import NldcRuntimeError
from nldc.serve.options import FIELDS, SAME, read_keys, settings_of
from nldc.serve.run import listen


def test_it_says_where_it_serves_and_ends_when_it_is_told(artifact: Path, model: Path) -> None:
    command = [sys.executable, "-m", "nldc", "serve", str(artifact), "--model", str(model)]
    process = subprocess.Popen(
        [*command, "--port", "0", "--temperature", "0"], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    try:
        first = next(line for line in process.stderr if line.startswith("serving"))
        place = re.search(r"http://127\.0\.0\.1:\d+/v1", first)
        assert place, first
        assert first.rstrip().endswith(f"its page at {place[0].removesuffix('v1')}")
        assert "linear_ss" in process.stderr.readline()
        body = {"model": "thinker", "prompt": "def f(", "max_tokens": 4}
        answer = httpx.post(f"{place[0]}/completions", json=body, timeout=60)
        assert answer.json()["usage"]["completion_tokens"] == 4
        process.send_signal(signal.SIGTERM)
        (line,) = process.stderr.read().splitlines()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
    assert '"path": "/v1/completions", "status": 200' in line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "holds no artifact"),
        (["{artifact}", "--host", "no.such.host.invalid"], "cannot listen on"),
        (["{artifact}", "--route", "ar"], None),
        (["{artifact}", "--route", "fast: live > 3, ar"], "has no strategy 'fast'"),
        (["{artifact}", "--model", "nowhere"], "nowhere"),
        (["{artifact}", "--chat-template", "no.jinja"], "there is no chat template `no.jinja`"),
        (["{artifact}", "--temperature", "1e-9"], "--temperature 1e-09 is not allowed"),
        (["{artifact}", "--api-key-file", "nowhere"], "cannot read nowhere"),
    ],
)
def test_a_mistake_is_one_clear_error(
    artifact: Path, arguments: list[str], said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nldc.serve.run.run", lambda *_: None)
    given = [text.replace("{artifact}", str(artifact)) for text in arguments]
    result = CliRunner().invoke(cli, ["serve", *given, "--port", "0"])
    assert result.exit_code == (0 if said is None else 1), result.output
    assert (said or "") in result.output
    assert "Traceback" not in result.output


def test_a_port_in_use_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(NldcRuntimeError, match="address already in use"):
            listen("127.0.0.1", port)


def test_keys_are_lines_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# ours\nabc\n\n  def \n")
    assert read_keys(file) == ("abc", "def")
    file.write_text("abc\n", encoding="utf-8-sig")
    assert read_keys(file) == ("abc",)
    file.write_text("# none\n")
    with pytest.raises(NldcRuntimeError, match="holds no key"):
        read_keys(file)


def test_every_option_of_the_command_is_a_setting_or_how_it_listens_loads_and_tells() -> None:
    named = {param.name for param in serve.params}
    loads = {param.name for param in loading(click.Command("any")).params}
    beside = {"name", "api_key_file", "artifacts", "as_json", "host", "port", "traced",
              "trace_size"}  # fmt: skip
    assert named == {*FIELDS, *SAME, *loads, *beside}


def test_options_become_the_settings_that_they_name() -> None:
    given: dict[str, Any] = {name: f"own {name}" for name in (*FIELDS, *SAME)}
    settings = settings_of({**given, "model": "/x/y", "name": None, "api_key_file": None})
    for name, field in (*FIELDS.items(), *((name, name) for name in SAME)):
        assert getattr(settings, field) == f"own {name}"
    assert settings.model_name == "y"


def test_an_empty_key_of_the_environment_opens_no_server(
    artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NLDC_API_KEY", " \n")
    result = CliRunner().invoke(cli, ["serve", str(artifact), "--port", "0"])
    assert result.exit_code == 1
    assert "NLDC_API_KEY is empty" in result.output
