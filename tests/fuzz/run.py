"""Try inputs by number: each is made from the seed and its number alone, and tried in a folder."""

from __future__ import annotations

import multiprocessing
import os
import queue
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

from .readers import READERS, Reader, refused

SECONDS = 10
"""An input that computes for longer hangs, and so does one that is not done after `WAIT`."""
WAIT = 60
GIBIBYTE = 1 << 30


@dataclass
class Tally:
    """Counts by reader, and each failure as `seed number: reader: what`."""

    tried: Counter[str] = field(default_factory=Counter)
    accepted: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest: float = 0.0

    def add(self, other: Tally) -> None:
        """Add the counts of another."""
        self.tried += other.tried
        self.accepted += other.accepted
        self.refused += other.refused
        self.failures += other.failures
        self.slowest = max(self.slowest, other.slowest)


class _HangError(BaseException):
    """An input took too long; no handler of what is tested may take it for its own."""


def _hang(_number: int, _frame: FrameType | None) -> None:
    raise _HangError


def reader_of(draw: Random) -> Reader:
    """Return the reader that an input is for."""
    return draw.choices(READERS, [reader.share for reader in READERS])[0]


def try_one(seed: int, number: int, folder: Path, tally: Tally) -> None:
    """Make one input in the empty `folder`, read it, and count what comes of it."""
    draw = Random(f"{seed}:{number}")
    reader = reader_of(draw)
    reader.write(draw, folder)
    tally.tried[reader.name] += 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    wrong: str | None = None
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.setitimer(signal.ITIMER_REAL, WAIT)
    try:
        reader.read(folder)
    except _HangError:
        wrong = f"longer than {SECONDS} s\n{traceback.format_exc()}"
    except Exception as problem:
        wrong = refused(problem, folder)
        if wrong is not None:
            wrong = f"{wrong}: {problem}\n{traceback.format_exc()}"
        tally.refused[reader.name] += wrong is None
    except BaseException as problem:
        if isinstance(problem, KeyboardInterrupt):
            raise
        wrong = f"{type(problem).__name__}: {problem}"
    else:
        tally.accepted[reader.name] += 1
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
    tally.slowest = max(tally.slowest, time.process_time() - began)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) * 1024
    if wrong is None and grown > GIBIBYTE:
        wrong = f"{grown / GIBIBYTE:.1f} GiB of memory"
    if wrong is not None:
        tally.failures.append(f"--seed {seed} --only {number}: {reader.name}: {wrong}")


def empty(folder: Path) -> None:
    """Remove everything in a folder."""
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)


def numbers(seed: int, which: Iterator[int] | Sequence[int] | range, until: float) -> Tally:
    """Try inputs by their numbers, no longer than until a time of the monotonic clock."""
    tally = Tally()
    before = {each: signal.signal(each, _hang) for each in (signal.SIGALRM, signal.SIGPROF)}
    try:
        with tempfile.TemporaryDirectory(dir=_fast()) as held:
            for number in which:
                if time.monotonic() > until:
                    break
                folder = Path(held) / f"f{number}"
                folder.mkdir()
                try:
                    try_one(seed, number, folder, tally)
                finally:
                    shutil.rmtree(folder, ignore_errors=True)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    return tally


def _fast() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


# At length: processes that may be lost to one input


def _work(seed: int, part: range, place: Any, results: Any, name: int) -> None:
    """Try a part, saying where it is; what a library prints when it breaks is not shown."""
    import torch

    torch.set_num_threads(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    for each in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(each, _hang)
    tally = Tally()
    with tempfile.TemporaryDirectory(dir=_fast()) as held:
        for count, number in enumerate(part):
            place.value = number
            folder = Path(held) / f"f{number}"
            folder.mkdir()
            try_one(seed, number, folder, tally)
            shutil.rmtree(folder, ignore_errors=True)
            if count % 100 == 99:
                results.put((name, number + 1, tally))
                tally = Tally()
    results.put((name, part.stop, tally))


@dataclass
class _Worker:
    """A process on its part of the numbers: where it is, and up to where its counts are known."""

    process: Any
    place: Any
    part: range
    known: int
    seen: tuple[int, float]


def at_length(seed: int, first: int, count: int, processes: int) -> Tally:
    """Try `count` inputs in processes; one that hangs or dies costs its process and is reported."""
    context = multiprocessing.get_context("spawn")
    tally = Tally()
    results = context.Queue()
    share = max(1, -(-count // processes))
    waiting = [
        range(at, min(first + count, at + share)) for at in range(first, first + count, share)
    ]
    running: dict[int, _Worker] = {}
    started, shown = 0, time.monotonic()

    def drain() -> None:
        while True:
            try:
                name, upto, found = results.get(timeout=0.1)
            except queue.Empty:
                return
            tally.add(found)
            if name in running:
                running[name].known = upto

    while waiting or running:
        while waiting and len(running) < processes:
            part = waiting.pop()
            place = context.Value("q", part.start)
            started += 1
            process = context.Process(target=_work, args=(seed, part, place, results, started))
            process.start()
            now = time.monotonic()
            running[started] = _Worker(process, place, part, part.start, (part.start, now + 60))
        drain()
        for name, worker in list(running.items()):
            if worker.place.value != worker.seen[0]:
                worker.seen = (worker.place.value, time.monotonic())
            hangs = time.monotonic() - worker.seen[1] > 2 * WAIT
            if worker.process.is_alive() and not hangs:
                continue
            if hangs:
                worker.process.kill()
            worker.process.join()
            drain()
            del running[name]
            if worker.process.exitcode == 0:
                continue
            number = int(worker.place.value)
            what = "hangs" if hangs else f"ends the process ({worker.process.exitcode})"
            reader = reader_of(Random(f"{seed}:{number}")).name
            tally.tried[reader] += 1
            tally.failures.append(f"--seed {seed} --only {number}: {reader}: {what}")
            again = (range(worker.known, number), range(number + 1, worker.part.stop))
            waiting += [part for part in again if part]
        if time.monotonic() - shown > 20:
            shown = time.monotonic()
            done = sum(tally.tried.values())
            print(f"{done} of {count}, {len(tally.failures)} failures", file=sys.stderr, flush=True)
    return tally
