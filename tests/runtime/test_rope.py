"""Rotary positions against formulas written another way, and the query temperature."""

from __future__ import annotations

import math
import sys
from concurrent.futures import ThreadPoolExecutor, wait
from threading import Barrier, Event

import pytest
import torch

from nldc.runtime.checkpoint.config import RopeConfig
from nldc.runtime.checkpoint.rope_frequencies import attention_factor, inverse_frequencies
from nldc.runtime.model.rope import RopeTable, rotate

RELEASED = RopeConfig("yarn", 1e6, 16.0, 16384, 32.0, 1.0, 1.0, 1.0, llama_4_beta=0.1)
CPU = torch.device("cpu")


def yarn(rope: RopeConfig, dim: int, pair: int) -> float:
    """Frequency of one pair after YaRN, as the paper tells it: by wavelengths in the context."""
    base = rope.theta ** (-2 * pair / dim)

    def pair_with(rotations: float) -> float:
        wavelength = rope.original_context / rotations
        return dim / 2 * math.log(wavelength / (2 * math.pi), rope.theta)

    low = max(0, math.floor(pair_with(rope.beta_fast)))
    high = min(dim - 1, math.ceil(pair_with(rope.beta_slow)))
    slow = min(1.0, max(0.0, (pair - low) / (high - low)))
    return base * (1 - slow) + base / rope.factor * slow


@pytest.mark.parametrize("dim", [64, 128])
@pytest.mark.parametrize("beta_fast", [16.0, 32.0])
def test_yarn_keeps_fast_pairs_and_stretches_slow_ones(dim: int, beta_fast: float) -> None:
    rope = RopeConfig("yarn", 1e6, 16.0, 16384, beta_fast, 1.0, 1.0, 1.0)
    found = inverse_frequencies(rope, dim)
    want = torch.tensor([yarn(rope, dim, pair) for pair in range(dim // 2)], dtype=torch.float64)
    torch.testing.assert_close(found, want, rtol=1e-12, atol=0)
    assert found[0] == 1
    assert found[-1] == pytest.approx(1e6 ** (2 / dim - 1) / 16)


def test_the_attention_factor_follows_from_the_two_mscales() -> None:
    def factor(**settings: float) -> float:
        return attention_factor(RopeConfig("yarn", 1e4, 8.0, 64, **settings))

    assert factor(mscale=1.0, mscale_all_dim=1.0) == 1
    assert factor() == pytest.approx(0.1 * math.log(8) + 1)
    ratio = (0.1 * 0.7 * math.log(8) + 1) / (0.1 * 0.5 * math.log(8) + 1)
    assert factor(mscale=0.7, mscale_all_dim=0.5) == pytest.approx(ratio)
    assert factor(attention_factor=0.25) == 0.25
    assert attention_factor(RopeConfig("default", 1e4)) == 1


def test_queries_warm_up_by_whole_multiples_of_the_original_context() -> None:
    table = RopeTable(RopeConfig("yarn", 1e4, 4.0, 16, llama_4_beta=0.3), 64, torch.float64, CPU)
    table.reserve(40)
    _, _, factor = table.at(torch.tensor([0, 15, 16, 31, 32]))
    want = [1, 1, 1 + 0.3 * math.log(2), 1 + 0.3 * math.log(2), 1 + 0.3 * math.log(3)]
    torch.testing.assert_close(factor.flatten(), torch.tensor(want).double() / 8)


def test_rotation_is_that_of_pairs_half_a_head_apart() -> None:
    table = RopeTable(RELEASED, 64, torch.float64, CPU)
    table.reserve(300)
    x = torch.randn(3, 2, 64, dtype=torch.float64)
    positions = torch.tensor([0, 7, 299])
    cos, sin, _ = table.at(positions)
    found = rotate(x, cos, sin)
    turn = torch.polar(
        torch.ones(3, 1, 32).double(), (positions[:, None] * table.frequencies).unsqueeze(1)
    )
    want = torch.complex(x[..., :32], x[..., 32:]) * turn
    torch.testing.assert_close(found, torch.cat((want.real, want.imag), -1))


def test_growing_the_table_changes_nothing_that_was_there() -> None:
    table = RopeTable(RELEASED, 16, torch.float32, CPU)
    table.reserve(10)
    before = table.at(torch.arange(10))
    table.reserve(5000)
    for old, new in zip(before, table.at(torch.arange(10)), strict=True):
        assert torch.equal(old, new)


def test_linear_scaling_is_every_position_divided_by_the_factor() -> None:
    plain = RopeTable(RopeConfig("default", 1e4), 64, torch.float64, CPU)
    scaled = RopeTable(RopeConfig("linear", 1e4, 4.0), 64, torch.float64, CPU)
    plain.reserve(40)
    scaled.reserve(160)
    for want, found in zip(
        plain.at(torch.arange(40)), scaled.at(4 * torch.arange(40)), strict=True
    ):
        torch.testing.assert_close(found, want)


def test_threads_that_reserve_and_read_at_once_find_every_position_they_reserved() -> None:
    sizes = [300, 20_000, 700, 5000, 1200, 40_000]
    want = RopeTable(RELEASED, 16, torch.float32, CPU)
    want.reserve(max(sizes))
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(6):
            table, start = RopeTable(RELEASED, 16, torch.float32, CPU), Barrier(len(sizes))

            def use(size: int, table: RopeTable = table, start: Barrier = start) -> bool:
                start.wait()
                table.reserve(size)
                last = torch.tensor([0, size - 1])
                pairs = zip(table.at(last), want.at(last), strict=True)
                return all(torch.equal(found, wanted) for found, wanted in pairs)

            with ThreadPoolExecutor(len(sizes)) as pool:
                assert all(pool.map(use, sizes))
    finally:
        sys.setswitchinterval(before)


def test_a_table_that_another_thread_made_longer_is_not_made_shorter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = RopeTable(RELEASED, 16, torch.float32, CPU)
    entered, go = Event(), Event()
    made = RopeTable._made

    def waiting(self: RopeTable, size: int) -> object:
        if size == 256:
            entered.set()
            go.wait(5)
        return made(self, size)

    monkeypatch.setattr(RopeTable, "_made", waiting)
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(table.reserve, 10)]
        assert entered.wait(5)
        jobs.append(pool.submit(table.reserve, 3000))
        wait(jobs, timeout=0.1)
        go.set()
    assert table.size >= 3000


def test_the_whole_tables_are_those_of_every_position() -> None:
    table = RopeTable(RELEASED, 64, torch.float32, CPU)
    table.reserve(70)
    positions = torch.tensor([0, 3, 69, 3])
    for whole, at in zip(table.whole(), table.at(positions), strict=True):
        assert torch.equal(whole[positions].view(at.shape), at)
