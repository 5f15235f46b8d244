"""Keys, ids, logs, metrics, and how a server ends."""

from __future__ import annotations

import io
import json
import logging
import signal
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from asking import CHAT, TEXT, Live, answer, get, post, problem, said, until, with_client
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

from nldc.serve.outermost import JsonLines

ENDLESS: dict[str, Any] = {"prompt": "def f(", "max_tokens": 3000, "ignore_eos": True}


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What the server logs."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(JsonLines())
    logger = logging.getLogger("nldc.serve")
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    yield text
    logger.removeHandler(handler)
    logger.setLevel(before[0])
    logger.propagate = before[1]


def lines(log: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.getvalue().splitlines()]


# Keys


@pytest.fixture(scope="module")
def locked(apps: Any) -> FastAPI:
    app: FastAPI = apps(api_keys=("first-key", "second"))
    return app


@pytest.mark.parametrize(
    "shown", [None, "Bearer nope", "Bearer first-ke", "first-key", "Basic first-key", "Bearer "]
)
def test_without_a_key_nothing_is_answered_but_health(locked: FastAPI, shown: str | None) -> None:
    headers = {} if shown is None else {"authorization": shown}
    error = problem(post(locked, TEXT, {"prompt": "a"}, headers), 401)
    assert error["type"] == "authentication_error"
    for path in ("/v1/models", "/metrics", "/version", "/openapi.json", "/nothing"):
        assert get(locked, path, headers).status_code == 401
    for path in ("/health", "/ready"):
        assert get(locked, path, headers).status_code == 200
        assert with_client(locked, lambda one, path=path: one.head(path)).status_code == 200


@pytest.mark.parametrize("shown", ["Bearer first-key", "bearer second"])
def test_with_a_key_everything_is_answered(locked: FastAPI, shown: str) -> None:
    headers = {"authorization": shown}
    assert post(locked, TEXT, {"prompt": "a", "max_tokens": 1}, headers).status_code == 200
    assert get(locked, "/metrics", headers).status_code == 200


def test_a_key_may_be_any_bytes(apps: Any) -> None:
    app = apps(api_keys=(b"k\xff\xc3\xa4".decode("utf-8", "surrogateescape"),))
    headers: Any = [(b"authorization", b"Bearer k\xff\xc3\xa4")]
    assert get(app, "/version", headers).status_code == 200
    assert get(app, "/version", {"authorization": "Bearer k"}).status_code == 401


def test_metrics_may_be_open(apps: Any) -> None:
    app = apps(api_keys=("k",), open_metrics=True)
    assert get(app, "/metrics").status_code == 200
    assert get(app, "/version").status_code == 401


def test_keys_are_not_shown_with_the_settings(locked: FastAPI) -> None:
    assert "first-key" not in repr(locked.state.service.settings)


def test_pages_of_other_origins_are_let_in_only_where_the_operator_says(
    app: FastAPI, apps: Any
) -> None:
    headers = {"origin": "https://page.example", "access-control-request-method": "POST"}

    async def ask(client: httpx.AsyncClient) -> httpx.Response:
        return await client.options(CHAT, headers=headers)

    assert "access-control-allow-origin" not in with_client(app, ask).headers
    open_ = apps(cors_origins=("https://page.example",), api_keys=("k",))
    found = with_client(open_, ask)
    assert found.headers["access-control-allow-origin"] == "https://page.example"


# Ids and the log


@pytest.mark.parametrize(
    ("given", "kept"), [("abc-1.2:3", True), ("a" * 129, False), ("a b", False), ("\u00e4", False)]
)
def test_an_id_that_is_one_comes_back(app: FastAPI, given: str, kept: bool) -> None:
    headers: Any = [(b"x-request-id", given.encode("latin-1"))]

    async def ask(client: httpx.AsyncClient) -> httpx.Response:
        return await client.get("/version", headers=headers)

    found = with_client(app, ask).headers["x-request-id"]
    assert (found == given) == kept
    assert found


def test_a_request_is_a_line_without_its_text(app: FastAPI, log: io.StringIO) -> None:
    headers = {"x-request-id": "mine"}
    body = {"messages": said("secret words"), "max_tokens": 4, "stream": True}
    post(app, CHAT, body, headers)
    (line,) = lines(log)
    assert line["request_id"] == "mine"
    assert (line["method"], line["path"], line["status"]) == ("POST", CHAT, 200)
    assert line["completion_tokens"] == 4
    assert line["finish"] == ["length"]
    assert line["strategies"] == ["linear_ss"]
    assert "secret" not in log.getvalue()


def test_an_operator_may_have_texts_in_the_log(apps: Any, log: io.StringIO) -> None:
    app = apps(log_prompts=True, temperature=0.0)
    found = answer(app, TEXT, prompt="secret words", max_tokens=4)
    (line,) = lines(log)
    assert line["prompts"] == ["secret words"]
    assert line["answers"] == [found["choices"][0]["text"]]


def test_what_machines_ask_again_and_again_is_not_logged(app: FastAPI, log: io.StringIO) -> None:
    for path in ("/health", "/ready", "/metrics"):
        get(app, path)
    assert lines(log) == []
    get(app, "/nothing")
    assert [line["status"] for line in lines(log)] == [404]


