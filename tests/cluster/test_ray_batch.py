"""A batch on a cluster of two nodes, one of whose actors is killed amid its work."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from two_nodes import ROOT, TwoNodes

from nldc.batch.run import batch
from nldc.batch.worker import Plan
from nldc.prompts import read_prompts

pytestmark = pytest.mark.ray

ROWS = 32
TOKENS = 24


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Held-out prompts, every other one sampled, and one row that cannot be read."""
    texts = read_prompts(ROOT / "nldc" / "demo" / "heldout.jsonl")[:ROWS]
    rows = [{"id": n, "prompt": t, "temperature": n % 2 * 0.8} for n, t in enumerate(texts)]
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows) + "{\n")
    return path


def test_each_row_is_written_once_though_an_actor_is_killed(
    cluster: TwoNodes, artifact: Path, prompts: Path, tmp_path: Path
) -> None:
    out, here = tmp_path / "out.jsonl", tmp_path / "here.jsonl"
    options = ["--artifact", str(artifact), "--max-new-tokens", str(TOKENS), "--batch", "4"]
    command = [sys.executable, "-m", "nldc", "batch", str(prompts), "-o", str(out), *options]
    part = out.with_name("out.jsonl.part")
    with open(tmp_path / "said", "w+b") as said:
        run = subprocess.Popen(
            [*command, "--ray"],
            cwd=tmp_path,
            env=cluster.environment,
            stdout=said,
            stderr=subprocess.STDOUT,
        )
        try:
            end = time.monotonic() + 240
            while time.monotonic() < end and run.poll() is None:
                if part.exists() and part.stat().st_size:
                    break
                time.sleep(0.05)
            actors = cluster.processes("ray::MapWorker")
            os.kill(actors[0], signal.SIGKILL)
            assert len(actors) == 2, "one a GPU"
            assert part.read_bytes().count(b"\n") <= ROWS, "it was killed amid the work"
            assert run.wait(300) == 0, (tmp_path / "said").read_text()
        finally:
            run.kill()
            run.wait()
    batch(prompts, here, Plan(str(artifact), None, generation={"max_new_tokens": TOKENS}))
    assert out.read_bytes() == here.read_bytes()
    assert f"{ROWS + 1} rows, 1 with an error" in (tmp_path / "said").read_text()


def test_who_does_not_know_the_token_is_not_let_in(cluster: TwoNodes, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("0" * 64)
    asked = subprocess.run(
        [sys.executable, "-c", "import ray; ray.init(log_to_driver=False); print('in')"],
        env={**cluster.environment, "RAY_AUTH_TOKEN_PATH": str(token)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert asked.returncode != 0
    assert "in" not in asked.stdout.splitlines()
    assert "token" in asked.stderr.lower()
