"""Every exact strategy of the library, at 32 requests at a time, while others come and leave."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from asking import TEXT, Live, answer, pieces, text_of, until

from nldc import api
from nldc.reuse import load
from nldc.serve.app import create_app
from nldc.serve.artifacts import load_together
from nldc.serve.settings import Settings

pytestmark = pytest.mark.serve

AT_A_TIME = 32
LONG = 32
STARTS = ("def f", "import ", "class A", "x = [", "for i in ", "# a ", "return ", "if ")
PROMPTS = [f"{start}{number}" for number in range(4) for start in STARTS]


async def answered(client: httpx.AsyncClient, strategy: str, prompt: str, stream: bool) -> str:
    body = {"prompt": prompt, "max_tokens": LONG, "strategy": strategy, "stream": stream}
    while True:
        response = await client.post(TEXT, json=body)
        if response.status_code != 429:
            break
        await asyncio.sleep(0.2)
    assert response.status_code == 200, response.text
    return text_of(pieces(response.text)) if stream else response.json()["choices"][0]["text"]


async def leaving(client: httpx.AsyncClient, chance: random.Random) -> None:
    """One that asks for much and is gone before it has it."""
    body = {"prompt": "y", "max_tokens": 1000, "ignore_eos": True, "stream": chance.random() < 0.5}
    try:
        await asyncio.wait_for(client.post(TEXT, json=body), chance.uniform(0.01, 1.0))
    except (TimeoutError, httpx.HTTPError):
        pass
    else:
        raise AssertionError("it was not to be answered so soon")


@pytest.mark.parametrize("stream", [False, True])
def test_every_exact_strategy_gives_ars_text_at_32_at_a_time(
    tmp_path: Path, model: Path, stream: bool
) -> None:
    promised = {name: load(path).data["guarantee"] for name, path in api.library().items()}
    names = [name for name, guarantee in promised.items() if guarantee == "exact"]
    folders = [api.compile(name, tmp_path / name, certify=False) for name in names]
    kind, ways = load_together(folders)
    decoder = kind.from_checkpoint(model, device="cpu")
    expected = decoder.generate(PROMPTS, strategy="ar", max_new_tokens=LONG).text
    app = create_app(decoder, ways, Settings(temperature=0, live=24, queue=40, deadline=120))
    server = Live(app)
    chance = random.Random(0)
    wanted = [(n % len(PROMPTS), name) for n, name in enumerate(names * 8)]
    limits = httpx.Limits(max_connections=200)

    async def run() -> None:
        gate = asyncio.Semaphore(AT_A_TIME)
        async with httpx.AsyncClient(base_url=server.url, timeout=300, limits=limits) as client:

            async def one(number: int, name: str) -> None:
                async with gate:
                    assert await answered(client, name, PROMPTS[number], stream) == expected[number]

            async def others() -> None:
                for _ in range(40):
                    await leaving(client, chance)

            await asyncio.gather(others(), *(one(number, name) for number, name in wanted))

    asyncio.run(run())
    until(lambda: app.state.service.engine.idle and app.state.service.idle)
    assert app.state.service.engine.cache.used == 0
    server.close()


def test_clients_that_come_and_leave_for_half_a_minute_leave_nothing_behind(apps: Any) -> None:
    """Random sizes, cancels and refusals: no 500, nothing stuck, no memory kept."""
    app = apps(temperature=1.0, live=8, queue=8)
    server, chance = Live(app), random.Random(1)
    end = time.monotonic() + 30
    statuses: set[int] = set()

    async def client_of(client: httpx.AsyncClient) -> None:
        while time.monotonic() < end:
            stream = chance.random() < 0.5
            body: dict[str, Any] = {
                "prompt": chance.choice(PROMPTS) * chance.randint(1, 20),
                "max_tokens": chance.randint(1, 60),
                "n": chance.randint(1, 3),
                "stream": stream,
                "stop": chance.choice([None, "self", ["a", "b"]]),
                "temperature": chance.choice([0, 1, 3]),
                "top_p": chance.choice([None, 0.5]),
                "strategy": chance.choice([None, "ar", "quadratic_ss", "block_diffusion"]),
                "nldc": {"steps": stream and chance.random() < 0.5},
            }
            try:
                work = client.post(TEXT, json=body)
                response = await asyncio.wait_for(work, chance.choice([0.05, 0.5, 60]))
                statuses.add(response.status_code)
            except (TimeoutError, httpx.HTTPError):
                continue

    async def run() -> None:
        limits = httpx.Limits(max_connections=100)
        async with httpx.AsyncClient(base_url=server.url, timeout=120, limits=limits) as client:
            await asyncio.gather(*(client_of(client) for _ in range(24)))

    asyncio.run(run())
    service = app.state.service
    until(lambda: service.engine.idle and service.idle)
    assert statuses <= {200, 429}
    assert 200 in statuses
    assert not service.watch._fresh
    assert not service.watch._last
    assert not service.worker._requests
    assert service.engine.cache.used == 0
    assert answer(app, TEXT, prompt="a", max_tokens=2)
    server.close()
