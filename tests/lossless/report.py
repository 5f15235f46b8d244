"""Write docs/soundness.md: what was certified, refused and tried, in five tables.

`python -m tests.lossless.report [--graphs N] [--fuzz N] [--tally FILE]... [--fuzz-tally FILE]...`
Each tally is the output of a longer run of `python -m tests.lossless.soundness COUNT SEED SECONDS`
or `python -m tests.lossless.fuzz COUNT SEED`, whose counts are added. With `--graphs 0 --fuzz 0`
the document is made of tallies alone.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import yaml

from nldc.check.lossless import prove
from nldc.check.lossless.codes import KINDS
from nldc.ir.build import build
from nldc.source import load
from tests.lossless import fuzz, soundness
from tests.lossless.hash_model import first_difference
from tests.lossless.mutants import HERE, STRATEGIES, UNUSUAL, base_text, built, mutants

OUT = HERE.parents[1] / "docs" / "soundness.md"
HEAD = """# Losslessness: what was certified, refused and tried

Written by `python -m tests.lossless.report`; docs/losslessness.md says what it means.
"""


def table(head: tuple[str, ...], rows: list[tuple[object, ...]]) -> str:
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    lines += [" | ".join(str(cell) for cell in row) for row in rows]
    return "\n".join(f"| {line} |" for line in lines) + "\n"


def certified() -> str:
    rows: list[tuple[object, ...]] = []
    for path in sorted(STRATEGIES.glob("*.yaml")):
        graph = build(load(path)).graph
        assert graph is not None
        found = prove(graph)
        params = ", ".join(f"{name} = {value}" for name, value in graph.params.items())
        rows.append((f"`{path.stem}`", params, found.claimed, found.proved, found.outcomes))
    unusual = [prove(built(base_text(p.stem))[1]).proved for p in sorted(UNUSUAL.glob("*.yaml"))]
    return (
        "## Strategies certified\n\n"
        + table(("strategy", "params", "promised", "proved", "outcomes"), rows)
        + f"\nOf {len(unusual)} unusual strategies that are right (tests/lossless/unusual), "
        f"{unusual.count('exact')} are certified.\n"
    )


def refused() -> str:
    codes: Counter[str] = Counter()
    refusals = differing = 0
    for mutant in mutants():
        _, graph = built(mutant.text())
        problems = prove(graph).problems
        refusals += bool(problems) and problems[0].code == mutant.code
        found = first_difference(graph, 40, lengths=mutant.prompts, live=mutant.live)
        differing += found is not None
        codes[mutant.code] += 1
    rows: list[tuple[object, ...]] = [
        (code, KINDS[code].message, number) for code, number in sorted(codes.items())
    ]
    return (
        "## Mutants refused\n\n"
        f"{len(mutants())} single edits: {refusals} refused with their own code, {differing} seen "
        "to differ from AR when run unchecked.\n\n" + table(("code", "what", "mutants"), rows)
    )


KINDS_OF_FILES = ("exact plain", "exact adversarial", "none plain", "none adversarial")


def tried(graphs: int, tallies: list[Path]) -> str:
    tally, _ = soundness.run(graphs, seed=77_000_000, failed=lambda _: False)
    for path in tallies:
        tally.add(_last_tally(path))
    rows: list[tuple[object, ...]] = []
    for kind in KINDS_OF_FILES:
        promise, names = kind.split()
        graphs_, accepted = tally.graphs[kind], tally.accepted[kind]
        share = f"{accepted} ({accepted / max(1, graphs_):.1%})"
        rows.append((promise, names, tally.files[kind], graphs_, share, tally.failures[kind]))
    total = (
        f"{tally.accepted.total()} ({tally.accepted.total() / max(1, tally.graphs.total()):.1%})"
    )
    rows.append(("all", "", tally.made, tally.graphs.total(), total, tally.failures.total()))
    slowest = ", ".join(f"{seconds:.1f} s (seed {seed})" for seconds, seed in tally.slowest)
    return (
        "## Random strategies tried\n\n"
        + table(("promised", "names", "files", "well typed", "accepted", "not as promised"), rows)
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


def _last_tally(path: Path) -> str:
    lines = [line for line in path.read_text("utf-8").splitlines() if line.startswith("TALLY ")]
    return lines[-1].removeprefix("TALLY ")


def fuzzed(count: int, tallies: list[Path]) -> str:
    tally = fuzz.run(count, seed=5)
    for path in tallies:
        tally.add(_last_tally(path))
    rows: list[tuple[object, ...]] = [
        (kind, tally.tried[kind], tally.taken[kind]) for kind in sorted(tally.tried)
    ]
    return (
        "## Fuzz inputs tried\n\n" + table(("input", "tried", "accepted"), rows)
        + "\nEvery other input was refused with a diagnostic; what was accepted made plain code.\n"
    )  # fmt: skip


def edited() -> str:
    edits = yaml.safe_load((HERE / "mutants_artifacts.yaml").read_text("utf-8"))
    of = Counter(edit["strategy"] for edit in edits)
    listed = ", ".join(f"{number} of `{strategy}`" for strategy, number in of.most_common())
    return (
        "## Edits of generated code found\n\n"
        f"{len(edits)} single edits ({listed}): each is found by what `nldc compile` runs before "
        "it writes (tests/lossless/test_artifact_mutants.py).\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--graphs", type=int, default=2000)
    parser.add_argument("--fuzz", type=int, default=6000)
    parser.add_argument("--tally", type=Path, action="append", default=[])
    parser.add_argument("--fuzz-tally", type=Path, action="append", default=[])
    given = parser.parse_args()
    parts = [
        HEAD, certified(), refused(), edited(), tried(given.graphs, given.tally),
        fuzzed(given.fuzz, given.fuzz_tally),
    ]  # fmt: skip
    OUT.write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main()
