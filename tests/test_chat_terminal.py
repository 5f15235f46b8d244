"""`nldc chat` as users meet it: from a pipe, and in a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from nldc.cli import cli

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 45.0
EVIL = "be evil"
THINKS = (
    "{% for m in messages %}{{ m.content }}"
    f"{{% if m.content == '{EVIL}' %}}{{{{ raise_exception('\x1b]0;evil\x07') }}}}{{% endif %}}"
    "{% endfor %}<unk>"
)
MARKS = ("--start-think-token-id", "0", "--end-think-token-id", "1", "--max-thinking-tokens", "5")


def nldc(*arguments: str | Path, input: str | bytes | None = None) -> Result:  # noqa: A002
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], input=input)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifacts") / "two"
    done = nldc("compile", "linear_ss", "ar", "--no-certify", "-o", folder)
    assert done.exit_code == 0, done.output
    return folder


@pytest.fixture(scope="module")
def thinking(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Options by which the demo model begins every answer with a thought of five tokens."""
    path = tmp_path_factory.mktemp("templates") / "thinks.jinja"
    path.write_text(THINKS)
    return ("--chat-template", str(path), *MARKS)


# A pipe


def chat(artifact: Path, text: str | bytes, *options: str) -> Result:
    return nldc("chat", artifact, "--max-new-tokens", "10", *options, input=text)


def test_each_line_of_a_pipe_is_a_turn(artifact: Path) -> None:
    alone = nldc("run", artifact, "--chat", "a = 1", "--max-new-tokens", "10", "--quiet").stdout
    found = chat(artifact, "a = 1\n\n/reset\na = 1\n/strategy ar\n/reset\na = 1\n", "--quiet")
    assert found.exit_code == 0, found.output
    assert found.stdout == alone * 3
    assert found.stderr == ""


def test_a_cut_answer_and_its_cost_are_told(artifact: Path) -> None:
    found = chat(artifact, "/stats\n/strategy\na = 1\n/stats\n/help\n/quit\nnever\n")
    assert found.exit_code == 0, found.output
    lines = found.stdout.splitlines()
    assert lines[:2] == [
        "there is no answer yet",
        "linear_ss, ar; linear_ss answers unless another is chosen",
    ]
    assert any(line.startswith("10 tokens in ") for line in lines)
    assert "the model knows 1 turn" in lines
    assert any(line.startswith("/system [TEXT]") for line in lines)
    assert found.stderr.splitlines() == [
        (
            "note: the demo model goes on with source code and answers nothing: "
            "--model DIR for another"
        ),
        "note: the answer was cut after 10 tokens: --max-new-tokens allows more",
    ]
    assert "\x1b" not in found.output


def test_a_system_message_is_told_until_it_is_taken_back(artifact: Path) -> None:
    def alone(*options: str) -> str:
        options = ("--max-new-tokens", "10", "--quiet", *options)
        return nldc("run", artifact, "--chat", "a", *options).stdout

    found = chat(artifact, "/system import os\na\n/reset\n/system\na\n", "--quiet").stdout
    assert found == alone("--system", "import os") + alone()


def test_thoughts_have_a_line_of_their_own_where_nothing_is_dimmed(
    artifact: Path, thinking: tuple[str, ...]
) -> None:
    found = chat(artifact, "def f(a):\n", "--quiet", *thinking)
    assert found.exit_code == 0, found.output
    assert re.fullmatch(r"thinking: \S.*\nanswer: \S.*\n", found.stdout, re.DOTALL)


def test_forgotten_turns_are_told(artifact: Path) -> None:
    long = "x = 1 " * 520
    found = chat(artifact, f"{long}\n{long}\n", "--max-new-tokens", "4")
    assert found.exit_code == 0, found.output
    assert "note: the oldest turn no longer fit" in found.stderr


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("/strategi ar\n", (), "no command /strategi\nhelp: did you mean /strategy?"),
        ("/strategy nowhere\n", (), "nowhere"),
        ("/param threshold=0.5\n", (), "no param 'threshold'"),
        ("/param threshold\n", (), "gives no param a number"),
        ("//etc/passwd\n/x\n", (), "no command /x\n"),
        ("x = 1 " * 4000 + "\n", (), "the model's context of 4096"),
        ("a\n", ("--max-new-tokens", "5000"), "the model's context of 4096"),
        (b"\xff\n", (), "not UTF-8"),
        ("a\n", ("--template-var", "b=1"), "makes no use of `b`"),
        ("a\n", ("--temperature", "-1"), "--temperature -1.0 is not allowed"),
    ],
)
def test_the_first_mistake_of_a_pipe_ends_it(
    artifact: Path, text: str | bytes, options: tuple[str, ...], message: str
) -> None:
    found = chat(artifact, text, *options)
    assert found.exit_code == 1
    assert message in found.stderr
    assert "Traceback" not in found.output


