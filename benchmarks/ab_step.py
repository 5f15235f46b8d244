"""Steps of another checkout and of this one, timed alternately in one run on one device.

    git worktree add .baseline v0.1          # or any copy of a tree
    python benchmarks/ab_step.py .baseline   # --device cpu --small tries it

Each turn is a fresh process with the other tree's code: the 8B shape in bfloat16 with random
weights, a prefix of 1024 tokens, `ar` and `linear_ss` at block length 16. What is printed for each
tree is the median over its turns of the median over runs; the least is over all runs.
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
from types import ModuleType
from typing import Any

from report_script import gpu_report

ROOT = Path(__file__).resolve().parent.parent
CASES: tuple[tuple[str, dict[str, int]], ...] = (("ar", {}), ("linear_ss", {"block_length": 16}))


def main() -> int:
    options = arguments()
    report = gpu_report(options.tree or ROOT)
    report.link_folders()
    missing = report.bring(options.wheels)
    if missing:
        print(f"cannot be imported here: {', '.join(missing)}", file=sys.stderr)
        return 2
    if options.tree:
        print(json.dumps(steps(report, options)))
        return 0
    trees = {"other": options.other.resolve(), "this": ROOT}
    found: dict[tuple[str, str], list[list[float]]] = {}
    for turn in range(options.turns):
        for name, tree in trees.items() if turn % 2 == 0 else reversed(trees.items()):
            for strategy, runs in turn_of(tree, options).items():
                found.setdefault((strategy, name), []).append(runs)
                print(f"turn {turn + 1}, {name}: {strategy} {median(runs):.2f} ms", flush=True)
    for strategy, _ in CASES:
        middle = {}
        for name in trees:
            turns = found[strategy, name]
            middle[name] = median(median(runs) for runs in turns)
            print(f"{strategy:10} {name:6} {middle[name]:8.2f} ms a step, least "
                  f"{min(map(min, turns)):.2f}")  # fmt: skip
        print(f"{strategy:10} this / other {middle['this'] / middle['other']:.3f}")
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("other", type=Path, help="the other checkout")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="a small model and few tokens")
    parser.add_argument("--turns", type=int, default=2, help="fresh processes for each tree")
    parser.add_argument("--wheels", type=Path, help="a folder of wheels for what is missing")
    parser.add_argument("--tree", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def turn_of(tree: Path, options: argparse.Namespace) -> dict[str, list[float]]:
    """Return the milliseconds a step of each run, by strategy, from a process of its own."""
    command = [sys.executable, __file__, str(options.other), "--tree", str(tree)]
    command += ["--device", options.device, *(["--small"] if options.small else [])]
    path = os.pathsep.join(filter(None, (str(tree), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": path},
        cwd=tree,
        stdout=subprocess.PIPE,
        check=True,
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def steps(report: ModuleType, options: argparse.Namespace) -> dict[str, list[float]]:
    """Time the cases with the code of `options.tree`."""
    import torch

    import nldc

    assert Path(nldc.__file__).is_relative_to(options.tree), nldc.__file__
    given = report.Options(options.device, options.small, ROOT, ROOT, 0.0)
    backbone, _ = report.random_8b(given)
    prefix, count = (40, 8) if options.small else (1024, 40)
    tokens = torch.arange(prefix) % (backbone.config.vocab_size - 4) + 4
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, settings in CASES:
            kind, _ = report.compiled(name, Path(scratch), **settings)
            backend = report.backends(given)[0]
            decoder = kind(backbone, backend=backend)
            found[name] = []
            for turn in range(6):
                (stats,) = decoder.generate([tokens.tolist()], max_new_tokens=count, eos=()).stats
                if turn:
                    seconds = stats.seconds - stats.time_to_first_token
                    found[name].append(seconds / max(len(stats.accepted), 1) * 1e3)
    return found


if __name__ == "__main__":
    sys.exit(main())
