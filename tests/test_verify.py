"""Comparing an artifact with AR, token for token."""

from __future__ import annotations

from pathlib import Path

import pytest

from nldc import api
from nldc.bench import bench
from nldc.verify import Difference, first_difference, verify

GOLDEN = Path(__file__).parent / "golden_checkpoints" / "random-1"


@pytest.mark.parametrize(
    ("expected", "found", "difference"),
    [
        ([1, 2, 3], [1, 2, 3], None),
        ([], [], None),
        ([1, 2, 3], [1, 9, 3], Difference(0, 1, (1,), 2, 9)),
        ([1, 2], [1, 2, 3], Difference(0, 2, (1, 2), None, 3)),
        ([1, 2, 3], [1, 2], Difference(0, 2, (1, 2), 3, None)),
        ([*range(20), 5], [*range(20), 6], Difference(0, 20, tuple(range(12, 20)), 5, 6)),
    ],
)
def test_the_first_difference_is_shown_with_what_leads_there(
    expected: list[int], found: list[int], difference: Difference | None
) -> None:
    assert first_difference(0, expected, found) == difference


def test_an_exact_strategy_gives_the_tokens_of_ar_in_any_batch(tmp_path: Path) -> None:
    artifact = api.compile("linear_ss", tmp_path / "linear_ss", {"block_length": 5})
    for options in ({"batch_size": 1}, {"temperature": 0.7, "seed": 3}):
        (found,), _ = verify(
            artifact, GOLDEN, count=3, generation={"max_new_tokens": 11, **options}
        )
        assert found.same
        assert found.prompts == 3
        assert 3 <= found.tokens <= 33


def test_an_inexact_strategy_is_seen_to_differ(tmp_path: Path) -> None:
    artifact = api.compile("block_diffusion", tmp_path / "blocks", {"block_length": 4})
    (found,), _ = verify(artifact, GOLDEN, count=4, generation={"max_new_tokens": 12})
    assert not found.same
    assert all(d.expected != d.found for d in found.differences)


def test_bench_times_each_strategy_and_says_whether_its_tokens_are_those_of_ar() -> None:
    ticks = iter(range(1000))
    measured = bench(
        ["linear_ss", "block_diffusion"],
        GOLDEN,
        settings={"block_length": 4},
        count=2,
        repeats=1,
        generation={"max_new_tokens": 8},
        clock=lambda: float(next(ticks)),
    )
    assert [line.strategy for line in measured] == ["ar", "linear_ss", "block_diffusion"]
    assert [line.same for line in measured] == [True, True, False]
    assert all(line.seconds == 1.0 for line in measured)
    assert measured[0].tpf == 1.0
