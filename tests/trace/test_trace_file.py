"""The file of a trace comes back as it was written, and nothing else is taken for one."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from nldc.cli import cli
from nldc.runtime.errors import TraceError
from nldc.trace.chrome import chrome_of
from nldc.trace.document import Trace
from nldc.trace.file import as_data, parse_trace, read_trace, write_trace
from nldc.trace.page import page_of
from nldc.trace.text import lines_of
from tests.trace.conftest import Compiled, Watch


@pytest.fixture(scope="module")
def trace(watched: Watch) -> Trace:
    found, _ = watched("linear_ss").run([[1, 38, 26], [5]], {"max_new_tokens": 6})
    return found


def test_a_trace_comes_back_as_it_was(trace: Trace, tmp_path: Path) -> None:
    write_trace(trace, tmp_path / "t.json")
    assert read_trace(tmp_path / "t.json") == trace


def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in data whose keys are the format's own; of lists, the first item."""
    yield path
    if isinstance(data, dict):
        free = path and path[-1] in ("options", "pieces", "params", "nodes", "strategies")
        for key, value in data.items():
            yield from places(value, (*path, key)) if not free or path[-1] == "strategies" else ()
    elif isinstance(data, list) and data:
        yield from places(data[0], (*path, 0))


def put(data: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy of data with another value at a place."""
    fresh = json.loads(json.dumps(data))
    inside = fresh
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = value
    return fresh


def test_a_value_of_another_kind_anywhere_is_one_error_that_names_its_place(trace: Trace) -> None:
    data = as_data(trace)
    tried = 0
    for path in places(data):
        if not path or path in (("format",), ("options",)):
            continue
        with pytest.raises(TraceError) as told:
            parse_trace(put(data, path, {"no": [None]}), "x.json")
        assert told.value.message.startswith("x.json is no trace: ")
        assert (
            str(next(key for key in reversed(path) if isinstance(key, str))) in told.value.message
        )
        assert told.value.hint is not None
        tried += 1
    assert tried > 60


STRANGE = (-1, 1 << 62, 10**400, 1e308, float("inf"), float("nan"), "x", "", None, [], {}, True)


def test_whatever_is_read_can_be_shown_and_all_else_is_one_clear_error(trace: Trace) -> None:
    data = as_data(trace)
    shown = refused = 0
    for path in places(data):
        for value in STRANGE if path else ():
            try:
                found = parse_trace(put(data, path, value), "x.json")
            except TraceError:
                refused += 1
                continue
            shown += 1
            list(lines_of(found, color=True))
            page_of(found)
            json.dumps(chrome_of(found), allow_nan=False)
    assert shown > 20
    assert refused > 500


def test_a_key_too_many_or_too_few_is_no_trace(trace: Trace) -> None:
    data = as_data(trace)
    for path in [path for path in places(data) if path and isinstance(path[-1], str)]:
        inside = json.loads(json.dumps(data))
        place = inside
        for key in path[:-1]:
            place = place[key]
        if not isinstance(place, dict) or path[-2:-1] in (("options",), ("strategies",)):
            continue
        del place[path[-1]]
        with pytest.raises(TraceError):
            parse_trace(inside, "x.json")
    with pytest.raises(TraceError, match="sequels is no key"):
        parse_trace({**data, "sequels": []}, "x.json")


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("options", "nonsense"), 1, "options.nonsense is no option"),
        (("options", "self"), 1, "options.self is no option"),
        (("format",), 2, "has the format 2; this nldc reads 1"),
        (("steps", 0, "parts", 0, "sequence"), 7, "is no sequence"),
        (("steps", 1, "number"), 0, "is not behind"),
        (("steps", 0, "parts", 0, "tokens"), [], "as many"),
        (("steps", 0, "parts", 0, "chosen"), [[9, 0, 0]], "no choice of a step up to this one"),
        (("steps", 0, "strategy"), "other", "none of the artifact's"),
        (("steps", 2, "parts", 0, "draft", "accepted"), 99, "more than were drafted"),
    ],
)
def test_what_does_not_fit_together_is_no_trace(
    trace: Trace, path: tuple[Any, ...], value: Any, said: str
) -> None:
    with pytest.raises(TraceError, match=said):
        parse_trace(put(as_data(trace), path, value), "x.json")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1}', '{"format": 1, "format": 1}'])
def test_any_other_file_is_one_clear_error(tmp_path: Path, text: str) -> None:
    file = tmp_path / "t.json"
    file.write_text(text)
    found = CliRunner().invoke(cli, ["trace", str(file)])
    assert found.exit_code == 1
    assert "t.json" in found.output
    assert "record it again" in found.output
    assert "Traceback" not in found.output


def test_a_device_without_end_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nldc.trace.file.MAX_BYTES", 1 << 20)
    with pytest.raises(TraceError, match="/dev/zero has more than 1 MiB"):
        read_trace("/dev/zero")


def test_a_file_that_is_not_there_is_one_clear_error(tmp_path: Path) -> None:
    found = CliRunner().invoke(cli, ["trace", str(tmp_path / "none.json")])
    assert found.exit_code == 1
    assert "no such file" in found.output


def test_run_writes_a_trace_and_trace_shows_what_was_refused(
    compiled: Compiled, tmp_path: Path
) -> None:
    file = tmp_path / "t.json"
    done = CliRunner().invoke(
        cli,
        ["run", str(compiled("linear_ss")), "--prompt", "The key advantage of", "--max-new-tokens",
         "16", "--trace", str(file), "--quiet", "--device", "cpu"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    found = CliRunner().invoke(cli, ["trace", str(file)])
    assert found.exit_code == 0, found.output
    assert "16 tokens in" in found.output
    assert "what AR chose instead" in found.output
    assert "(-" in found.output
    assert "\x1b" not in found.output
    told = json.loads(CliRunner().invoke(cli, ["trace", str(file), "--json"]).output)
    assert told["tokens"] == 16
    assert sum(told["origins"].values()) == 16


def test_colours_say_how_tokens_came(trace: Trace) -> None:
    text = "\n".join(lines_of(trace, color=True))
    assert "\x1b[36m" in text
    assert "\x1b[9;31m" in text
    assert "\x1b" not in "\n".join(lines_of(trace, color=False))


def test_what_a_terminal_obeys_is_shown_and_not_obeyed(trace: Trace) -> None:
    data = as_data(trace)
    ids = {token for step in trace.steps for part in step.parts for token in part.tokens}
    data["pieces"] = {str(token): "\x1b[2J\u202e\n" for token in ids}
    text = "\n".join(lines_of(parse_trace(data, "x"), color=False))
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "\\x1b[2J\\u202e\\n" in text


def test_names_that_a_terminal_would_obey_are_shown_and_not_obeyed(trace: Trace) -> None:
    text = json.dumps(as_data(trace))
    names = [*trace.artifact.strategies, trace.model.name, "step", "length", "checked", "context"]
    for name in names:
        text = text.replace(f'{name}"', f'{name}\\u001b[2J\\u202e"')
    data = json.loads(text.replace('"kind":"step\\u001b[2J\\u202e"', '"kind":"step"'))
    for step in data["steps"]:
        step["kind"] = step["kind"].partition("\x1b")[0]
    data["sequences"] = [
        {key.partition("\x1b")[0]: value for key, value in each.items()}
        for each in data["sequences"]
    ]
    shown = "\n".join(lines_of(parse_trace(data, "x"), color=False))
    assert "\\x1b[2J\\u202e" in shown
    assert "\x1b" not in shown
    assert "\u202e" not in shown


@pytest.mark.parametrize("width", [30, 60])
def test_tables_keep_to_the_width_of_a_terminal(trace: Trace, width: int) -> None:
    wide = list(lines_of(trace, color=False))
    narrow = list(lines_of(trace, color=False, width=width))
    begin = next(number for number, line in enumerate(narrow) if "tokens a step" in line)
    assert max(map(len, narrow[begin:])) <= width
    assert len(narrow) > len(wide)
    assert max(map(len, wide)) > 60


@pytest.mark.parametrize("width", [None, *range(20, 120, 7)])
def test_no_line_is_broken_in_the_spaces_of_a_token(trace: Trace, width: int | None) -> None:
    pieces = dict.fromkeys(map(str, range(1000)), "  a  b ")
    lines = list(lines_of(replace(trace, pieces=pieces), color=False, width=width))
    broke = [line for line in lines if '"' in line]
    assert broke
    assert [line for line in broke if line.count('"  a  b "') * 2 != line.count('"')] == []
    assert "\x01" not in "".join(lines)


@pytest.fixture
def places_to_write(tmp_path: Path) -> dict[str, str]:
    """Places at which nothing may be written, with what is said of each."""
    (tmp_path / "mine.yaml").write_text("nldc: 1\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "mine.yaml")
    os.mkfifo(tmp_path / "pipe")
    said = {"mine.yaml": "holds something else", "folder": "is no plain file",
            "link": "is no plain file", "pipe": "is no plain file",
            "none/x": "cannot be written",
            "n" * 300: "cannot be written: file name too long"}  # fmt: skip
    return {"-": "names no file", **{str(tmp_path / name): text for name, text in said.items()}}


def test_pages_of_traces_take_the_place_of_nothing_else(
    trace: Trace, tmp_path: Path, places_to_write: dict[str, str]
) -> None:
    file = tmp_path / "t.json"
    write_trace(trace, file)
    before = {path.name for path in tmp_path.iterdir()}
    for option in ("--html", "--chrome"):
        for place, said in {**places_to_write, str(file): "holds something else"}.items():
            found = CliRunner().invoke(cli, ["trace", str(file), option, place])
            assert (found.exit_code, said in found.output) == (1, True), found.output
    assert {path.name for path in tmp_path.iterdir()} == before
    assert (tmp_path / "mine.yaml").read_text() == "nldc: 1\n"
    assert read_trace(file) == trace
    out = str(tmp_path / "out")
    both = CliRunner().invoke(cli, ["trace", str(file), "--html", out, "--chrome", out])
    assert (both.exit_code, Path(out).exists()) == (2, False)
    for _ in range(2):
        fine = CliRunner().invoke(cli, ["trace", str(file), "--html", out])
        assert fine.output == f"wrote {out}\n"


def test_a_run_whose_trace_cannot_be_written_is_refused_before_it_begins(
    tmp_path: Path, places_to_write: dict[str, str]
) -> None:
    for place, said in places_to_write.items():
        rest = ["--prompt", "a", "--trace", place, "--json"]
        found = CliRunner().invoke(cli, ["run", str(tmp_path / "no artifact"), *rest])
        assert found.exit_code == 1
        assert said in json.loads(found.stdout)["diagnostics"][0]["message"]


def test_steps_that_are_traced_cannot_be_captured_too(
    trace: Trace, compiled: Compiled, tmp_path: Path
) -> None:
    file, artifact = str(tmp_path / "t.json"), str(compiled("linear_ss"))
    write_trace(trace, Path(file))
    for command in (
        ["run", artifact, "--prompt", "a", "--trace", file],
        ["trace", file, "--replay", artifact],
        ["bisect", artifact],
        ["serve", artifact, "--port", "0", "--trace", str(tmp_path / "traces")],
    ):
        found = CliRunner().invoke(cli, [*command, "--graphs"])
        assert found.exit_code == 2, found.output
        assert "are launched one by one, without --graphs" in found.output


def test_a_run_whose_trace_fails_at_the_end_writes_one_document(
    compiled: Compiled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nldc.runtime.files.write_whole", full)
    found = CliRunner().invoke(
        cli,
        ["run", str(compiled("linear_ss")), "--prompt", "a", "--max-new-tokens", "2", "--device",
         "cpu", "--json", "--trace", str(tmp_path / "t.json")],
    )  # fmt: skip
    assert found.exit_code == 1
    assert json.loads(found.stdout)["ok"] is False
    assert "no space left on device" in found.stdout


def test_an_interrupted_run_tells_that_it_wrote_no_trace(
    compiled: Compiled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> Iterator[str]:
        yield "a piece"
        raise KeyboardInterrupt

    monkeypatch.setattr("nldc.runtime.decoder.Decoder.stream", interrupted)
    file = tmp_path / "t.json"
    found = CliRunner().invoke(
        cli,
        [
            "run",
            str(compiled("linear_ss")),
            "--prompt",
            "a",
            "--device",
            "cpu",
            "--trace",
            str(file),
        ],
    )
    assert found.exit_code == 130
    assert found.stdout == "a piece"
    assert found.stderr.endswith(f"{file} is not written: the run did not end\n\ninterrupted\n")
    assert not file.exists()


def test_many_sequences_with_a_step_each_are_shown_at_once(trace: Trace) -> None:
    count = 20_000
    step = trace.steps[0]
    part = replace(step.parts[0], tokens=(), origins=(), chosen=(), forwards=(), choices=())
    many = replace(
        trace,
        sequences=trace.sequences[:1] * count,
        steps=tuple(
            replace(step, number=number, parts=(replace(part, sequence=number),))
            for number in range(count)
        ),
    )
    began = time.process_time()
    assert sum(line.startswith("sequence ") for line in lines_of(many, color=False)) == count
    assert time.process_time() - began < 20


def test_a_trace_that_cannot_be_written_is_one_clear_error(trace: Trace, tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="cannot be written"):
        write_trace(trace, tmp_path / "no" / "t.json")
    assert not list(tmp_path.iterdir())
