"""A prediction for what was measured: the same strategy, model, batch and prefix."""

from __future__ import annotations

from pathlib import Path

from nldc.cost.device import Device, load_device
from nldc.cost.geometry import RELEASED, Geometry, load_geometry
from nldc.cost.predict import RUNTIME, predict
from nldc.cost.step import Setting, StepCost, step_costs, taken
from nldc.cost.visible import Visible
from nldc.cost.work import forward_work, head_work
from nldc.ir.graph import Graph
from nldc.observed import Observed

ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
PREFIXES = (128, 1024, 8192, 32768)


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


def rows_of_observed(graph: Graph, observed: Observed) -> tuple[float, float]:
    """Return the rows of one forward of a step, all sequences together, and how many it takes."""
    # Any device and model: rows and forwards do not depend on them.
    setting = Setting(
        load_device("h100"), RELEASED["8b"], batch=observed.live, rounds=observed.rounds
    )
    cost = taken(graph, step_costs(graph, setting), observed.live)
    forwards = sum(part.times for part in cost.parts if not part.head)
    rows = sum(part.times * part.rows for part in cost.parts if not part.head)
    return observed.live * rows / forwards, forwards


def forward_times(
    device: Device, geometry: Geometry, dtype: str
) -> dict[int, list[tuple[int, float]]]:
    """Return the predicted seconds of a causal forward with its head, by prefix, by rows."""
    setting = Setting(device, geometry, dtype=dtype, execution=RUNTIME)

    def seconds(rows: int, prefix: int) -> float:
        seen = Visible(rows, rows * (rows + 1) // 2)
        works = (
            forward_work(geometry, setting.width, 1, rows, prefix, seen),
            head_work(geometry, setting.width, rows, writes=False),
        )
        return sum(predict(work, device, dtype, RUNTIME) for work in works)

    return {prefix: [(rows, seconds(rows, prefix)) for rows in ROWS] for prefix in PREFIXES}
