"""Write docs/lossless.md: what was certified, refused and tried, in four tables.

`python -m tests.lossless.report [--graphs N] [--fuzz N] [--tally FILE]...` Each FILE holds the
output of a longer run of `python -m tests.lossless.soundness`, whose counts are added.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from pathlib import Path

from nldc.check.lossless import prove
from nldc.check.lossless.codes import KINDS
from nldc.ir.build import build
from nldc.source import load
from tests.lossless import fuzz, soundness
from tests.lossless.hash_model import first_difference
from tests.lossless.mutants import HERE, STRATEGIES, UNUSUAL, base_text, built, mutants

OUT = HERE.parents[1] / "docs" / "lossless.md"
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
        differing += first_difference(graph, tries=40) is not None
        codes[mutant.code] += 1
    rows: list[tuple[object, ...]] = [
        (code, KINDS[code].message, number) for code, number in sorted(codes.items())
    ]
    return (
        "## Mutants refused\n\n"
        f"{len(mutants())} single edits: {refusals} refused with their own code, {differing} seen "
        "to differ from AR when run unchecked.\n\n" + table(("code", "what", "mutants"), rows)
    )


LINE = re.compile(
    r"(\d+) files, (\d+) well-typed graphs, (\d+) certified .*?of (\d+) .*?, (\d+) never"
)


def tried(graphs: int, tallies: list[Path]) -> str:
    tally, found = soundness.run(graphs, seed=77_000_000)
    counts = [
        tally.made,
        tally.graphs,
        tally.certified,
        tally.sampled_refusals,
        tally.equal_but_refused,
    ]
    differing = int(found is not None)
    for path in tallies:
        text = path.read_text("utf-8")
        last = LINE.findall(text)[-1]
        counts = [old + int(new) for old, new in zip(counts, last, strict=True)]
        differing += "Difference(" in text
    share = counts[2] / counts[1]
    rows: list[tuple[object, ...]] = [
        ("random files, no two of one run the same", counts[0]),
        ("well-typed graphs", counts[1]),
        ("certified", f"{counts[2]} ({share:.1%})"),
        ("certified and not AR", differing),
        ("refused ones that were run too", counts[3]),
        ("of these, never seen to part from AR", counts[4]),
    ]
    return "## Random graphs tried\n\n" + table(("", "number"), rows)


def fuzzed(count: int) -> str:
    tally = fuzz.run(count, seed=5)
    rows: list[tuple[object, ...]] = [
        (kind, tally.tried[kind], tally.taken[kind]) for kind in sorted(tally.tried)
    ]
    return (
        "## Fuzz inputs tried\n\n" + table(("input", "tried", "accepted"), rows)
        + "\nEvery other input was refused with a diagnostic; what was accepted made plain code.\n"
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--graphs", type=int, default=2000)
    parser.add_argument("--fuzz", type=int, default=6000)
    parser.add_argument("--tally", type=Path, action="append", default=[])
    given = parser.parse_args()
    parts = [HEAD, certified(), refused(), tried(given.graphs, given.tally), fuzzed(given.fuzz)]
    OUT.write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main()
