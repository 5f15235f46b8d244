"""What drafts and the trained sampler of the demo model bring."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from benchmarks.report.blocks import table
from benchmarks.report.sources import Record

COUNT = 24
"""How many prompts the sampler is tried on."""


def sampled() -> list[list[Any]]:
    """Return the trained sampler's table: sampler, param, TPF, and the share of AR's tokens."""
    from tempfile import TemporaryDirectory

    from benchmarks import trained_sampler
    from nldc.prompts import read_prompts

    prompts = read_prompts(Path(str(files("nldc"))) / "demo" / "heldout.jsonl")[:COUNT]
    with TemporaryDirectory() as folder:
        lines = list(trained_sampler.rows(Path(folder), [str(each) for each in prompts], 128))
    return [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines[2:]]


def sampled_table(found: Record) -> str:
    """Return the trained sampler against thresholds."""
    rows = [[f"`{sampler}`", *rest] for sampler, *rest in found.data]
    return table(["sampler", "param", "TPF", "tokens as AR"], rows, numbers=3)


def evaluated() -> dict[str, Any]:
    """Return what drafts of the demo model bring, by `python -m nldc.runtime.train report`."""
    from nldc.runtime.train.report import measure

    report = measure(Path(str(files("nldc"))) / "demo")
    rows = [
        [
            row.mode, row.block_length, row.every.cycles, round(row.every.tokens_per_cycle, 2),
            round(row.every.tokens_per_forward, 2), round(row.others.tokens_per_cycle, 2),
            round(row.others.tokens_per_forward, 2),
        ]
        for row in report.rows
    ]  # fmt: skip
    return {"prompts": report.prompts, "repeating": round(report.repeating, 2), "rows": rows}


def evaluated_table(found: Record) -> str:
    """Return acceptance on the held-out prompts."""
    data = found.data
    rows = [
        [mode, str(k), str(cycles), f"{cycle:.2f}", f"{tpf:.2f}", f"{cycle_:.2f}, {tpf_:.2f}"]
        for mode, k, cycles, cycle, tpf, cycle_, tpf_ in data["rows"]
    ]
    head = [
        "mode", "block", "cycles", "tokens a cycle", "tokens a forward", "the same without loops",
    ]  # fmt: skip
    share = (
        f"{data['prompts']} prompts, {data['repeating']:.0%} of the continuations end in a loop."
    )
    return f"{share}\n\n{table(head, rows)}"


def drafter_table(found: Record) -> str:
    """Return what the drafter gains for linear self-speculation."""
    rows = {(mode, k): (cycle, other) for mode, k, _, cycle, _, other, _ in found.data["rows"]}
    lines = []
    for k in (8, 16, 32):
        plain, drafted = rows["linear", k], rows["linear + LoRA", k]
        cells = [str(k)]
        for before, after in zip(plain, drafted, strict=True):
            cells += [
                f"{before:.2f}",
                f"{after:.2f}",
                f"{after / before - 1:.0%}".replace("%", " %"),
            ]
        lines.append(cells)
    head = [
        "linear, block", "tokens a cycle", "with LoRA", "gain", "without loops", "with LoRA",
        "gain",
    ]  # fmt: skip
    return table(head, lines)
