"""Clients of every kind at a server that has no rest, and what is left of them.

`python -m tests.serve.soak --minutes 30` starts `nldc serve` on the demo model in a process of its
own and lets 32 clients ask for more than it can do: streams and whole answers, chats and
completions, of one choice and of several, by every strategy; clients that leave in the middle of a
body, of a stream or of an answer, that read slowly or never, and bodies that are wrong or hostile.
Every text that is finished must be what the same request gives alone. It prints a line a minute,
and in the end a table; its status is 1 if anything was wrong: a text that differs, a status that is
not the one that a request should have, a call that never ends, sequences or pages that are left, or
memory, files or threads that do not stop growing.

It asks nothing but 127.0.0.1, and takes the minutes that it is given and about one more.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import httpx

from nldc import api
from tests.serve.soak_clients import Clients, Told
from tests.serve.soak_pool import EXACT, INEXACT, SETTINGS, Asked, pool_of
from tests.serve.soak_server import Memory, Server

CUSTOMERS, MAX_LIVE, MAX_QUEUE = 32, 16, 32
POOL = 120
LOOK = 5.0
"""Seconds between two looks at how many run and wait."""
WARM = 0.5
"""The part of the time after which memory must not grow by much."""
SPARE_MIB = 32.0
"""By how much it may grow then, if the time was long enough to meet all numbers of rows: oneDNN
keeps a kernel for each of them.
"""
SPARE_FILES = 8
GAUGES = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc")


@dataclass(frozen=True)
class Minute:
    """The server at a time: seconds since the beginning, memory, and calls that have ended."""

    seconds: float
    memory: Memory
    calls: int


@dataclass(frozen=True)
class Soak:
    """What a soak came to; `waits` is the share of looks at which sequences waited."""

    minutes: tuple[Minute, ...]
    told: Told
    running: float
    waits: float
    left: dict[str, float]
    log: dict[str, int]
    problems: tuple[str, ...]
    tokens: int
    steps: int


def run(
    minutes: float,
    seed: int,
    pool: int = POOL,
    say: Callable[[str], None] = print,
    *,
    spare: float = SPARE_MIB,
) -> Soak:
    """Let clients ask a server for so long, and return what it came to.

    In the second half its memory may grow by `spare` MiB.
    """
    with tempfile.TemporaryDirectory() as folder:
        artifact = api.compile([*EXACT, *INEXACT], Path(folder) / "all", SETTINGS, certify=False)
        since = time.monotonic()
        decoder = api.load(artifact).from_checkpoint(device="cpu")
        asked = pool_of(decoder, pool, Random(seed))
        say(f"{pool} distinct requests alone: {time.monotonic() - since:.0f} s")
        del decoder
        limits = ("--max-live", str(MAX_LIVE), "--max-queue", str(MAX_QUEUE), "--device", "cpu")
        server = Server(artifact, Path(folder) / "log", limits)
        try:
            return _soaked(server, asked, 60 * minutes, Random(seed + 1), say, spare)
        finally:
            server.kill()


def _soaked(
    server: Server,
    pool: Sequence[Asked],
    seconds: float,
    random: Random,
    say: Callable[[str], None],
    spare: float,
) -> Soak:
    clients = Clients(server.url, pool, random)
    seen: list[Minute] = []
    looks: list[dict[str, float]] = []
    begin = time.monotonic()

    def note() -> None:
        passed = time.monotonic() - begin
        seen.append(Minute(passed, server.memory(), clients.told.calls.total()))
        now = seen[-1].memory
        say(
            f"{passed / 60:5.1f} min: {seen[-1].calls} calls, {now.resident:.0f} MiB (heap "
            f"{now.heap:.0f}, arenas {now.arenas:.0f}, other {now.other:.0f}), {now.files} files, "
            f"{now.threads} threads, {len(clients.told.problems)} problems"
        )

    async def watch(client: httpx.AsyncClient) -> None:
        due = 0.0
        while True:
            if time.monotonic() - begin >= due:
                note()
                due += min(60.0, seconds / 10)
            looks.append(await _gauges(client))
            await asyncio.sleep(LOOK)

    async def all_of_it() -> dict[str, float]:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            watching = asyncio.create_task(watch(client))
            try:
                await clients.run(CUSTOMERS, begin + seconds)
            finally:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)
            return await _settled(client)

    over = asyncio.run(all_of_it())
    note()
    waits = sum(look[GAUGES[1]] > 0 for look in looks) / max(1, len(looks))
    running = sum(look[GAUGES[0]] for look in looks) / max(1, len(looks))
    status = server.end()
    log = noted(server.log)
    problems = [*clients.told.problems, *left(over), *grown(seen, seconds, spare)]
    if status != 0:
        problems.append(f"the server ended with status {status}")
    problems += [f"the log has {count} of {name}" for name, count in log.items() if name != "lines"]
    return Soak(
        tuple(seen),
        clients.told,
        running,
        waits,
        over,
        log,
        tuple(problems),
        int(over["vllm:generation_tokens_total"]),
        int(over["nldc:steps_total"]),
    )


async def _gauges(client: httpx.AsyncClient) -> dict[str, float]:
    """Return the server's metrics by name, summed over their labels."""
    text = (await client.get("/metrics")).text
    found: Counter[str] = Counter()
    for name, value in re.findall(r"^([a-z_:]+)(?:\{.*\})? (\S+)$", text, re.MULTILINE):
        found[name] += float(value)
    return dict(found)


