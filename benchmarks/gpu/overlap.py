"""Steps that are replayed before the tokens of the last one are read, against steps that wait.

    python benchmarks/gpu/overlap.py [--batch 1 8 32] [--device cpu --small]

The 8B shape in bfloat16 with random weights, behind 1024 tokens; in one process, in turn. For each
strategy and number of sequences: the median time of a step, the share of the time in which the
device had nothing to do (under the profiler, which makes the host slower), how many steps of how
many replays overlapped, and how many parts of sequences that had ended were computed for nobody.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

CASES: tuple[tuple[str, dict[str, int]], ...] = (
    ("ar", {}),
    ("linear_ss", {"block_length": 16}),
    ("quadratic_ss", {"block_length": 8}),
    ("block_diffusion", {"block_length": 8}),
)
TURNS = 4


def main() -> None:
    """Time what the command line asks for, and print it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--batch", type=int, nargs="+", default=(1, 8, 32))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="a small model and few tokens")
    given = parser.parse_args()
    from benchmarks.report_script import gpu_report

    report = gpu_report()
    options = report.Options(given.device, given.small, ROOT, ROOT, 0.0)
    backbone, _ = report.random_8b(options)
    with tempfile.TemporaryDirectory() as scratch:
        for name, settings in CASES:
            kind, _ = report.compiled(name, Path(scratch), **settings)
            decoder = kind(backbone, backend=report.backends(options)[0])
            for batch in given.batch:
                for overlap in (False, True):
                    print(line(report, decoder, name, batch, options, overlap=overlap), flush=True)


def line(
    report: ModuleType, decoder: Any, name: str, batch: int, options: Any, *, overlap: bool
) -> str:
    """Return what a strategy's steps of so many sequences take."""
    prefix, tokens = (40, 24) if options.small else (1024, 64)
    graphs = decoder.engine.graphs
    graphs.overlap = overlap
    prompts = [
        [(7 * number + place) % (decoder.config.vocab_size - 4) + 4 for place in range(prefix)]
        for number in range(batch)
    ]

    def decode() -> Any:
        return decoder.generate(prompts, max_new_tokens=tokens, eos=(), batch_size=batch)

    decode()  # kernels are compiled, memory is taken, and graphs are made
    decode()
    before = (graphs.overlapped, graphs.replays, graphs.wasted)
    times = []
    for _ in range(TURNS):
        stats = decode().stats
        longest = max(stats, key=lambda one: len(one.accepted))
        first = max(one.time_to_first_token for one in stats)
        # Where a prefill emits nothing, the first token comes with the first step.
        behind = len(longest.accepted) - (sum(longest.accepted) >= tokens)
        times.append((longest.seconds - first) / max(behind, 1) * 1e3)
    after = (graphs.overlapped, graphs.replays, graphs.wasted)
    overlapped, replays, wasted = (now - was for now, was in zip(after, before, strict=True))
    share = "" if options.device == "cpu" else f", device idle {report.idle(decode)['idle']:.1%}"
    return (
        f"{name:16} {batch:3} sequences, {'overlapped' if overlap else 'apart':10} "
        f"{median(times):8.2f} ms a step{share}; {overlapped} of {replays} replays overlapped, "
        f"{wasted} parts wasted"
    )


if __name__ == "__main__":
    main()