def test_a_bug_is_an_answer_without_its_words(
    app: FastAPI, log: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> None:
        raise RuntimeError("a secret of the server")

    monkeypatch.setattr(app.state.service.reader, "completion", broken)
    response = post(app, TEXT, {"prompt": "a"})
    assert problem(response, 500)["type"] == "server_error"
    assert "secret" not in response.text
    assert response.headers["x-request-id"]
    failed, request = lines(log)
    assert "a secret of the server" in failed["trace"]
    assert failed["request_id"] == request["request_id"]


# Metrics

OWN_LABELS = ("position", "finished_reason", "le", "strategy")


def numbers(app: FastAPI) -> dict[str, float]:
    """Every number by its name and the labels that differ within one server."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(get(app, "/metrics").text):
        for sample in family.samples:
            assert sample.labels["model_name"] == "m"
            own = [value for name, value in sample.labels.items() if name in OWN_LABELS]
            found[":".join([sample.name.removeprefix("vllm:"), *own])] = sample.value
    return found


def test_metrics_say_what_happened_under_the_names_of_dashboards(apps: Any) -> None:
    app = apps(temperature=0.0, model_name="m")
    body = {"prompt": "def fib(", "max_tokens": 20, "nldc": {"metrics": True}}
    found = [answer(app, TEXT, **body) for _ in range(2)]
    drafts = [one["metrics"]["speculative_decoding"] for one in found]
    seen = numbers(app)

    def total(name: str) -> float:
        return float(sum(one[name] for one in drafts))

    assert seen["spec_decode_num_drafts_total"] == total("num_spec_steps")
    assert seen["spec_decode_num_draft_tokens_total"] == total("num_draft_tokens")
    accepted = total("num_accepted_draft_tokens")
    assert seen["spec_decode_num_accepted_tokens_total"] == accepted
    by_place = [
        value
        for name, value in seen.items()
        if name.startswith("spec_decode_num_accepted_tokens_per_pos_total")
    ]
    assert sum(by_place) == accepted
    assert by_place == sorted(by_place, reverse=True)
    assert seen["generation_tokens_total"] == 40
    assert seen["prompt_tokens_total"] == 2 * found[0]["usage"]["prompt_tokens"]
    assert seen["request_success_total:length"] == 2
    assert seen["time_to_first_token_seconds_count"] == 2
    assert seen["e2e_request_latency_seconds_count"] == 2
    assert 0 < seen["inter_token_latency_seconds_count"] < 40
    assert seen["num_requests_running"] == seen["num_requests_waiting"] == 0
    assert 0 <= seen["kv_cache_usage_perc"] <= 1
    forwards = sum(one["metrics"]["forwards"] for one in found)
    assert seen["nldc:forwards_total"] == forwards
    assert seen["nldc:forwards_per_token"] == pytest.approx(forwards / 40)


def test_applications_count_apart(apps: Any) -> None:
    one, other = apps(model_name="m"), apps(model_name="m")
    answer(one, TEXT, prompt="a", max_tokens=3)
    assert numbers(one)["generation_tokens_total"] == 3
    assert numbers(other)["generation_tokens_total"] == 0


def test_what_is_cancelled_is_counted_as_such(apps: Any) -> None:
    app = apps(model_name="m")
    post(app, TEXT, {**ENDLESS, "timeout": 0.1})
    until(lambda: app.state.service.engine.idle)
    assert numbers(app)["request_success_total:abort"] == 1


# The end


def in_thread(work: Any) -> tuple[threading.Thread, list[Any]]:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()), daemon=True)
    thread.start()
    return thread, found


def test_a_server_that_is_told_to_end_finishes_what_runs(apps: Any) -> None:
    server = Live(apps(temperature=0.0))
    body = {"prompt": "def f(", "max_tokens": 150, "ignore_eos": True}
    thread, found = in_thread(lambda: httpx.post(server.url + TEXT, json=body, timeout=60))
    until(lambda: server.service.engine.live == 1)
    server.server.handle_exit(signal.SIGTERM, None)
    with httpx.Client(base_url=server.url) as client:
        assert client.get("/ready").status_code == 503
        assert client.get("/health").status_code == 200
        late = client.post(TEXT, json={"prompt": "a"})
    assert problem(late, 503)["code"] == "shutting_down"
    assert late.headers["retry-after"]
    thread.join(60)
    assert found[0].status_code == 200
    assert found[0].json()["usage"]["completion_tokens"] == 150
    server.wait()
    with pytest.raises(httpx.ConnectError):
        httpx.get(server.url + "/health")


@pytest.mark.parametrize(
    ("drain", "signals"),
    [
        (0.2, [signal.SIGTERM]),
        (600.0, [signal.SIGTERM, signal.SIGTERM]),
        (600.0, [signal.SIGTERM, signal.SIGINT]),
    ],
    ids=["in time", "told twice", "told twice by Ctrl-C"],
)
def test_what_runs_too_long_when_a_server_ends_is_told_so(
    apps: Any, drain: float, signals: list[signal.Signals]
) -> None:
    server = Live(apps(temperature=0.0, drain=drain))
    whole, answers = in_thread(lambda: httpx.post(server.url + TEXT, json=ENDLESS, timeout=60))
    asked = {**ENDLESS, "stream": True}
    stream, events = in_thread(lambda: httpx.post(server.url + TEXT, json=asked, timeout=60))
    until(lambda: server.service.engine.live == 2)
    for each in signals:
        server.server.handle_exit(each, None)
    whole.join(30)
    stream.join(30)
    server.wait()
    assert problem(answers[0], 503)["code"] == "shutting_down"
    *_, last, done, _ = events[0].text.split("\n\n")
    assert json.loads(last[6:])["error"]["code"] == "shutting_down"
    assert done == "data: [DONE]"
    assert server.service.worker.engine.idle  # forced, the thread that steps would not have ended


def test_an_engine_that_breaks_is_told_by_health(
    apps: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = apps()

    def broken() -> None:
        raise RuntimeError("no step")

    monkeypatch.setattr(app.state.service.engine, "step", broken)
    assert problem(post(app, TEXT, {"prompt": "a"}), 503)
    assert get(app, "/health").status_code == 503
    assert get(app, "/ready").status_code == 503
    assert problem(post(app, TEXT, {"prompt": "a"}), 503)
