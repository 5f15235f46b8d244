"""A server in a process of its own, as its users start it, seen from outside."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_ARENA = 64 << 20
"""glibc places the heaps of its arenas at multiples of this."""
_MAPPING = re.compile(r"([0-9a-f]+)-[0-9a-f]+ (\S+) \S+ \S+ \d+ *(.*)")


@dataclass(frozen=True)
class Memory:
    """What a process holds: MiB by where they lie, open files, threads, and CPU seconds so far."""

    resident: float
    heap: float
    arenas: float
    other: float
    files: int
    threads: int
    cpu: float


def memory_of(pid: int) -> Memory:
    """Return what a process holds; Linux tells."""
    folder = Path(f"/proc/{pid}")
    parts = {"heap": 0, "arenas": 0, "other": 0}
    part = "other"
    for line in (folder / "smaps").read_text().splitlines():
        mapping = _MAPPING.fullmatch(line)
        if mapping:
            part = _part(int(mapping[1], 16), mapping[3])
        elif line.startswith("Rss:"):
            parts[part] += int(line.split()[1])
    fields = (folder / "stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    return Memory(
        resident=sum(parts.values()) / 1024,
        heap=parts["heap"] / 1024,
        arenas=parts["arenas"] / 1024,
        other=parts["other"] / 1024,
        files=len(list((folder / "fd").iterdir())),
        threads=int(fields[17]),
        cpu=ticks / os.sysconf("SC_CLK_TCK"),
    )


def _part(start: int, name: str) -> str:
    if name == "[heap]":
        return "heap"
    return "arenas" if not name and start % _ARENA == 0 else "other"


class Server:
    """`nldc serve` on a free port of loopback; its log goes to a file."""

    def __init__(self, artifact: Path, log: Path, arguments: Sequence[str] = ()) -> None:
        command = [sys.executable, "-m", "nldc", "serve", str(artifact), "--port", "0", *arguments]
        self.log = log
        with log.open("wb") as file:
            self._process = subprocess.Popen(command, stderr=file, stdin=subprocess.DEVNULL)
        self.pid = self._process.pid
        try:
            self.url = self._begun()
        except BaseException:
            self.kill()
            raise

    def _begun(self, seconds: float = 120.0) -> str:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            said = self.log.read_text()
            place = re.search(r"http://127\.0\.0\.1:\d+", said)
            if place:
                return place[0]
            if self._process.poll() is not None:
                raise RuntimeError(f"the server did not begin: {said}")
            time.sleep(0.1)
        raise RuntimeError(f"the server did not begin within {seconds:g} s")

    def memory(self) -> Memory:
        """Return what it holds now."""
        return memory_of(self.pid)

    def end(self) -> int:
        """Tell it to end; return its status."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(60)

    def kill(self) -> None:
        """End it whatever it does."""
        self._process.kill()
        self._process.wait()
