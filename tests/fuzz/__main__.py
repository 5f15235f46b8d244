"""The command line of the fuzz suite: run at length, repeat one input, write the page."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path

from benchmarks.report.__main__ import write_tables
from benchmarks.report.entries import DAMAGED
from benchmarks.report.sources import bring

from .report import counted
from .run import Tally, at_length, here


def main() -> int:
    """Read the arguments and do what they say; 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=3000, help="how many inputs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--only", type=int, help="try this input alone, here")
    parser.add_argument("--seconds", type=float, help="begin no input later than this")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--tally", type=Path, help="JSON file to write the counts to")
    parser.add_argument(
        "--report", action="store_true", help="write docs/fuzz.md's table from tallies"
    )
    parser.add_argument("tallies", type=Path, nargs="*")
    given = parser.parse_args()
    if given.report:
        read = [json.loads(path.read_text(encoding="utf-8")) for path in given.tallies]
        bring(DAMAGED, counted(read))
        write_tables()
        return 0
    began = time.monotonic()

    def keep(tally: Tally) -> None:
        if given.tally is not None:
            data = as_data(tally, given.seed, time.monotonic() - began)
            given.tally.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")

    if given.only is not None:
        tally = here(given.seed, given.only)
    else:
        until = None if given.seconds is None else began + given.seconds
        tally = at_length(
            given.seed, given.first, given.count, given.processes, until=until, tell=keep
        )
    seconds = time.monotonic() - began
    for failure in tally.failures:
        print(failure)
    total = sum(tally.tried.values())
    print(
        f"{total} inputs in {seconds:.0f} s: {sum(tally.accepted.values())} accepted, "
        f"{sum(tally.refused.values())} refused, {len(tally.failures)} failures; "
        f"the slowest took {tally.slowest:.2f} s"
    )
    keep(tally)
    return 1 if tally.failures else 0


def as_data(tally: Tally, seed: int, seconds: float) -> dict[str, object]:
    """Return a tally as JSON data."""

    def plain(counter: Counter[str]) -> dict[str, int]:
        return dict(sorted(counter.items()))

    return {
        "seed": seed,
        "seconds": round(seconds),
        "slowest": round(tally.slowest, 3),
        "tried": plain(tally.tried),
        "accepted": plain(tally.accepted),
        "refused": plain(tally.refused),
        "failures": tally.failures,
    }


if __name__ == "__main__":
    sys.exit(main())
