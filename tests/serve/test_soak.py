"""Two minutes of a soak, and that one would find what is wrong; `soak` takes any number of them."""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
from asking import Live

from tests.serve.soak import GAUGES, Minute, Soak, as_json, grown, left, noted, run, table
from tests.serve.soak_clients import HOSTILE, WRONG, Clients, Told
from tests.serve.soak_pool import TEXT, Asked
from tests.serve.soak_server import Memory, memory_of

BODY = {"prompt": "def f(", "max_tokens": 4, "temperature": 0, "n": 1, "seed": 1}
KERNELS_MIB = 200.0
"""What the kernels that oneDNN makes in the second minute may take."""
HELD = Memory(400, 200, 50, 150, files=20, threads=6, cpu=9.0)


@pytest.mark.serve
def test_two_minutes_of_clients_of_every_kind_leave_nothing_behind() -> None:
    soak = run(2.0, seed=7, pool=50, spare=KERNELS_MIB)
    assert not soak.problems
    assert {kind for kind, _ in soak.told.calls} == {
        "whole", "stream", "leaves_whole", "leaves_stream", "leaves_body", "reads_slowly",
        "never_reads", "is_late", "is_wrong", "is_hostile", "looks",
    }  # fmt: skip
    assert soak.told.compared["exact, greedy"] > 20
    assert soak.waits > 0.5


def problems(live: Live, asked: Asked, work: Callable[[Clients, httpx.AsyncClient], Any]) -> Any:
    clients = Clients(live.url, [asked], Random(0))

    async def one() -> None:
        async with httpx.AsyncClient(base_url=live.url, timeout=60) as client:
            await work(clients, client)

    asyncio.run(one())
    return clients.told


@pytest.mark.parametrize("work", [Clients.whole, Clients.stream])
def test_a_text_that_is_not_the_lone_one_is_found(live: Live, work: Any) -> None:
    right = httpx.post(live.url + TEXT, json=BODY, timeout=60).json()["choices"][0]["text"]
    fine = problems(live, Asked(TEXT, BODY, (right,), exact=True), work)
    assert fine.compared == {"exact, greedy": 1}
    assert not fine.problems
    (found,) = problems(live, Asked(TEXT, BODY, (right + "x",), exact=True), work).problems
    assert "alone" in found


@pytest.mark.parametrize("work", [Clients.whole, Clients.stream])
def test_a_refusal_of_what_is_right_is_found(live: Live, work: Any) -> None:
    asked = Asked(TEXT, {**BODY, "strategy": "none_such"}, ("",), exact=True)
    (found,) = problems(live, asked, work).problems
    assert "400" in found


@pytest.mark.serve
def test_each_hostile_client_has_the_answer_that_it_should(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Asked(TEXT, BODY, ("",), exact=True)
    for wanted in WRONG:
        monkeypatch.setattr("tests.serve.soak_clients.WRONG", (wanted,))
        assert not problems(live, asked, Clients.is_wrong).problems
    for bad in HOSTILE:
        monkeypatch.setattr("tests.serve.soak_clients.HOSTILE", (bad,))
        assert not problems(live, asked, Clients.is_hostile).problems


def test_what_grows_or_is_left_is_found() -> None:
    begin, half = Minute(0, HELD, 0), Minute(60, HELD, 10)
    assert not grown([begin, half, Minute(120, HELD, 20)], 120)
    for more in ({"resident": 440.0}, {"files": 40}, {"threads": 7}):
        (said,) = grown([begin, half, Minute(120, replace(HELD, **more), 20)], 120)
        assert "in the end" in said
    assert not left(dict.fromkeys(GAUGES, 0.0))
    assert left({**dict.fromkeys(GAUGES, 0.0), GAUGES[2]: 0.25}) == [
        "vllm:kv_cache_usage_perc is 0.25 in the end"
    ]


def test_all_that_is_known_of_a_soak_can_be_written() -> None:
    told = Told(Counter({("whole", "200"): 3}), Counter({"exact, greedy": 2}), ["odd"])
    seen = (Minute(0, HELD, 0), Minute(60, replace(HELD, cpu=19.0), 3))
    soak = Soak(seen, told, 2.5, 0.75, {}, {"lines": 3}, ("odd",), 40, 20)
    assert json.loads(json.dumps(as_json(soak)))["told"] == {
        "calls": {"whole 200": 3}, "compared": {"exact, greedy": 2},
    }  # fmt: skip
    said = table(soak)
    for part in ("3 calls, 40 tokens, 20 steps, 10 s", "200: 3", "at 75% of", "\nodd"):
        assert part in said


def test_errors_of_a_log_are_counted(tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [
        {"level": "info", "status": 200},
        {"level": "info", "status": 500},
        {"level": "error", "trace": "x"},
    ]
    log = tmp_path / "log"
    log.write_text("serving\n" + "\n".join(map(json.dumps, lines)))
    assert noted(log) == {"lines": 4, "status 500": 1, "errors": 1}


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux")
def test_memory_is_read_by_where_it_lies() -> None:
    found = memory_of(os.getpid())
    assert found.resident == pytest.approx(found.heap + found.arenas + found.other)
    assert found.resident > 20
    assert found.heap > 1
    assert found.threads >= 1
    with open(os.devnull) as _:
        assert memory_of(os.getpid()).files == found.files + 1
