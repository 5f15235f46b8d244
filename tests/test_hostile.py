"""Small files that cost little, text that a terminal does not obey, and errors that are words."""

from __future__ import annotations

import errno
import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from nldc import api
from nldc.cli import cli
from nldc.cli.group import in_words
from nldc.cli.output import visible, write
from nldc.diagnostics import StrategyError
from nldc.gguf_tokenizer import Vocabulary, choose_mask
from nldc.render import MAX_SHOWN, render_text
from nldc.reuse import parse
from nldc.runtime.checkpoint.tensors import TensorFile
from nldc.runtime.checkpoint.weights import open_files
from nldc.runtime.errors import CheckpointError
from nldc.runtime.json_file import parse_json
from nldc.source import MAX_FOUND

AR = api.library()["ar"].read_text(encoding="utf-8")
HEAD = AR[: AR.index("step:")]


def seconds(work: Callable[[], object]) -> float:
    """The time of this process, whatever else the machine does."""
    began = time.process_time()
    work()
    return time.process_time() - began


def check(text: str) -> tuple[object, ...]:
    try:
        api.check_source(parse(text, "x.yaml"))
    except StrategyError as error:
        render_text(error.diagnostics, lambda _: text)
        return error.diagnostics
    return ()


BIG = {
    "unknown names": HEAD
    + "step:\n"
    + "".join(f"  n{n}: {{sample: of_{n}}}\n" for n in range(3000)),
    "unknown keys": AR + "".join(f"key_{n}: 1\n" for n in range(3000)),
    "tags": "".join(f"a{n}: !t x\n" for n in range(4000)),
    "anchors": "".join(f"a{n}: &a{n} x\n" for n in range(6500)),
    "twice the same key": "abcdefgh: 1\n" * 6200,
    "spaces in quotes": AR.replace("k.row <= q.row", '"' + " " * 250_000 + "("),
    "spaces in a value": AR.replace("name: ar", 'name: "' + " " * 250_000 + '\\q"'),
}


@pytest.mark.parametrize("what", BIG)
def test_a_file_full_of_mistakes_takes_seconds(what: str) -> None:
    assert len(BIG[what]) <= 256 * 1024 + 500
    assert seconds(lambda: check(BIG[what])) < 8


def test_only_the_first_of_many_mistakes_are_shown() -> None:
    found = check(BIG["anchors"])
    assert len(found) == MAX_FOUND
    text = render_text(found, lambda _: BIG["anchors"])  # type: ignore[arg-type]
    assert text.count("error[") == MAX_SHOWN
    assert f"and {MAX_FOUND - MAX_SHOWN} more" in text


@pytest.mark.parametrize("count", [MAX_FOUND - 1, MAX_FOUND])
def test_mistakes_up_to_the_limit_and_a_syntax_error_behind_them(count: int) -> None:
    text = "".join(f"a{n}: &a{n} x\n" for n in range(count)) + "b: ]\n"
    assert len(check(text)) == MAX_FOUND


@pytest.mark.parametrize(
    ("escape", "message"),
    [
        ("\\UFFFFFFFF", "does not exist"),
        ("\\U00110000", "does not exist"),
        ("\\ud800", "U+D800"),
        ("\\x1b[2J", "U+001B"),
        ("\\0", "U+0000"),
        ("\\u202e", "U+202E"),
    ],
)
def test_an_escape_cannot_bring_in_what_is_refused_as_itself(escape: str, message: str) -> None:
    text = AR.replace("name: ar", f'name: ar\nsummary: "x {escape}"', 1)
    (found,) = (d for d in check(text) if message in d.message)  # type: ignore[attr-defined]
    span = found.span  # type: ignore[attr-defined]
    assert text.splitlines()[span.start_line - 1].startswith("summary")


