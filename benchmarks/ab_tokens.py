"""CPU time of a token on the demo model, of another checkout and of this one, in turns of one run.

    git worktree add .baseline a70f8c2        # or any copy of a tree
    python benchmarks/ab_tokens.py .baseline ar linear_ss

Each turn is a fresh process with one tree's code, one thread: a prompt is decoded greedily to 100
tokens, a few times over. What is printed for each tree is the median over its turns of the median
over the repeats, and the least.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
RUN = """
import json, sys, time
import torch
from nldc import api
torch.set_num_threads(1)
strategy, out, repeats = sys.argv[1], sys.argv[2], int(sys.argv[3])
decoder = api.load(api.compile(strategy, out, certify=False)).from_checkpoint(None)
spent = []
for _ in range(repeats + 1):
    begun = time.process_time()
    (tokens,) = decoder.generate(["def fibonacci(n):"], max_new_tokens=100).tokens
    spent.append(1000 * (time.process_time() - begun) / len(tokens))
print(json.dumps(spent[1:]))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("other", type=Path, help="the other checkout")
    parser.add_argument("strategies", nargs="+")
    parser.add_argument("--turns", type=int, default=3, help="fresh processes for each tree")
    parser.add_argument("--repeats", type=int, default=12, help="texts decoded in a turn")
    options = parser.parse_args()
    trees = {"other": options.other.resolve(), "this": ROOT}
    for strategy in options.strategies:
        found: dict[str, list[list[float]]] = {name: [] for name in trees}
        for turn in range(options.turns):
            for name in trees if turn % 2 == 0 else reversed(trees):
                found[name].append(turn_of(trees[name], strategy, options.repeats))
        middle = {name: median(map(median, turns)) for name, turns in found.items()}
        for name, turns in found.items():
            least = min(map(min, turns))
            print(f"{strategy:16} {name:6} {middle[name]:7.2f} ms a token, least {least:.2f}")
        print(f"{strategy:16} this / other {middle['this'] / middle['other']:.3f}", flush=True)
    return 0


def turn_of(tree: Path, strategy: str, repeats: int) -> list[float]:
    """Return the milliseconds of CPU time a token took, of each text."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", RUN, strategy, str(Path(folder) / strategy), str(repeats)]
        environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=True
        )
    times: list[float] = json.loads(done.stdout.splitlines()[-1])
    return times


if __name__ == "__main__":
    raise SystemExit(main())
