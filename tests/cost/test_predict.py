"""Predictions held against what was measured on an H200 on 2026-11-26.

The 8B's shape in bfloat16 with random weights, batch 1, a prefix of 1024 tokens.
"""

from __future__ import annotations

import pytest

from nldc import api
from nldc.cost.device import load_device
from nldc.cost.geometry import RELEASED
from nldc.cost.predict import EAGER, GRAPH, floor, predict
from nldc.cost.step import Setting, step_costs
from nldc.cost.visible import Visible
from nldc.cost.work import Work, forward_work, head_work

B16 = "bfloat16"
G8B = RELEASED["8b"]
H200 = load_device("h200")
FORWARDS = {1: 4.35, 16: 4.58, 32: 4.71, 72: 5.35, 128: 6.05, 272: 12.5}
"""Milliseconds of a causal forward with its head by rows: fused kernels in one graph, 9 a layer."""
ATTENTION = {
    (8, 1024): 15.7, (8, 8192): 63, (16, 1024): 37, (16, 8192): 195, (32, 1024): 126,
    (32, 8192): 752,
}  # fmt: skip
"""Microseconds a layer of the quadratic layout's attention, by block length and prefix."""
EAGER_STEPS = {
    ("ar", 0): (16.04, 19.9), ("linear_ss", 16): (37.76, 44.6), ("linear_ss", 32): (44.49, 40.8),
    ("quadratic_ss", 8): (22.37, 22.8),
}  # fmt: skip
"""Milliseconds of a step launched from Python, in two reports."""


def forward(rows: int) -> tuple[Work, Work]:
    seen = Visible(rows, rows * (rows + 1) // 2)
    return forward_work(G8B, 2, 1, rows, 1024, seen), head_work(G8B, 2, rows, writes=False)


def milliseconds(name: str, block_length: int, setting: Setting) -> float:
    settings = {"block_length": block_length} if block_length else {}
    (step,) = step_costs(api.check(name, settings, others=False).graph, setting)
    return step.predicted * 1e3


@pytest.mark.parametrize("rows", FORWARDS)
def test_a_forward_is_predicted_within_6_percent(rows: int) -> None:
    found = 1e3 * sum(predict(work, H200, B16) for work in forward(rows))
    assert found == pytest.approx(FORWARDS[rows], rel=0.06)


def test_a_linear_step_in_one_graph_is_predicted_within_6_percent() -> None:
    assert milliseconds("linear_ss", 16, Setting(H200, G8B)) == pytest.approx(9.36, rel=0.06)


def test_the_floor_is_that_of_the_weights_until_arithmetic_takes_over() -> None:
    floors = {
        rows: 1e3 * sum(floor(work, H200, B16) for work in forward(rows)) for rows in FORWARDS
    }
    assert 3.42 <= floors[1] <= 3.52
    assert floors[32] < 1.02 * floors[1]
    assert floors[272] == pytest.approx(2 * 7.952e9 * 272 / 790e12 * 1e3, rel=0.06)
    h100 = load_device("h100")
    assert 5.1 <= 1e3 * sum(floor(work, h100, B16) for work in forward(1)) <= 5.35


@pytest.mark.parametrize(("block_length", "prefix"), ATTENTION)
def test_attention_under_the_quadratic_mask_is_predicted_within_15_percent(
    block_length: int, prefix: int
) -> None:
    setting = Setting(H200, G8B, prefix=prefix)
    k, rows = block_length, block_length * (block_length + 1)
    own = k * (k + 1) // 2 + sum(k * (g + 1 + k) for g in range(k))
    work = forward_work(G8B, setting.width, 1, rows, prefix, Visible(rows, own))
    layers = Work(keys=work.keys, attention=work.attention, layers=work.layers)
    # two of the nine kernels of a layer are attention's
    other = layers.layers * 7 + GRAPH.forward
    found = predict(layers, H200, B16) * 1e6 - other * H200.boundary_us
    assert found / G8B.layers == pytest.approx(ATTENTION[block_length, prefix], rel=0.15)


@pytest.mark.parametrize(("name", "block_length"), EAGER_STEPS)
def test_a_step_launched_from_python_is_predicted_within_25_percent_of_both_reports(
    name: str, block_length: int
) -> None:
    found = milliseconds(name, block_length, Setting(H200, G8B, execution=EAGER))
    for measured in EAGER_STEPS[name, block_length]:
        assert found == pytest.approx(measured, rel=0.25)


def test_more_rows_longer_prefixes_and_slower_memory_never_take_less() -> None:
    times = [sum(predict(w, H200, B16) for w in forward(rows)) for rows in range(1, 400, 7)]
    assert times == sorted(times)
    a100 = load_device("a100")
    for rows in FORWARDS:
        for work in forward(rows):
            assert predict(work, H200, B16) >= floor(work, H200, B16)
            assert predict(work, a100, B16) > predict(work, H200, B16)