async def _settled(client: httpx.AsyncClient, seconds: float = 60.0) -> dict[str, float]:
    """Return the metrics once nothing runs or waits, or when it is time to give that up."""
    end = time.monotonic() + seconds
    while True:
        found = await _gauges(client)
        if not any(found[name] for name in GAUGES) or time.monotonic() > end:
            return found
        await asyncio.sleep(0.2)


def left(found: dict[str, float]) -> list[str]:
    return [f"{name} is {found[name]:g} in the end" for name in GAUGES if found[name]]


def grown(seen: Sequence[Minute], seconds: float, spare: float = SPARE_MIB) -> list[str]:
    """Say what did not stop growing, once what is made once was made."""
    warm = next(each for each in seen if each.seconds >= WARM * seconds).memory
    last = seen[-1].memory
    grown = []
    if last.resident > warm.resident + spare:
        grown.append(f"{last.resident:.0f} MiB are held in the end, {warm.resident:.0f} before")
    if last.files > seen[0].memory.files + SPARE_FILES:
        grown.append(f"{last.files} files are open in the end, {seen[0].memory.files} before")
    if last.threads > warm.threads:
        grown.append(f"{last.threads} threads are there in the end, {warm.threads} before")
    return grown


def noted(path: Path) -> dict[str, int]:
    """Count a log's lines, and those that tell of an error or a trace."""
    found = Counter({"lines": 0})
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        found["lines"] += 1
        if not line.startswith("{"):
            continue
        entry = json.loads(line)
        if entry.get("status") == 500:
            found["status 500"] += 1
        if entry["level"] in ("error", "critical") or "trace" in entry:
            found["errors"] += 1
    return dict(found)


def table(soak: Soak) -> str:
    """Return what a soak came to as text."""
    first, last = soak.minutes[0].memory, soak.minutes[-1]
    compared = [f"{count} {name}" for name, count in sorted(soak.told.compared.items())]
    log = [f"{count} {name}" for name, count in soak.log.items()]
    spent = last.memory.cpu - first.cpu
    busy = f"{soak.running:.1f} ran on average, and some waited at {soak.waits:.0%} of the looks"
    lines = [
        f"{platform.machine()}, Python {platform.python_version()}",
        f"{last.seconds / 60:.1f} minutes, {CUSTOMERS} clients, at most {MAX_LIVE} live; {busy}",
        f"{last.calls} calls, {soak.tokens} tokens, {soak.steps} steps, {spent:.0f} s of processor",
        f"compared: {', '.join(compared)}",
        f"log: {', '.join(log)}",
        "",
    ]
    kinds = sorted({kind for kind, _ in soak.told.calls})
    for kind in kinds:
        ends = {end: count for (name, end), count in soak.told.calls.items() if name == kind}
        said = ", ".join(f"{end}: {count}" for end, count in sorted(ends.items()))
        lines.append(f"{kind:14} {said}")
    lines += ["", "minute    calls    MiB   heap  arenas  other  files  threads"]
    lines += [
        f"{each.seconds / 60:6.1f} {each.calls:8} {each.memory.resident:6.0f} "
        f"{each.memory.heap:6.0f} {each.memory.arenas:7.0f} {each.memory.other:6.0f} "
        f"{each.memory.files:6} {each.memory.threads:8}"
        for each in soak.minutes
    ]
    lines += ["", *(soak.problems or ("nothing was wrong",))]
    return "\n".join(lines)


def as_json(soak: Soak) -> dict[str, Any]:
    """Return all that is known of a soak as plain data."""
    told = {
        "calls": {" ".join(key): count for key, count in sorted(soak.told.calls.items())},
        "compared": dict(soak.told.compared),
    }
    return {**asdict(replace(soak, told=Told())), "told": told}


def main() -> int:
    """Run one from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="a file for all figures, as JSON")
    options = parser.parse_args()
    soak = run(options.minutes, options.seed, say=lambda text: print(text, flush=True))
    print(table(soak))
    if options.out is not None:
        options.out.write_text(json.dumps(as_json(soak), indent=1) + "\n")
    return 1 if soak.problems else 0


if __name__ == "__main__":
    sys.exit(main())
