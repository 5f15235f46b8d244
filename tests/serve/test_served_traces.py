"""Traces of what a server decodes: off unless asked, bounded, whole, and without text as a rule."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from nldc.runtime.errors import NldcRuntimeError, TraceError
from nldc.serve.app import create_app
from nldc.serve.artifacts import load_together
from nldc.serve.settings import Settings
from nldc.serve.traces import NAME, Traces
from nldc.trace.file import read_trace
from nldc.trace.replay import replay

BODY = {"prompt": "def f(", "strategy": "linear_ss", "max_tokens": 12, "temperature": 0}
Start = Callable[..., TestClient]


@pytest.fixture
def start(artifact: Path, model: Path, tmp_path: Path) -> Iterator[Start]:
    """Return what starts a server that writes traces below `tmp_path`."""
    clients: list[TestClient] = []

    def get(most: int = 1 << 24, **settings: Any) -> TestClient:
        text = bool(settings.get("log_prompts"))
        traces = Traces(tmp_path / "traces", [artifact], most, text=text)
        kind, ways = load_together([artifact], traces.load)
        decoder = kind.from_checkpoint(model, device="cpu", graphs=False)
        client = TestClient(create_app(decoder, ways, Settings(**settings), traces))
        clients.append(client)
        return client.__enter__()

    yield get
    for client in clients:
        client.__exit__(None, None, None)


def asked(client: TestClient, count: int = 1, **more: Any) -> list[str]:
    """What the server answers, after which all traces are written."""
    texts = []
    for _ in range(count):
        found = client.post("/v1/completions", json={**BODY, **more})
        assert found.status_code == 200, found.text
        texts += [choice["text"] for choice in found.json()["choices"]]
    client.app.state.service.traces.close()  # type: ignore[attr-defined]
    return texts


def test_a_request_leaves_a_trace_without_a_token_of_it(start: Start, tmp_path: Path) -> None:
    asked(start(), stop=["zzz"])
    (file,) = (tmp_path / "traces").iterdir()
    assert NAME.fullmatch(file.name)
    trace = read_trace(file)
    assert not trace.text
    assert trace.sequences[0].prompt is None
    assert trace.sequences[0].tokens == 12
    assert "zzz" not in file.read_text()
    assert {token for step in trace.steps for part in step.parts for token in part.tokens} == {0}
    assert sum(part.draft is not None for step in trace.steps for part in step.parts) > 1
    with pytest.raises(TraceError, match="has no text"):
        replay(trace, "nowhere", None, {})


def test_where_prompts_are_logged_a_trace_has_text_and_runs_again(
    start: Start, artifact: Path, model: Path, tmp_path: Path
) -> None:
    (text,) = asked(start(log_prompts=True))
    (file,) = (tmp_path / "traces").iterdir()
    trace = read_trace(file)
    tokens = [token for step in trace.steps for part in step.parts for token in part.tokens]
    assert "".join(trace.pieces[str(token)] for token in tokens[:12]) == text
    again = replay(trace, artifact, model, {})
    assert again.apart is None
    assert again.numbers == 0
    assert again.steps == len(trace.steps)


def test_sequences_of_one_call_have_a_trace_each_and_are_in_the_log(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "nldc.serve"):
        asked(start(log_prompts=True), n=3, temperature=1.0, seed=5)
    names = sorted(file.name for file in (tmp_path / "traces").iterdir())
    assert len(names) == 3
    told = [getattr(record, "fields", {}).get("traces") for record in caplog.records]
    assert names in [sorted(each) for each in told if each]
    for name in names:
        assert len(read_trace(tmp_path / "traces" / name).sequences) == 1


def test_the_oldest_traces_go_when_there_is_no_place(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "traces"
    folder.mkdir()
    (folder / "notes.json").write_text("{}" * 10_000)
    asked(start(most=24_000), count=5)
    left = [file for file in folder.iterdir() if NAME.fullmatch(file.name)]
    assert 0 < len(left) < 5
    assert sum(file.stat().st_size for file in left) <= 24_000
    assert (folder / "notes.json").exists()
    newest = max(int(file.stem.rsplit("-", 1)[1]) for file in left)
    assert newest == 4


def test_a_server_without_traces_notes_nothing(apps: Any, tmp_path: Path) -> None:
    app = apps()
    assert app.state.service.traces is None
    with TestClient(app) as client:
        assert client.post("/v1/completions", json=BODY).status_code == 200
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_one_clear_error(artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NldcRuntimeError, match="no traces can be written to"):
        Traces(tmp_path / "file", [artifact], 1, text=False)
