"""Figures of devices: the cost model beside what was measured, and servers."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from benchmarks.report.blocks import table
from benchmarks.report.sources import ROOT, Record

ROWS = (1, 16, 32, 72, 128, 272)
STEP = "linear step, k = 16"
PREFIX = 1024
REPORT = "benchmarks/gpu/h200-2026-11-27.json"
SERVED = "benchmarks/serve-cpu-2026-11-27.md"


def constants() -> dict[str, float]:
    """Return what the cost model takes for granted."""
    from nldc.cost.device import load_device
    from nldc.cost.predict import GRAPH

    device = load_device("h200")
    return {
        "memory": GRAPH.memory_rate,
        "arithmetic": GRAPH.arithmetic_rate,
        "overlap": GRAPH.overlap,
        "attention": GRAPH.attention_rate,
        "attention_us": GRAPH.attention_us,
        "boundary_us": device.boundary_us,
        "launch_us": device.launch_us,
        "host_wait_us": device.host_wait_us,
    }


def constants_table(found: Record) -> str:
    """Return the constants, and what each was fitted to."""
    data = found.data
    rows = [
        ["share of the read rate", f"{data['memory']}",
         "products alone in a graph: 99 us a layer where 95.8 is the floor"],
        ["share of the peak, products", f"{data['arithmetic']}",
         "fitted to the forwards below; cuBLAS reaches about 0.85 at 272 rows"],
        ["what does not overlap", f"{data['overlap']}",
         "fitted to the forwards below; cuBLAS' products alone give about 0.2 too"],
        ["share of the peak, attention", f"{data['attention']}, {data['attention_us']:g} us",
         "fitted to the quadratic mask's attention, 6 to 1056 rows"],
        ["`boundary_us`", f"{data['boundary_us']}",
         "fitted to one row; measured with ramp and drain 1.7 to 2.9"],
        ["`launch_us`", f"{data['launch_us']:g}",
         "two reports of whole steps launched from Python: 16 to 22"],
        ["`host_wait_us`", f"{data['host_wait_us']:g}", "not measured"],
    ]  # fmt: skip
    return table(["constant", "value", "from"], rows)


def predictions() -> dict[str, dict[str, float]]:
    """Return floor and prediction of forwards with their heads, and of a linear step, in ms."""
    from nldc import api
    from nldc.cost.device import load_device
    from nldc.cost.geometry import RELEASED
    from nldc.cost.predict import floor, predict
    from nldc.cost.step import Setting, step_costs
    from nldc.cost.visible import Visible
    from nldc.cost.work import Work, forward_work, head_work

    device, model, dtype = load_device("h200"), RELEASED["8b"], "bfloat16"

    def works(rows: int) -> tuple[Work, Work]:
        seen = Visible(rows, rows * (rows + 1) // 2)
        return (
            forward_work(model, 2, 1, rows, PREFIX, seen),
            head_work(model, 2, rows, writes=False),
        )

    def all_of(time: Callable[[Work, Any, str], float]) -> dict[str, float]:
        return {str(k): round(1e3 * sum(time(w, device, dtype) for w in works(k)), 3) for k in ROWS}

    graph = api.check("linear_ss", {"block_length": 16}, others=False).graph
    (step,) = step_costs(graph, Setting(device, model, prefix=PREFIX))
    return {
        "floor": all_of(floor) | {STEP: round(1e3 * step.floor, 3)},
        "predicted": all_of(predict) | {STEP: round(1e3 * step.predicted, 3)},
    }


HEAD = ["rows", *map(str, ROWS), STEP]
COLUMNS = [*map(str, ROWS), STEP]


def predicted_table(found: Record, measured: Record) -> str:
    """Return floors and predictions beside a hand-written kernel's times."""
    floors, predicted, times = found.data["floor"], found.data["predicted"], measured.data
    rows = [
        ["floor, ms", *(f"{floors[each]:.2f}" for each in COLUMNS)],
        ["predicted, ms", *(f"{predicted[each]:.2f}" for each in COLUMNS)],
        ["measured, ms", *(f"{times[each]:g}" for each in COLUMNS)],
        ["error", *(_percent(predicted[each] / times[each]) for each in COLUMNS)],
    ]
    return table(HEAD, rows)


def _percent(ratio: float) -> str:
    number = round(100 * (ratio - 1))
    sign = {True: "+", False: "\u2212"}[number > 0] if number else ""
    return f"{sign}{abs(number)} %"


def replayed() -> dict[str, float]:
    """Return the times of forwards and of a linear step in the GPU report that was kept."""
    records = json.loads((ROOT / REPORT).read_text("utf-8"))["phases"]["times"]["records"]
    found: dict[str, float] = {}
    for each in records:
        is_plain = each.get("weights") == "bfloat16" and each.get("backend") == "triton"
        if each["what"] == "forward" and is_plain and each["prefix"] == PREFIX:
            found[str(each["rows"])] = each["ms"]
        is_linear = each.get("strategy") == "linear_ss" and each["settings"]["block_length"] == 16
        if each["what"] == "step" and is_linear and each["replayed"]:
            found.setdefault(STEP, each["ms"])
    return {each: round(found[each], 4) for each in COLUMNS}


def replayed_at() -> tuple[str, str]:
    """Return the device and the date of the GPU report that was kept."""
    machine = json.loads((ROOT / REPORT).read_text("utf-8"))["machine"]
    return f"{machine['device']}, torch {machine['torch']}", machine["date"][:10]


def replayed_table(measured: Record, found: Record) -> str:
    """Return the kernels' times, and how far they are above the prediction."""
    times, predicted = measured.data, found.data["predicted"]
    rows = [
        ["measured, ms", *(f"{times[each]:.2f}" for each in COLUMNS)],
        ["to the prediction", *(_percent(times[each] / predicted[each]) for each in COLUMNS)],
    ]
    return table(HEAD, rows)


def served() -> list[list[str]]:
    """Return the lines of the server's benchmark that was kept."""
    lines = (ROOT / SERVED).read_text("utf-8").splitlines()
    found = [line for line in lines if line.startswith(("| httpx", "| aiperf"))]
    return [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in found]


def served_at() -> tuple[str, str]:
    """Return the device and the date of the server's benchmark that was kept."""
    title, _, _, _, machine = (ROOT / SERVED).read_text("utf-8").splitlines()[:5]
    return machine.partition(". ")[0].replace("`", ""), title.rpartition(" ")[2]


def served_table(found: Record) -> str:
    """Return how fast a server answers, at several calls at a time."""
    by = {(client, live, name): rest for client, live, name, *rest in found.data}
    rows = []
    for live in ("1", "8", "32"):
        _, speed, first, between, _ = by["httpx", live, "ar"]
        _, drafted, _, _, ratio = by["httpx", live, "linear_ss"]
        between = ", ".join(_short(each) for each in between.split(", "))
        other = by["aiperf", live, "linear_ss"][-1]
        rows.append([live, speed, f"{first} ms", f"{between} ms", f"{drafted}, {ratio[:4]}", other])
    head = [
        "at a time", "`ar`: tokens/s", "TTFT p50, p99", "ITL p50, p99",
        "`linear_ss`, 16 a block: tokens/s, to `ar`", "by aiperf",
    ]  # fmt: skip
    return table(head, rows)


def _short(number: str) -> str:
    """Return a number of milliseconds with the digits that count."""
    value = float(number)
    return f"{value:.1f}" if value < 10 else str(int(value + 0.5))