# A terminal


class Terminal:
    """A command with a terminal of its own, as wide as asked for."""

    def __init__(self, arguments: list[str], columns: int, **environment: str) -> None:
        self.master, self.slave = pty.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        # a leader of a session gets the first terminal that it opens, and its signals
        own = ["sh", "-c", 'exec "$@" <"$0" >"$0" 2>&1', os.ttyname(self.slave), sys.executable]
        self.process = subprocess.Popen(
            [*own, "-m", "nldc", *arguments],
            start_new_session=True,
            # tests that run in the background have it ignored, and a child would inherit that
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            cwd=ROOT,
            env={**os.environ, "TERM": "xterm", "PYTHONPATH": str(ROOT), **environment},
        )
        self.shown = ""

    def interrupt_until(self, pattern: str, patience: float = 1.0) -> str:
        """Press Ctrl-C until a pattern comes.

        Python's readline loses a signal that comes after it has shown a key and before it waits
        for the next one, as everybody knows who has pressed Ctrl-C twice; and where one comes while
        Python calls what nobody may interrupt (a finalizer, a callback from C), it is let go.
        """
        for _ in range(int(PATIENCE)):
            self.type("\x03")
            with suppress(AssertionError):
                return self.until(pattern, patience)
        raise AssertionError(f"Ctrl-C brings no {pattern!r} in {self.shown!r}")

    def until(self, pattern: str, patience: float = PATIENCE) -> str:
        """Return what comes up to and with a pattern, which must come."""
        end = time.monotonic() + patience
        while not (found := re.search(pattern, self.shown)):
            left = end - time.monotonic()
            assert left > 0, f"no {pattern!r} in {self.shown!r}"
            if select.select([self.master], [], [], left)[0]:
                self.shown += os.read(self.master, 4096).decode("utf-8", "replace")
        text, self.shown = self.shown[: found.end()], self.shown[found.end() :]
        return text

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def leave(self) -> int:
        self.until("> ")  # typed before, it would not be the end of a line that is being edited
        self.type("\x04")
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)
        os.close(self.slave)  # while it is open, the master can be read before the command begins


Opened = Callable[..., Terminal]


@pytest.fixture
def terminal(artifact: Path) -> Iterator[Opened]:
    opened: list[Terminal] = []

    def open_one(*options: str, columns: int = 80, **environment: str) -> Terminal:
        plain = {name: "" for name in ("NO_COLOR", "COLUMNS") if name not in environment}
        arguments = ["chat", str(artifact), "--device", "cpu", *options]
        opened.append(Terminal(arguments, columns, **plain, **environment))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


def test_thoughts_are_dimmed_ctrl_c_ends_an_answer_and_nothing_is_obeyed(
    terminal: Opened, thinking: tuple[str, ...]
) -> None:
    screen = terminal("--max-new-tokens", "3500", *thinking)
    screen.until("> ")
    screen.type("def f(a):\r")
    shown = screen.until(r"\x1b\[2m\S[^\x1b]*\x1b\[0m\s+[^\s\x1b]")
    shown += screen.interrupt_until(r" \[interrupted\]\s+(\x1b\[\S+)?> ", patience=15.0)
    assert "thinking:" not in shown
    screen.type("/stats\r")
    screen.until(r"the model knows 1 turn\s+(\x1b\[\S+)?> ")
    screen.type("half a line")
    screen.until("half a line")
    screen.interrupt_until("> ")
    screen.type(f"{EVIL}\r")
    shown = screen.until("help.*: see the model's chat template")
    assert r"\x1b]0;evil\x07" in shown
    assert "\x1b]0;evil" not in shown
    assert screen.leave() == 0


@pytest.mark.long
def test_no_color_and_narrow_terminals_are_respected(
    terminal: Opened, thinking: tuple[str, ...]
) -> None:
    screen = terminal("--max-new-tokens", "12", *thinking, columns=40, NO_COLOR="1")
    screen.until("> ")
    screen.type("def f(a):\r")
    shown = screen.until(r"--max-new-tokens\s+allows\s+more")
    assert "thinking: " in shown
    assert "answer: " in shown
    assert not re.search(r"\x1b\[[\d;]*m", shown)
    screen.type("/help\r")
    shown = screen.until("is marked there.|marked\\s+there.")
    lines = shown[shown.index("/strategy [") :].splitlines()
    assert len(lines) > 7
    assert max(map(len, lines)) < 40
    assert screen.leave() == 0
