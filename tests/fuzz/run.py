"""Try inputs by number: each is made from the seed and its number alone, and tried in a folder.

What is tried may compute for ever in a library that no signal interrupts, or take all memory: so
processes of their own try the inputs, with a limit to their memory, and one that hangs is killed.
"""

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
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

from .readers import READERS, Reader, refused

SECONDS: float = 10
"""An input that computes for longer hangs, and so does one that is not done after `WAIT`."""
WAIT = 60
START = "spawn"
GIBIBYTE = 1 << 30
MOST_MEMORY = 4 * GIBIBYTE
"""What a process may take of memory beside what it has when it begins."""


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


def here(seed: int, number: int) -> Tally:
    """Try one input in this process, within the limit of memory."""
    _limit_memory()
    tally = Tally()
    for each in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(each, _hang)
    with tempfile.TemporaryDirectory(dir=_fast()) as folder:
        try_one(seed, number, Path(folder), tally)
    return tally


def _limit_memory() -> None:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return
    most = pages * resource.getpagesize() + MOST_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _fast() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


# At length: processes that may be lost to one input


def _work(seed: int, part: range, place: Any, results: Any, name: int, until: float | None) -> None:
    """Try a part, saying where it is; what a library prints when it breaks is not shown."""
    import torch

    torch.set_num_threads(1)
    _limit_memory()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    for each in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(each, _hang)
    tally = Tally()
    with tempfile.TemporaryDirectory(dir=_fast()) as held:
        for count, number in enumerate(part):
            if until is not None and time.monotonic() > until:
                break
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
    """A process on its part of the numbers: where it is, and up to where its counts are known.

    It is at -1 until it has imported what it needs. `seen` is where it was when it was last seen to
    move, the time of that, and for how long it had computed.
    """

    process: Any
    place: Any
    part: range
    known: int
    seen: tuple[int, float, float]

    def hangs(self) -> bool:
        """Whether it has been at one input for too long."""
        place, now, used = self.place.value, time.monotonic(), _computed(self.process.pid)
        if place != self.seen[0]:
            self.seen = (place, now, used)
        computes = place >= 0 and used - self.seen[2] > 2 * SECONDS
        return computes or now - self.seen[1] > 2 * WAIT


def _computed(process: int) -> float:
    """Return the seconds that a process has computed, 0.0 where the system does not say."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def at_length(
    seed: int,
    first: int,
    count: int,
    processes: int,
    *,
    until: float | None = None,
    tell: Callable[[Tally], None] | None = None,
) -> Tally:
    """Try `count` inputs in processes; one that hangs or dies costs its process and is reported.

    No input is begun behind `until`, a time of the monotonic clock. `tell` gets the counts now and
    then.
    """
    context = multiprocessing.get_context(START)
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
            place = context.Value("q", -1)
            started += 1
            given = (seed, part, place, results, started, until)
            process = context.Process(target=_work, args=given)
            process.start()
            seen = (-1, time.monotonic(), 0.0)
            running[started] = _Worker(process, place, part, part.start, seen)
        drain()
        for name, worker in list(running.items()):
            hangs = worker.hangs()
            if worker.process.is_alive() and not hangs:
                continue
            if hangs:
                worker.process.kill()
            worker.process.join()
            drain()
            del running[name]
            if worker.process.exitcode == 0:
                continue
            number = max(worker.part.start, int(worker.place.value))
            what = "hangs" if hangs else f"ends the process ({worker.process.exitcode})"
            reader = reader_of(Random(f"{seed}:{number}")).name
            tally.tried[reader] += 1
            tally.failures.append(f"--seed {seed} --only {number}: {reader}: {what}")
            again = (range(worker.known, number), range(number + 1, worker.part.stop))
            waiting += [part for part in again if part]
        if time.monotonic() - shown > 60:
            shown = time.monotonic()
            done = sum(tally.tried.values())
            if tell is not None:
                tell(tally)
            print(f"{done} of {count}, {len(tally.failures)} failures", file=sys.stderr, flush=True)
    return tally
