"""The server on a cluster of two nodes: two replicas under load, one of which is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
from two_nodes import TwoNodes, free_port

from nldc import api

pytestmark = pytest.mark.ray

CLIENTS = 8
CALLS = 5
TOKENS = 32
PROMPTS = [f"def function_{n}(a, b):\n" for n in range(CLIENTS * CALLS)]
REPLICA = "ray::ServeReplica:default:nldc"


@pytest.fixture(scope="module")
def url(cluster: TwoNodes, artifact: Path) -> str:
    """The app with two replicas, as `serve run` brings it up from the environment."""
    port = free_port("127.0.0.1")
    asked = {
        "NLDC_ARTIFACTS": str(artifact),
        "NLDC_NAME": "demo",
        "NLDC_MIN_REPLICAS": "2",
        "NLDC_MAX_REPLICAS": "2",
        "NLDC_MAX_LIVE": "4",
        "NLDC_AFFINITY": "session",
    }
    serve = str(Path(sys.executable).with_name("serve"))

    def command(*words: str) -> None:
        done = subprocess.run(
            [serve, *words],
            env={**cluster.environment, **asked},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    command("start", "--http-host", "127.0.0.1", "--http-port", str(port))
    command("run", "--non-blocking", "nldc.serve.ray:app")
    found = f"http://127.0.0.1:{port}"
    assert len(replicas(found, 2)) == 2
    return found  # what serves ends with its cluster


@pytest.fixture(scope="module")
def expected(artifact: Path) -> list[str]:
    """The greedy texts of `nldc run`."""
    decoder = api.load(artifact).from_checkpoint(None, dtype=None)
    return [
        "".join(decoder.stream(prompt, max_new_tokens=TOKENS, temperature=0.0))
        for prompt in PROMPTS
    ]


def replicas(url: str, number: int, without: str = "", patience: float = 240.0) -> set[str]:
    """Return the replicas that answer, once they are so many, the one left out not counted."""
    found: set[str] = set()
    end = time.monotonic() + patience
    while time.monotonic() < end and len(found) < number:
        try:
            answer = httpx.get(f"{url}/ready", timeout=30)
        except httpx.TransportError:
            time.sleep(1)
            continue
        if answer.status_code == 200 and answer.headers.get("x-replica", "") not in ("", without):
            found.add(answer.headers["x-replica"])
        else:
            time.sleep(0.5)
    return found


def body(prompt: str, **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "max_tokens": TOKENS, "temperature": 0, **more}


def ask(url: str, prompt: str, *, stream: bool) -> str | None:
    """Return the text of an answer, None where there is none: the client should try again."""
    try:
        if not stream:
            answer = httpx.post(f"{url}/v1/completions", json=body(prompt), timeout=120)
            text = answer.json()["choices"][0]["text"] if answer.status_code == 200 else None
            assert answer.status_code in (200, 429, 500, 502, 503, 504), answer.text
            return text
        texts, is_whole = [], False
        request = body(prompt, stream=True)
        with httpx.stream("POST", f"{url}/v1/completions", json=request, timeout=120) as answer:
            for line in answer.iter_lines():
                if line == "data: [DONE]":
                    is_whole = True
                elif line.startswith("data: "):
                    piece = json.loads(line.removeprefix("data: "))
                    if "choices" not in piece:
                        return None
                    texts.append(piece["choices"][0]["text"])
        return "".join(texts) if is_whole else None
    except (httpx.TransportError, json.JSONDecodeError):
        return None


def test_every_request_is_answered_though_a_replica_is_killed(
    cluster: TwoNodes, url: str, expected: list[str]
) -> None:
    begun, killed, tries = threading.Semaphore(0), threading.Event(), count()

    def client(number: int) -> list[str]:
        texts = []
        for call in range(number, len(PROMPTS), CLIENTS):
            end = time.monotonic() + 240
            text = None
            while text is None and time.monotonic() < end:
                next(tries)
                text = ask(url, PROMPTS[call], stream=call % 3 == 0)
                if text is None:
                    time.sleep(0.5)
            assert text is not None, PROMPTS[call]
            texts.append(text)
            begun.release()
            if call < CLIENTS:
                killed.wait(120)
        return texts

    before = cluster.processes(REPLICA)
    assert len(before) == 2
    with ThreadPoolExecutor(CLIENTS) as clients:
        found = [clients.submit(client, number) for number in range(CLIENTS)]
        for _ in range(CLIENTS):
            assert begun.acquire(timeout=240)
        killed.set()
        time.sleep(0.3)
        os.kill(before[0], signal.SIGKILL)
        texts = [each.result() for each in found]
    for number, own in enumerate(texts):
        assert own == expected[number::CLIENTS]
    assert next(tries) >= len(PROMPTS)
    assert len(replicas(url, 2)) == 2, "another replica came in place of the one that was killed"
    after = cluster.processes(REPLICA)
    assert before[0] not in after
    assert before[1] in after


def test_an_answer_streams_through_the_proxy(url: str, expected: list[str]) -> None:
    request = body(PROMPTS[0], stream=True)
    with httpx.stream("POST", f"{url}/v1/completions", json=request, timeout=120) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        chunks = list(answer.iter_raw())
    assert len(chunks) > 3, "pieces come as they are made"
    lines = b"".join(chunks).decode().split("\n\n")
    pieces = [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]
    assert "".join(piece["choices"][0]["text"] for piece in pieces) == expected[0]
    assert lines[-2:] == ["data: [DONE]", ""]


def test_a_session_stays_with_one_replica(url: str) -> None:
    def answered_by(session: str) -> str:
        answer = httpx.get(f"{url}/ready", headers={"x-session-id": session}, timeout=60)
        return str(answer.headers["x-replica"])

    homes = {f"session {n}": answered_by(f"session {n}") for n in range(24)}
    assert len(set(homes.values())) == 2
    assert {session: answered_by(session) for session in homes} == homes


def test_a_request_that_is_refused_says_so_through_the_proxy(url: str) -> None:
    answer = httpx.post(f"{url}/v1/completions", json=body("a", max_tokens=-1), timeout=60)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
