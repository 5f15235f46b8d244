"""Figures of the library's strategies on the demo model: forwards, drafts and speed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.report.blocks import table
from benchmarks.report.sources import Record

if TYPE_CHECKING:
    from nldc.bench import Measured
    from nldc.ir.graph import Graph

COUNT = 24
MISSING = "\u2013"
"""What stands where nothing was measured, or where there is no such figure."""
ROUTED = "concurrency_router"
"""It drafts for few sequences at a time, and not for many."""
LABELS = {
    "linear_ss_tree": "4 branches",
    "lookahead": "8 columns, 4-grams",
    "quadratic_ss_tapered": "40 rows",
    "quadratic_ss_tapered_lora": "40 rows",
}
"""What of a strategy's defaults the table names."""
TAPERED = (
    ("quadratic_ss", 8, None), ("quadratic_ss_tapered", 8, 72), ("quadratic_ss_tapered", 8, 56),
    ("quadratic_ss_tapered", 8, 48), ("quadratic_ss_tapered", 8, 40),
    ("quadratic_ss_tapered", 8, 36), ("quadratic_ss_tapered", 8, 24), ("quadratic_ss", 6, None),
    ("quadratic_ss", 5, None), ("quadratic_ss_lora", 8, None),
    ("quadratic_ss_tapered_lora", 8, 40), ("quadratic_ss_tapered_lora", 8, 36),
    ("quadratic_ss_lora", 5, None),
)  # fmt: skip
"""Strategy, block length, and budget of rows."""


def library() -> list[str]:
    """Return the strategies of the library, AR first."""
    from nldc import api

    return ["ar", *(name for name in sorted(api.library()) if name != "ar")]


def forwards() -> list[list[Any]]:
    """Return of each strategy its tokens a forward, a draft and a cycle, and how many are AR's."""
    # Forwards do not depend on how many sequences go together, but where a strategy asks for that.
    free = [name for name in library() if name != ROUTED]
    found = [*benched(free, repeats=0, batch=COUNT), *benched([ROUTED], repeats=0)[1:]]
    return sorted(forwards_of(found), key=lambda line: library().index(line[0]))


def forwards_of(results: Sequence[Measured]) -> list[list[Any]]:
    return [
        [
            line.name, round(line.figures.tpf_with_prefill, 4),
            round(line.figures.tpf_without_prefill, 4), _rounded(line.figures.acceptance_length),
            round(line.accepted, 4), line.same, round(line.agreement, 4),
        ]
        for line in results
    ]  # fmt: skip


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def speeds() -> dict[str, float]:
    """Return the tokens a second of each strategy, one sequence at a time."""
    found = benched(library(), repeats=2)
    return {line.name: round(line.tokens_per_second, 1) for line in found}


def benched(names: Sequence[str], repeats: int = 1, batch: int = 1, **plan: Any) -> list[Measured]:
    """Decode the demo model's held-out prompts with strategies; `plan` are options of `bench`."""
    from nldc.bench import bench

    return bench(
        [name for name in names if name != "ar"],
        count=COUNT,
        repeats=repeats,
        loading={"device": "cpu", "dtype": "float32"},
        generation={"max_new_tokens": 128, "batch_size": batch},
        **plan,
    )


def strategies_table(counted: Record, timed: Record) -> str:
    """Return README's table of the library on the demo model."""
    speeds = timed.data
    rows = []
    for name, with_, without, length, cycle, same, share in counted.data:
        speed = speeds.get(name)
        rows.append([
            f"`{name}`" + (f" ({LABELS[name]})" if name in LABELS else ""),
            *map(_figure, (with_, without, length, cycle)),
            "100 %" if same else f"{100 * share:.1f} %",
            _figure(speed, 1),
            _figure(None if speed is None else speed / speeds["ar"]),
        ])  # fmt: skip
    head = [
        "strategy", "TPF with prefill", "without", "acceptance length", "tokens a cycle",
        "tokens as AR", "tokens/s", "to AR",
    ]  # fmt: skip
    return table(head, rows, numbers=7)


def _figure(value: float | None, digits: int = 2) -> str:
    return MISSING if value is None else f"{value:.{digits}f}"


def tapered() -> list[list[Any]]:
    """Return what budgets of rows bring: strategy, length, rows, budget, masks, TPF, a cycle."""
    from nldc import api

    found: list[list[Any]] = []
    known: dict[tuple[str, Any, Any], Measured] = {}
    for name in dict.fromkeys(name for name, _, _ in TAPERED):
        own = [(length, rows) for each, length, rows in TAPERED if each == name]
        lengths, budgets = (tuple(dict.fromkeys(column)) for column in zip(*own, strict=True))
        grid = {"block_length": lengths} | ({"rows": budgets} if budgets != (None,) else {})
        # Forwards do not depend on how many sequences go together, and time does.
        for line in benched([name], repeats=0, batch=8, grid=grid)[1:]:
            assert line.same
            known[name, line.settings["block_length"], line.settings.get("rows")] = line
    for name, length, rows in TAPERED:
        line = known[name, length, rows]
        graph = api.check(name, dict(line.settings), others=False).graph
        masks = _masks(graph) if rows is not None else [length] * length
        found.append([
            name, length, length + sum(masks), rows, masks, round(line.tpf, 4),
            round(line.accepted, 4),
        ])  # fmt: skip
    return found


def _masks(graph: Graph) -> list[int]:
    """Return the masks behind each number of accepted tokens."""
    from nldc.ir.ops import LayRows

    dealt = [
        [size.fixed for size in segment.sizes]
        for node in graph.nodes
        if isinstance(node.op, LayRows) and node.op.profile is not None
        for segment in node.op.layout.segments
        if not segment.tokens
    ]
    return dealt[0]


def tapered_table(counted: Record) -> str:
    """Return the table of budgets."""
    rows, before = [], ""
    for name, length, used, budget, masks, tpf, cycle in counted.data:
        even = len(set(masks)) == 1
        rows.append([
            f"`{name}`" if name != before else "", str(length),
            f"{used} of {budget}" if budget not in (None, used) else str(used),
            f"{masks[0]} each" if even else " ".join(map(str, masks)), f"{tpf:.2f}", f"{cycle:.2f}",
        ])  # fmt: skip
        before = name if name.startswith("quadratic_ss_tapered") else ""
    lines = [
        "| strategy | block length | rows | masks behind 1, 2, … tokens | TPF | tokens a cycle |"
    ]
    lines += ["| --- | ---: | ---: | --- | ---: | ---: |"]
    lines += [f"| {' | '.join(row)} |".replace("|  |", "| |") for row in rows]
    return "\n".join(lines) + "\n"
