"""A Ray cluster of two nodes on this machine, whose processes all end with it."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RAY_WORKERS = range(10002, 20000)
"""Ports that Ray gives to its workers, and to nobody else."""
STORE = 120 << 20
PATIENCE = 180.0
"""Seconds that a node may take to start, on a machine that is busy with other work."""


@dataclass(frozen=True)
class TwoNodes:
    """The environment of what talks to a cluster, and the processes that its nodes began as."""

    environment: dict[str, str]
    nodes: tuple[int, ...]

    def processes(self, words: str) -> list[int]:
        """Return the ids of this cluster's processes whose title or arguments hold `words`."""
        return [pid for pid, text in family(self.nodes) if words in text]


def own_address() -> str:
    """Return the address under which others know this machine; nothing is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return socket.gethostbyname(socket.gethostname())
        return str(probe.getsockname()[0])


def free_port(host: str) -> int:
    """Return a port that nobody listens at, outside those of Ray's workers."""
    while True:
        with socket.socket() as probe:
            probe.bind((host, 0))
            port = int(probe.getsockname()[1])
        if port not in RAY_WORKERS:
            return port


@contextmanager
def two_nodes(cpus: int = 2) -> Iterator[TwoNodes]:
    """Start a head and a second node, each with `cpus` CPUs and a GPU by its account; end both.

    What is placed by GPU is placed so here as well, and computes where there is none.
    """
    folder = Path(tempfile.mkdtemp(prefix="r-", dir="/tmp"))  # sockets allow short paths only
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    host = own_address()
    address = f"{host}:{free_port(host)}"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "RAY_ADDRESS": address,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TMPDIR": str(folder),
    }
    nodes: list[subprocess.Popen[bytes]] = []
    try:
        head = ["--head", f"--port={address.rpartition(':')[2]}", "--include-dashboard=false"]
        nodes.append(_start(folder, environment, host, cpus, "0", [*head, f"--temp-dir={folder}"]))
        _await_port(address)
        nodes.append(_start(folder, environment, host, cpus, "1", [f"--address={address}"]))
        _await_both(nodes, folder, environment)
        yield TwoNodes(environment, tuple(node.pid for node in nodes))
    finally:
        _stop(nodes)
        shutil.rmtree(folder, ignore_errors=True)


def _start(
    folder: Path, environment: dict[str, str], host: str, cpus: int, name: str, own: list[str]
) -> subprocess.Popen[bytes]:
    ray = Path(sys.executable).with_name("ray")
    common = ["--block", f"--num-cpus={cpus}", "--num-gpus=1", f"--node-ip-address={host}"]
    command = [str(ray), "start", *own, *common, f"--object-store-memory={STORE}"]
    with open(folder / f"node{name}.log", "wb") as log:
        return subprocess.Popen(
            [*command, "--disable-usage-stats"] if "--head" in own else command,
            env={**environment, "RAY_ADDRESS": ""},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


ALIVE = "import ray; ray.init(log_to_driver=False); print(sum(n['Alive'] for n in ray.nodes()))"


def _await_port(address: str) -> None:
    """Wait until somebody listens; who joins too early gives up."""
    host, _, port = address.rpartition(":")
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex((host, int(port))) == 0:
                return
        time.sleep(0.2)


def _await_both(
    nodes: list[subprocess.Popen[bytes]], folder: Path, environment: dict[str, str]
) -> None:
    """Wait until both nodes belong to the cluster."""
    end = time.monotonic() + PATIENCE
    said = ""
    while time.monotonic() < end:
        if any(node.poll() is not None for node in nodes):
            break
        asked = subprocess.run(
            [sys.executable, "-c", ALIVE],
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        if asked.stdout.strip() == "2":
            return
        said = asked.stderr
        time.sleep(1)
    logs = "\n".join(path.read_text() for path in sorted(folder.glob("node*.log")))
    raise AssertionError(f"no cluster of two nodes:\n{logs}\n{said}")


def _stop(nodes: list[subprocess.Popen[bytes]]) -> None:
    """End the nodes, the last first, and then what is left of all that they started."""
    everyone = {pid: _born(pid) for pid, _ in family(node.pid for node in nodes)}
    for node in reversed(nodes):
        node.terminate()
    for node in nodes:
        try:
            node.wait(5)
        except subprocess.TimeoutExpired:
            node.kill()
            node.wait()
    time.sleep(1)
    for pid, born in everyone.items():
        if born is not None and _born(pid) == born:
            os.kill(pid, signal.SIGKILL)


def _born(pid: int) -> str | None:
    """Return when a process began, unlike a later one of its number; None: it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None


def family(pids: Iterable[int]) -> list[tuple[int, str]]:
    """Return processes and all that they started, with their titles.

    Ray gives its processes titles where their environment stood, so a mark in that would be lost.
    """
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found, left = [], list(pids)
    while left:
        pid = left.pop()
        left += children.get(pid, ())
        try:
            title = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
        except OSError:
            continue
        found.append((pid, title.decode(errors="replace")))
    return found
