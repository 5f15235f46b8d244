"""The speed of light: what oracles reach on the demo model, beside strategies."""

from __future__ import annotations

from typing import Any

from benchmarks.report.blocks import table
from benchmarks.report.sources import Record

DRAWN = (
    "ar", "linear_ss", "linear_ss_lora", "quadratic_ss", "tidar", "quadratic_ss_lora",
    "prompt_lookup", "block_diffusion", "entropy_bounded", "factor_threshold", "margin_confidence",
    "slow_fast", "token_editing",
)  # fmt: skip
"""Strategies beside the oracles."""
LENGTHS = (4, 8, 16, 32)


def speed_of_light() -> dict[str, Any]:
    """Return the ceilings of the oracles and what strategies reach, by block length."""
    from nldc.sol import sol

    report = sol(
        None, DRAWN, block_lengths=LENGTHS, count=4, loading={"device": "cpu", "dtype": "float32"}
    )
    oracles: dict[str, dict[str, list[Any]]] = {}
    for line in report.ceilings:
        own = [round(line.accepted, 4), round(line.tpf, 4), line.given, line.probes]
        oracles.setdefault(line.oracle, {})[str(line.block_length)] = own
    reached: dict[str, Any] = {}
    for line in report.reached:
        own = reached.setdefault(line.strategy, {"guarantee": line.guarantee, "tpf": {}})
        own["tpf"][str(line.block_length)] = round(line.tpf, 4)
    return {"oracles": oracles, "strategies": reached}


def accepted_table(found: Record) -> str:
    """Return what oracles commit a step."""
    oracles = found.data["oracles"]

    def row(name: str, place: int, oracle: str, form: str) -> list[str]:
        return [name, *(form.format(oracles[oracle][str(k)][place]) for k in LENGTHS)]

    rows = [row(name, 0, name, "{:.2f}") for name in oracles]
    rows.append(row("greedy: forwards with no right row", 2, "greedy", "{}"))
    rows.append(row("compaction: forwards to search", 3, "compaction", "{}"))
    return table(["tokens a step, oracles", "k = 4", "8", "16", "32"], rows)


def reached_table(found: Record) -> str:
    """Return the TPF of oracles and of strategies."""
    rows = [
        [f"oracle: {name}", *(f"{own[str(k)][1]:.2f}" for k in LENGTHS)]
        for name, own in found.data["oracles"].items()
    ]
    for name, own in found.data["strategies"].items():
        tpf = own["tpf"]
        cells = [f"{tpf.get(str(k), tpf.get('None', 0)):.2f}" for k in LENGTHS]
        rows.append([f"{name} ({own['guarantee']})", *cells])
    return table(["TPF", "k = 4", "8", "16", "32"], rows)
