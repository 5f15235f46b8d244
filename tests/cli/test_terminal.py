"""Commands in a real terminal: narrow ones, colours that are not wanted, bars that go."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from nldc.acceptance import Acceptance, write_acceptance

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden_checkpoints" / "random-0"
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
MARK = "=== "
SLOW = """
import importlib, sys, time
time.sleep(1)
sys.path.remove(__file__.rpartition("/")[0])
del sys.modules["torch"]
importlib.import_module("torch")
"""
ALL = """
import json, os, sys
from nldc.cli import cli
for number, words in enumerate(json.loads(sys.argv[1])):
    print(f"=== {number}", flush=True)
    try:
        cli(words, prog_name="nldc")
    except SystemExit as end:
        sys.stdout.flush()
"""
"""Runs commands one after another in one interpreter."""


def in_terminal(
    commands: list[list[str]], columns: int, folder: Path, **environment: str
) -> list[str]:
    """What each command wrote in a terminal of so many columns, both streams together."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    kept = {n: v for n, v in os.environ.items() if n not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    process = subprocess.Popen(
        [sys.executable, "-c", ALL, json.dumps(commands)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=folder,
        env={**kept, "PYTHONPATH": str(ROOT), "TERM": "xterm", **environment},
    )
    os.close(theirs)
    said = b""
    while True:
        try:
            piece = os.read(ours, 1 << 16)
        except OSError:  # nobody holds the other end any more
            break
        if not piece:
            break
        said += piece
    os.close(ours)
    assert process.wait() == 0, said.decode()
    parts = said.decode().replace("\r\n", "\n").split(MARK)[1:]
    assert len(parts) == len(commands)
    return [part.partition("\n")[2] for part in parts]


def shown(text: str) -> list[str]:
    """The lines that stay on the screen: what a bar drew and took away is not among them."""
    lines, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", text):
        if part == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif part == "\r":
            column = 0
        elif part == "\x1b[2K":
            lines[row] = ""
        elif up := re.fullmatch(r"\x1b\[(\d*)A", part):
            row -= int(up[1] or 1)
        elif not part.startswith("\x1b"):
            kept = lines[row].ljust(column)
            lines[row] = kept[:column] + part + kept[column + len(part) :]
            column += len(part)
    return [line.rstrip() for line in lines]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("terminal")
    write_acceptance(
        Acceptance("linear_ss", {"block_length": 32}, {1: 10, 2: 30}, {}, 32), folder / "p.json"
    )
    for name in ("NLD031_unknown_param", "NLD105_bidirectional_verifier", "NLD022_misspelt_node"):
        text = (ROOT / "tests" / "diagnostics" / name / "bad.yaml").read_text("utf-8")
        (folder / f"{name}.yaml").write_text(text)
    return folder


SHORT = ("--model", str(GOLDEN), "--max-new-tokens", "4")
COUNT = ("--count", "1")
# Every line of these is of a table or of a mistake, or one of SENTENCES.
DECODING = [
    ["strategies"],
    ["doctor"],
    ["compile", "linear_ss", "ar", "--no-certify", "-o", "two"],
    ["run", "two", "--ids", "1,2", "--logprobs", "3", *SHORT],
    ["bench", "ar", "--repeats", "1", *COUNT, *SHORT],
    ["sol", "ar", "--block-length", "2", *COUNT, *SHORT],
    ["verify", "two", *COUNT, *SHORT],
]
TABLES = [
    ["check", "NLD031_unknown_param.yaml", "NLD105_bidirectional_verifier.yaml"],
    ["check", "NLD022_misspelt_node.yaml"],
    ["diff", "linear_ss", "quadratic_ss"],
    ["tune", "ar", "--device", "h100", "--acceptance", "nowhere.json"],
    ["compile", "linear_ss", "ar", "--no-certify", "-o", "two"],
    ["tune", "linear_ss", "--device", "h100", "--acceptance", "p.json"],
    ["run", "nowhere", "--prompt", "a"],
    ["chat", "nowhere"],
    ["verify", "two", "--max-new-tokens", "0"],
    ["certify", "nowhere"],
    ["export", "nowhere", "-o", "out"],
    ["quantize", "nowhere", "--bits", "8", "-o", "out"],
    ["import-gguf", "nowhere", "-o", "out"],
    ["batch", "nowhere", "-o", "out.jsonl", "--artifact", "two"],
    ["serve", "nowhere"],
    ["train", "base", "out", "--set", "stepps=1"],
    ["init", "not-a-name"],
]
SENTENCES = re.compile(
    r"(wrote |step: at most|between steps|linear_ss: |ar: |ar \d|the profile|threads|--set |"
    r".*NLD\d+` tells more|.*tokens/s, the first|.*forwards?: |nldc |accepted |cpu |  not from)"
)
"""Lines that are sentences: a terminal wraps them where it likes."""


def is_whole(line: str) -> bool:
    """Whether a line is wider than the terminal for what may not be cut: a place, one word."""
    words = re.sub(r"^(error|help|note): ", "", line).split()
    return line.lstrip().startswith(("--> ", "::: ")) or len(words) == 1


def too_wide(commands: list[list[str]], columns: int, folder: Path) -> list[tuple[str, str]]:
    """The lines of commands that do not fit, beside the command; each must write something."""
    found = []
    for words, text in zip(commands, in_terminal(commands, columns, folder), strict=True):
        lines = shown(text)
        assert any(lines), words
        found += [
            (words[0], line)
            for line in lines
            if len(line) > columns and not SENTENCES.match(line) and not is_whole(line)
        ]
    return found


