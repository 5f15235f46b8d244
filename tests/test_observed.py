"""A run's steps as a profile, and a prediction beside what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nldc.acceptance import read_acceptance
from nldc.bench import bench
from nldc.runtime.errors import ProfileError

GOLDEN = Path(__file__).parent / "golden_checkpoints" / "random-0"
FIGURES = {
    "name": "here", "memory": 1e10, "flops": {"float32": 5e10}, "sms": 2, "launch_us": 10,
    "boundary_us": 0, "host_wait_us": 0,
}  # fmt: skip
SHORT = {"max_new_tokens": 9}


def test_bench_writes_what_the_strategy_accepted_and_how_long_its_loops_ran(tmp_path: Path) -> None:
    path, figures = tmp_path / "profile.json", tmp_path / "here.json"
    figures.write_text(json.dumps(FIGURES))
    ar, blocks = bench(
        ["block_diffusion"], GOLDEN, settings={"block_length": 4}, count=2, repeats=1,
        generation=SHORT, profile=path, device=figures,
    )  # fmt: skip
    found = read_acceptance(path)
    assert (found.strategy, found.params["block_length"]) == ("block_diffusion", 4)
    assert set(found.accepted) == {4}
    assert 1 <= found.rounds["step.filled"] <= 4
    assert found.most == 4
    for line in (ar, blocks):
        assert line.observed is not None
        assert line.predicted is not None
        assert 0 < line.floor <= line.predicted  # type: ignore[operator]
        assert line.observed.live == 2
        assert line.observed.seconds > 0
    assert ar.observed is not None
    assert set(ar.observed.accepted) == {1}


def test_a_profile_is_that_of_one_strategy() -> None:
    with pytest.raises(ProfileError, match="that of one strategy, not of 2"):
        bench(["ar", "linear_ss"], GOLDEN, profile="profile.json")


def test_a_device_that_is_none_is_refused_before_anything_runs() -> None:
    with pytest.raises(ProfileError, match="no device `h10`"):
        bench(["linear_ss"], GOLDEN, device="h10")
