"""A prediction for what was measured: the same strategy, model, batch and prefix."""

from __future__ import annotations

from pathlib import Path

from nldc.cost.device import Device
from nldc.cost.geometry import load_geometry
from nldc.cost.predict import RUNTIME
from nldc.cost.step import Setting, StepCost, step_costs, taken
from nldc.ir.graph import Graph
from nldc.observed import Observed


def cost_of_observed(
    graph: Graph, observed: Observed, device: Device, model: Path, dtype: str
) -> StepCost:
    """Return what a step costs as it was observed: its sequences, its cache, its loops' rounds."""
    setting = Setting(
        device=device,
        geometry=load_geometry(model),
        prefix=observed.prefix,
        batch=observed.live,
        dtype=dtype,
        execution=RUNTIME,
        rounds=observed.rounds,
    )
    return taken(graph, step_costs(graph, setting), observed.live)