def test_tables_and_mistakes_fit_a_narrow_terminal(folder: Path) -> None:
    assert too_wide(TABLES, 40, folder) == []


@pytest.mark.long
@pytest.mark.parametrize("columns", [40, 60])
def test_tables_of_commands_that_decode_fit_too(columns: int, folder: Path) -> None:
    assert too_wide([*DECODING, *TABLES], columns, folder) == []


def test_colours_come_as_they_are_wanted(folder: Path) -> None:
    check = ["check", "NLD031_unknown_param.yaml"]
    (painted,) = in_terminal([check], 80, folder)
    assert "\x1b[1;31merror[NLD031]" in painted
    for unwanted in ({"NO_COLOR": "1"}, {"TERM": "dumb"}, {"NO_COLOR": "1", "FORCE_COLOR": "1"}):
        (plain,) = in_terminal([check], 80, folder, **unwanted)
        assert "\x1b[" not in plain
        assert plain == ESCAPES.sub("", painted)


def test_a_pipe_has_no_colours_unless_they_are_forced_and_no_width(folder: Path) -> None:
    command = [sys.executable, "-m", "nldc.cli", "check", "NLD031_unknown_param.yaml"]
    env = {n: v for n, v in os.environ.items() if n not in ("NO_COLOR", "FORCE_COLOR")}
    env |= {"PYTHONPATH": str(ROOT), "COLUMNS": "30"}
    plain, forced = (
        subprocess.run(
            command, capture_output=True, text=True, cwd=folder, env={**env, **more}, check=False
        ).stderr
        for more in ({}, {"FORCE_COLOR": "1"})
    )
    assert "\x1b[" not in plain
    assert "\x1b[1;31merror[NLD031]" in forced
    assert ESCAPES.sub("", forced) == plain
    assert max(map(len, plain.splitlines())) > 30


# How far something is


def test_a_bar_is_drawn_after_a_while_and_goes(folder: Path) -> None:
    (text,) = in_terminal([["strategies"]], 80, folder)
    assert re.search(r"checking .*%", ESCAPES.sub("", text))
    assert not any(re.search(r"checking .*%", line) for line in shown(text))
    assert re.search(r"\x1b\[[0-9;]*3[0-9]", text)
    (plain,) = in_terminal([["strategies"]], 80, folder, NO_COLOR="1")
    assert re.search(r"checking .*%", ESCAPES.sub("", plain))
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", plain)


def test_a_pipe_gets_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    from nldc.cli import output

    monkeypatch.setattr(output, "BAR_AFTER", 0.0)
    with output.counting("counting") as progress:
        assert progress is None


class Screen(io.StringIO):
    """A terminal that keeps what is written to it."""

    def isatty(self) -> bool:
        return True


def test_who_waits_for_what_nobody_counts_is_told_for_what(monkeypatch: pytest.MonkeyPatch) -> None:
    from nldc.cli import output

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(output, "BAR_AFTER", 0.0)
    monkeypatch.setattr(sys, "stderr", screen := Screen())
    with output.waiting("starting torch"):
        ended = time.monotonic() + 10
        while "starting torch" not in screen.getvalue() and time.monotonic() < ended:
            time.sleep(0.01)
    assert "starting torch" in screen.getvalue()
    assert "starting torch" not in screen.getvalue().rpartition("\x1b[2K")[2]

    monkeypatch.setattr(output, "BAR_AFTER", 100.0)
    monkeypatch.setattr(sys, "stderr", screen := Screen())
    with output.waiting("what is quick"):
        pass
    assert screen.getvalue() == ""


def test_a_command_that_decodes_tells_that_torch_starts(folder: Path) -> None:
    (text,) = in_terminal([["verify", "nowhere"]], 80, folder, PYTHONPATH=str(slow_torch(folder)))
    assert "starting torch" in ESCAPES.sub("", text)
    assert "starting torch" not in "\n".join(shown(text))


def slow_torch(folder: Path) -> str:
    """Where Python finds a torch that takes its time and is then the real one."""
    place = folder / "slow"
    place.mkdir()
    (place / "torch.py").write_text(SLOW, encoding="utf-8")
    return f"{place}{os.pathsep}{ROOT}"


# What is told with -v


def test_steps_are_told_on_request_only(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from nldc.cli import cli

    out, again = str(tmp_path / "a"), str(tmp_path / "b")
    told = CliRunner().invoke(cli, ["-v", "compile", "ar", "-o", out]).stderr
    lines = [re.sub(r"\d+\.\d\d s", "N s", line) for line in told.splitlines()]
    assert lines[0].endswith("strategies/ar.yaml, 16 lines")
    assert [line.split()[:2] for line in lines] == [["N", "s"]] * len(lines)
    said = "\n".join(lines)
    for step in ("checked ar: graph in N s, proof in N s", "generated", "ran what was", "wrote"):
        assert step in said
    assert CliRunner().invoke(cli, ["compile", "ar", "-o", again]).stderr == ""
    ids = ["--ids", "1,2", "--model", str(GOLDEN), "--max-new-tokens", "2"]
    run = CliRunner().invoke(cli, ["--verbose", "run", out, *ids]).stderr
    assert "artifact " in run
    assert f"model {GOLDEN} in float32 on cpu" in run
    assert "backend torch: kernels for cpu are for weights of 8 and 4 bits" in run
    assert "weights " in run
    assert "artifact" not in CliRunner().invoke(cli, ["run", out, *ids]).stderr