@pytest.mark.parametrize(
    "entry",
    [
        '{"dtype":"F32","shape":[1],"data_offsets":[0,1e999]}',
        '{"dtype":"F32","shape":5,"data_offsets":[0,4]}',
        '{"dtype":"F32","shape":[1e999],"data_offsets":[0,4]}',
        '{"dtype":"F32","shape":[true],"data_offsets":[0,4]}',
        '{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}',
        '{"dtype":["F32"],"shape":[1],"data_offsets":[0,4]}',
        '{"dtype":"F32","shape":[1],"data_offsets":"04"}',
        '{"dtype":"F32","shape":[1]}',
        "[]",
        "null",
    ],
)
def test_a_header_that_describes_a_tensor_wrongly_is_an_error(tmp_path: Path, entry: str) -> None:
    text = f'{{"t": {entry}}}'.encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    wrong = r"describes (the )?tensor ['`]t['`] wrongly|is no safetensors file"
    with pytest.raises(CheckpointError, match=wrong):
        TensorFile.open(path)


@pytest.mark.parametrize("places", ['{"t": 1}', '{"t": null}', '{"t": ["x"]}', "[]", "1", '"x"'])
def test_an_index_that_names_no_files_is_an_error(tmp_path: Path, places: str) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(f'{{"weight_map": {places}}}')
    with pytest.raises(CheckpointError, match="holds no weight_map"):
        open_files(tmp_path)


FIELDS = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "llama-bpe",
    "tokenizer.ggml.tokens": ["a", "b"],
    "tokenizer.ggml.merges": [],
}


@pytest.mark.parametrize(
    "field",
    [
        {"tokenizer.ggml.pre": ["llama-bpe"]},
        {"tokenizer.ggml.pre": 3},
        {"tokenizer.ggml.token_type": 3},
        {"tokenizer.ggml.token_type": "ab"},
        {"tokenizer.ggml.token_type": [1.5, 1.5]},
        {"tokenizer.ggml.tokens": "ab"},
    ],
)
def test_fields_of_another_kind_are_errors(field: dict[str, object]) -> None:
    with pytest.raises(CheckpointError):
        Vocabulary.of({**FIELDS, **field})


def test_a_reserved_token_of_any_length_costs_little() -> None:
    tokens = ["<reserved" + "1" * 30_000, "<|reserved_special_token_0|>", "a"]
    fields = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": [3, 3, 1]}
    vocabulary = Vocabulary.of({**FIELDS, **fields})
    assert seconds(lambda: choose_mask(vocabulary)) < 1
    assert choose_mask(vocabulary) == 1


# Terminals and pipes

ODD = "a\x1b[31mb\x07c\u202ed\r\x9b\u2028\ud800\tok\n"


def test_what_a_terminal_obeys_is_written_as_escapes() -> None:
    shown = visible(ODD)
    assert shown == "a\\x1b[31mb\\x07c\\u202ed\\r\\x9b\\u2028\\ud800\tok\n"
    assert visible("é 日本 👩‍👩‍👧\t\n") == "é 日本 👩‍👩‍👧\t\n"


class Terminal:
    """A stream that says it is a terminal, and remembers."""

    encoding = "utf-8"

    def __init__(self, answer: bool) -> None:
        self.answer = answer
        self.text = ""

    def isatty(self) -> bool:
        return self.answer

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_pipe_gets_text_as_it_is_and_a_terminal_without_what_it_obeys(
    monkeypatch: pytest.MonkeyPatch, is_terminal: bool
) -> None:
    stream = Terminal(is_terminal)
    monkeypatch.setattr("sys.stdout", stream)
    write(ODD, end="")
    assert stream.text == (visible(ODD) if is_terminal else ODD)


def test_text_of_a_model_reaches_a_pipe_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nldc.runtime.decoder import Decoder
    from nldc.runtime.engine.stats import Stats

    text = "before\x1b[31mred\x1b]0;title\x07after"

    def stream(*_: object, **__: object) -> object:
        yield text[:9]
        yield text[9:]
        return Stats(nfe=1, tokens=2, accepted=[], seconds=1.0, time_to_first_token=0.5)

    monkeypatch.setattr(Decoder, "stream", stream)
    out = api.compile("ar", tmp_path / "a")
    run = CliRunner().invoke(cli, ["run", str(out), "--prompt", "x", "--quiet"])
    assert run.stdout == text + "\n"


