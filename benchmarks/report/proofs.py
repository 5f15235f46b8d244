"""What is proved of the library, and what edits are refused and found."""

from __future__ import annotations

from functools import cache
from typing import Any

from benchmarks.report.blocks import table
from benchmarks.report.sources import Record


@cache
def proofs() -> dict[str, Any]:
    """Return what is promised and proved of each strategy, and how many unusual ones are."""
    from nldc.check.lossless import prove
    from nldc.ir.build import build
    from nldc.reuse import load
    from tests.lossless.mutants import STRATEGIES, UNUSUAL, base_text, built

    rows = []
    for path in sorted(STRATEGIES.glob("*.yaml")):
        source = load(path)
        graph = build(source).graph
        assert graph is not None
        found = prove(graph)
        params = ", ".join(f"{name} = {value}" for name, value in graph.params.items())
        summary = str(source.data["summary"])
        rows.append([path.stem, summary, params, found.claimed, found.proved, found.outcomes])
    unusual = [prove(built(base_text(p.stem))[1]).proved for p in sorted(UNUSUAL.glob("*.yaml"))]
    return {"rows": rows, "unusual": len(unusual), "certified": unusual.count("exact")}


def library_table(proved: Record) -> str:
    """Return README's list of the library."""
    rows = [
        [
            f"[`{name}`](strategies/{name}.yaml)",
            "exact (proved)" if known == claimed == "exact" else claimed,
            summary,
        ]
        for name, summary, _, claimed, known, _ in proved.data["rows"]
    ]
    return table(["strategy", "guarantee", "what it does"], rows)


def certified_table(proved: Record) -> str:
    """Return what is certified of each strategy, and of the unusual ones."""
    rows = [
        [f"`{name}`", params, claimed, known, str(outcomes)]
        for name, _, params, claimed, known, outcomes in proved.data["rows"]
    ]
    data = proved.data
    return (
        table(["strategy", "params", "promised", "proved", "outcomes"], rows)
        + f"\nOf {data['unusual']} unusual strategies that are right (tests/lossless/unusual), "
        f"{data['certified']} are certified.\n"
    )


def mutants() -> dict[str, Any]:
    """Return how many edits of strategies are refused, by code, and seen to part from AR."""
    from tests.lossless.report import refused

    return refused()


def mutants_table(found: Record) -> str:
    """Return the edits that are refused."""
    data = found.data
    rows = [[code, what, str(number)] for code, what, number in data["codes"]]
    return (
        f"{data['edits']} single edits: {data['refused']} refused with their own code, "
        f"{data['differing']} seen to differ from AR when run unchecked.\n\n"
        + table(["code", "what", "mutants"], rows)
    )


def edits() -> list[list[Any]]:
    """Return how many edits of generated code are tried, by strategy."""
    from tests.lossless.report import edited

    return edited()


def edits_text(found: Record) -> str:
    """Return what edits of generated code are found."""
    listed = ", ".join(f"{number} of `{strategy}`" for strategy, number in found.data)
    total = sum(number for _, number in found.data)
    return (
        f"{total} single edits ({listed}): each is found by what `nldc compile` runs before "
        "it writes (tests/lossless/test_artifact_mutants.py).\n"
    )
