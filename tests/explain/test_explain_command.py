"""`nldc explain` as it is typed: what it prints, what it writes, and what it refuses."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from nldc.cli import cli

DIAGNOSTICS = Path(__file__).parents[1] / "diagnostics"
BROKEN = DIAGNOSTICS / "NLD103_verifier_sees_masks"


def nldc(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def test_it_is_short_by_default_and_all_of_it_with_full() -> None:
    short, full = nldc("explain", "linear_ss"), nldc("explain", "linear_ss", "--full")
    assert short.exit_code == full.exit_code == 0
    assert "exact: every token that comes out" in short.stdout
    assert "╭ checked" in short.stdout
    assert "floor" not in short.stdout
    assert full.stdout.startswith("linear_ss: A bidirectional")
    assert "proved exact for these params, in 16 outcomes:" in full.stdout
    assert "\x1b" not in short.stdout


@pytest.mark.parametrize("device", ["h100", "h200", "a100", "cpu"])
def test_a_device_adds_cost_and_floor(device: str) -> None:
    found = nldc("explain", "ar", "--device", device, "--geometry", "3b")
    assert found.exit_code == 0, found.output
    dtype = "float32" if device == "cpu" else "bfloat16"
    assert f"forwards, on {device}, 3b in {dtype}: 1 sequence" in found.stdout
    assert "floor" in found.stdout


def test_a_promise_that_is_not_kept_is_drawn_all_the_same(tmp_path: Path) -> None:
    bad, page = BROKEN / "bad.yaml", tmp_path / "a.html"
    expected = (BROKEN / "expected.txt").read_text("utf-8").splitlines()
    short = nldc("explain", bad)
    assert short.exit_code == 1
    assert "it promises `exact`, which is not proved" in short.stdout
    assert "╭ both " in short.stdout
    assert "!     0 draft +0  ■     ■!□" in short.stdout
    assert [line for line in expected if "-->" not in line] == [
        line for line in short.stderr.splitlines()[: len(expected)] if "-->" not in line
    ]
    drawn = nldc("explain", bad, "--html", page)
    assert drawn.exit_code == 1
    assert "which is not proved" in page.read_text("utf-8")
    asked = nldc("explain", bad, "--json")
    assert asked.exit_code == 1
    document = json.loads(asked.stdout)
    assert not document["ok"]
    assert [each["code"] for each in document["diagnostics"]] == ["NLD103"]
    assert document["promise"]["exact"] is False
    assert document["forwards"]
    assert asked.stderr == short.stderr


FAR = """nldc: 1
name: far
summary: The first verifier row sees one far behind it, which is not the last.
guarantee: exact
params:
  n: {type: int, default: 64, min: 8, max: 64}
prefill:
  context: {op: forward, tokens: $prompt, attention: causal, cache: append}
  seed:    {op: sample, logits: context.last}
  emit:    {tokens: seed}
carry: {seed: prefill.seed}
step:
  found:   {op: lookup, length: n, ngram: 2}
  block:   {op: rows, segments: [{tokens: seed}, {tokens: found}]}
  checked:
    op: forward
    tokens: block
    attention: k.prefix or k.row <= q.row or k.row == n - 3
    cache: append
  choice:  {op: sample, logits: checked}
  kept:    {op: accept, draft: block, target: choice, rule: longest_prefix}
  emit:    {tokens: kept.tokens, cache: keep kept.rows, next: {seed: kept.bonus}}
"""


@pytest.mark.parametrize("columns", [40, 80])
def test_the_row_and_the_cell_that_a_mistake_names_are_drawn(tmp_path: Path, columns: int) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(FAR, encoding="utf-8")
    text = in_a_terminal(columns, "explain", str(bad), code=1, NO_COLOR="1")
    assert "row 0, at offset 0, sees row 61 at offset 61" in " ".join(text.split())
    lines = [line.rstrip() for line in text.partition("error[")[0].splitlines()]
    assert max(map(len, lines)) <= columns
    (row,) = (line for line in lines if line.startswith("  !"))
    assert row.split()[1] == "0"
    assert row.count("!") == 2
    assert any(line.split()[:1] == ["61"] for line in lines)
    assert "! a mistake names this row" in " ".join(text.split())
    assert "0-38, 61 of 65 are drawn" in " ".join(text.split())


def test_what_has_no_graph_is_told_as_check_tells_it() -> None:
    bad = DIAGNOSTICS / "NLD070_no_emit" / "bad.yaml"
    found = nldc("explain", bad)
    assert (found.exit_code, found.stdout) == (1, "")
    assert found.stderr == nldc("check", bad).stderr


def test_a_page_and_a_picture_are_written(tmp_path: Path) -> None:
    html, svg = tmp_path / "a.html", tmp_path / "a.svg"
    for _ in range(2):  # the second time they are replaced
        found = nldc("explain", "linear_ss", "--html", html, "--svg", svg, "--device", "h200")
        assert found.exit_code == 0, found.output
        assert found.stdout == f"wrote {html}\nwrote {svg}\n"
    assert html.read_text("utf-8").startswith("<!doctype html>")
    assert "On h200, 8b in bfloat16" in html.read_text("utf-8")
    assert svg.read_text("utf-8").startswith("<svg ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "a.svg"]


def test_a_place_that_cannot_be_written_is_one_error_and_leaves_nothing(tmp_path: Path) -> None:
    for bad, said in (
        (tmp_path / "none" / "a.html", "no such file or directory"),
        (tmp_path, "is no plain file"),
        ("/dev/null", "is no plain file"),
    ):
        found = nldc("explain", "ar", "--html", bad)
        assert found.exit_code == 1
        assert said in found.stderr
        assert "Traceback" not in found.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_holds_something_else_is_not_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("nldc: 1\n", encoding="utf-8")
    found = nldc("explain", "ar", "--svg", file)
    assert found.exit_code == 1
    assert "holds something else" in found.stderr
    assert file.read_text("utf-8") == "nldc: 1\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("ar", "--html", "x", "--svg", "x"), "name the same file"),
        (("ar", "--full", "--html", "x"), "--full is for the terminal"),
        (("NLD101", "--html", "x"), "is an error code"),
        (("NLD101", "--full"), "is an error code"),
        (("ar", "--flat", "--svg", "x"), "leave the other options out"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    arguments: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = nldc("explain", *arguments)
    assert found.exit_code == 2
    assert said in " ".join(found.stderr.split())
    assert list(tmp_path.iterdir()) == []


def in_a_terminal(columns: int, *arguments: str, code: int = 0, **environment: str) -> str:
    """What a terminal of so many columns is given; by default, `linear_ss` explained."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environ = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS", "LINES")}
    command = [sys.executable, "-m", "nldc", *(arguments or ("explain", "linear_ss"))]
    process = subprocess.Popen(
        command, stdout=theirs, stderr=theirs, env={**environ, **environment}
    )
    os.close(theirs)
    text = b""
    with suppress(OSError):  # Linux says so when the other end is closed
        while chunk := os.read(ours, 4096):
            text += chunk
    os.close(ours)
    assert process.wait() == code
    return text.decode()


def test_a_terminal_gets_colours_and_its_width_unless_it_wants_none() -> None:
    coloured = in_a_terminal(60)
    assert "\x1b[34m" in coloured
    plain = in_a_terminal(60, NO_COLOR="1")
    assert "\x1b" not in plain
    assert max(len(line.rstrip("\r")) for line in plain.split("\n")) <= 60
