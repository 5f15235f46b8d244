"""What was certified, refused and tried, for the tables of docs/soundness.md.

`python -m tests.lossless.report mutants|edits|tried|fuzzed` with `--graphs N`, `--fuzz N`, and as
often as wanted `--tally FILE`, `--fuzz-tally FILE`. A tally is the output of a longer run of
`python -m tests.lossless.soundness COUNT SEED SECONDS` or of `python -m tests.lossless.fuzz COUNT
SEED`, whose counts are added. With `--graphs 0` or `--fuzz 0` a table is made of tallies alone.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from benchmarks.report.blocks import table
from nldc.check.lossless import prove
from nldc.check.lossless.codes import KINDS
from tests.lossless import fuzz, soundness
from tests.lossless.hash_model import first_difference
from tests.lossless.mutants import HERE, built, mutants


def refused() -> dict[str, Any]:
    """Return how many mutants there are, how many are refused, by code, and differ from AR."""
    codes: Counter[str] = Counter()
    refusals = differing = 0
    for mutant in mutants():
        _, graph = built(mutant.text())
        problems = prove(graph).problems
        refusals += bool(problems) and problems[0].code == mutant.code
        found = first_difference(graph, 40, lengths=mutant.prompts, live=mutant.live)
        differing += found is not None
        codes[mutant.code] += 1
    rows = [[code, KINDS[code].message, number] for code, number in sorted(codes.items())]
    return {
        "edits": len(mutants()), "refused": refusals, "differing": differing, "codes": rows,
    }  # fmt: skip


KINDS_OF_FILES = ("exact plain", "exact adversarial", "none plain", "none adversarial")


def tried(graphs: int, tallies: list[Path]) -> list[str]:
    """Return what random strategies came to, as lines of Markdown."""
    tally, _ = soundness.run(graphs, seed=77_000_000, failed=lambda _: False)
    for path in tallies:
        tally.add(_last_tally(path))
    rows: list[list[str]] = []
    for kind in KINDS_OF_FILES:
        promise, names = kind.split()
        graphs_, accepted = tally.graphs[kind], tally.accepted[kind]
        share = f"{accepted} ({accepted / max(1, graphs_):.1%})"
        numbers = (tally.files[kind], graphs_, share, tally.failures[kind])
        rows.append([promise, names, *map(str, numbers)])
    total = (
        f"{tally.accepted.total()} ({tally.accepted.total() / max(1, tally.graphs.total()):.1%})"
    )
    sums = (tally.made, tally.graphs.total(), total, tally.failures.total())
    rows.append(["all", "", *map(str, sums)])
    slowest = ", ".join(f"{seconds:.1f} s (seed {seed})" for seconds, seed in tally.slowest)
    head = ["promised", "names", "files", "well typed", "accepted", "not as promised"]
    text = (
        table(head, rows)
        + f"""
No two files of one run are the same. Half have names that are drawn from Python, the runtime and
generated code, or made of the file's other names. What is accepted is compiled and run: it must
emit what the interpreter emits, in as many steps and forwards, whatever it promises, and what AR
emits if it is `exact`; a mask or a token that a processor forbids is a failure.
{tally.paired} accepted files also took turns with others in one artifact.
{tally.sampled_refusals} refused ones were run too; {tally.equal_but_refused} of them were never
seen to part from AR.
The slowest checks took {slowest or "no time"}.
"""
    )
    return text.splitlines()


def _last_tally(path: Path) -> str:
    lines = [line for line in path.read_text("utf-8").splitlines() if line.startswith("TALLY ")]
    return lines[-1].removeprefix("TALLY ")


def fuzzed(count: int, tallies: list[Path]) -> list[str]:
    """Return what damaged inputs came to, as lines of Markdown."""
    tally = fuzz.run(count, seed=5)
    for path in tallies:
        tally.add(_last_tally(path))
    rows = [[kind, str(tally.tried[kind]), str(tally.taken[kind])] for kind in sorted(tally.tried)]
    end = "Every other input was refused with a diagnostic; what was accepted made plain code."
    return [*table(["input", "tried", "accepted"], rows).splitlines(), "", end]


def edited() -> list[list[Any]]:
    """Return how many edits of generated code there are, by strategy."""
    edits = yaml.safe_load((HERE / "mutants_artifacts.yaml").read_text("utf-8"))
    of = Counter(edit["strategy"] for edit in edits)
    return [[strategy, number] for strategy, number in of.most_common()]


def main() -> None:
    """Do what the command line says."""
    from benchmarks.report.__main__ import write_tables
    from benchmarks.report.entries import EDITS, FUZZED, MUTANTS, TRIED
    from benchmarks.report.sources import bring

    parser = argparse.ArgumentParser(prog="python -m tests.lossless.report", description=__doc__)
    parser.add_argument("what", choices=["mutants", "edits", "tried", "fuzzed"])
    parser.add_argument("--graphs", type=int, default=2000)
    parser.add_argument("--fuzz", type=int, default=6000)
    parser.add_argument("--tally", type=Path, action="append", default=[])
    parser.add_argument("--fuzz-tally", type=Path, action="append", default=[])
    given = parser.parse_args()
    match given.what:
        case "mutants":
            bring(MUTANTS, refused())
        case "edits":
            bring(EDITS, edited())
        case "tried":
            bring(TRIED, tried(given.graphs, given.tally))
        case _:
            bring(FUZZED, fuzzed(given.fuzz, given.fuzz_tally))
    write_tables()


if __name__ == "__main__":
    main()