def on_a_terminal(command: list[str], **environment: str) -> bytes:
    """Run a command whose output is a terminal, and return what came."""
    own, other = pty.openpty()
    process = subprocess.Popen(
        command, stdout=other, stderr=other, stdin=other, env={**os.environ, **environment}
    )
    os.close(other)
    found = b""
    while True:
        try:
            piece = os.read(own, 4096)
        except OSError as problem:
            if problem.errno == errno.EIO:
                break
            raise
        if not piece:
            break
        found += piece
    process.wait()
    os.close(own)
    return found


@pytest.mark.parametrize("colors", [True, False])
def test_file_names_and_mistakes_on_a_terminal(tmp_path: Path, colors: bool) -> None:
    good, bad = tmp_path / "g\x1b]0;x\x07.yaml", tmp_path / "b\x1b[5m.yaml"
    good.write_text(AR)
    bad.write_text("nldc: 1\n")
    command = [sys.executable, "-m", "nldc.cli", "check", str(good), str(bad)]
    found = on_a_terminal(command, NO_COLOR="" if colors else "1")
    assert b"\x1b]0" not in found
    assert b"\x1b[5m" not in found
    assert b"\\x1b]0;x\\x07.yaml: ar is fine" in found
    assert (b"\x1b[1;31merror" in found) == colors
    found = on_a_terminal([*command[:3], "compile", str(bad)], NO_COLOR="" if colors else "1")
    assert b"\x1b[5m" not in found


# Errors


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "not enough memory"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
            "not enough memory",
        ),
        (RuntimeError("CUDA out of memory."), "not enough memory"),
        (OSError(errno.ENOSPC, "No space left on device", "x"), "x: no space left on device"),
        (Exception("No space left on device (os error 28)"), "no space left on device"),
        (ValueError("bad"), None),
        (RuntimeError("shape mismatch"), None),
        (KeyError("x"), None),
    ],
)
def test_only_a_bug_is_called_one(error: Exception, words: str | None) -> None:
    said = in_words(error)
    assert (said is None) == (words is None)
    assert said is None or (words or "") in said[0]


@pytest.mark.parametrize("moment", ["click", "yaml", "nldc.cli.authoring"])
def test_an_interrupt_while_the_command_starts_ends_it_without_a_traceback(
    tmp_path: Path, moment: str
) -> None:
    hook = tmp_path / "sitecustomize.py"
    hook.write_text(
        "import os, signal, sys\n"
        "class Hook:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {moment!r}:\n"
        "            signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "            signal.raise_signal(signal.SIGINT)\n"
        "sys.meta_path.insert(0, Hook())\n"
    )
    path = os.pathsep.join([str(tmp_path), str(Path(api.__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "-c", "from nldc.cli import main; main()", "check", "ar"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    assert "interrupted" in done.stderr


def test_a_long_value_does_not_make_a_long_message() -> None:
    problem = CheckpointError("config.json: x = " + "y" * 10_000 + " is wrong")
    assert len(problem.message) < 2000
    assert re.match(r"config\.json: x = y+ … y+ is wrong", problem.message)


@pytest.mark.parametrize(
    "text", ['"\\ud83d"', '{"\\udc00": 1}', '["a", "\\ud83d\\ud83d"]', '"\ud800"']
)
def test_half_a_character_in_json_is_refused_and_a_whole_one_is_not(text: str) -> None:
    with pytest.raises(ValueError, match="half a character"):
        parse_json(text)
    assert parse_json('"\\ud83d\\ude00 \\\\ud83d"') == "\U0001f600 \\ud83d"
