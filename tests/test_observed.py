"""A run's steps as a profile, and a prediction beside what was measured."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nldc.acceptance import read_acceptance
from nldc.bench import bench
from nldc.observed import observe
from nldc.runtime.engine.observe import Kind, Observer, SequenceStep, StepRecord
from nldc.runtime.errors import ProfileError

GOLDEN = Path(__file__).parent / "golden_checkpoints" / "random-0"
FIGURES = {
    "name": "here", "memory": 1e10, "flops": {"float32": 5e10}, "sms": 2, "launch_us": 10,
    "boundary_us": 0, "host_wait_us": 0,
}  # fmt: skip
LOOPS = {"step.filled": "step.filled.seen"}
SHORT = {"max_new_tokens": 9}


def test_bench_writes_what_the_strategy_accepted_and_how_long_its_loops_ran(tmp_path: Path) -> None:
    path, figures = tmp_path / "profile.json", tmp_path / "here.json"
    figures.write_text(json.dumps(FIGURES))
    ar, blocks = bench(
        ["block_diffusion"], GOLDEN, settings={"block_length": 4}, count=2, repeats=1,
        generation=SHORT, write_acceptance=path, device=figures,
    )  # fmt: skip
    found = read_acceptance(path)
    assert (found.strategy, found.params["block_length"]) == ("block_diffusion", 4)
    assert set(found.accepted) == {4}
    assert 1 <= found.rounds["step.filled"] <= 4
    assert found.most == 4
    assert found.after == ()  # there are no drafts
    for line in (ar, blocks):
        assert line.observed is not None
        assert line.predicted is not None
        assert 0 < line.floor <= line.predicted  # type: ignore[operator]
        assert line.observed.live == 2
        assert line.observed.seconds > 0
    assert ar.observed is not None
    assert set(ar.observed.accepted) == {1}


def record(kind: Kind, seconds: float, *accepted: int, rounds: tuple[int, ...] = ()) -> StepRecord:
    sequences = tuple(
        SequenceStep(number, 4, tokens, tokens, 2, {"step.filled.seen": ran})
        for number, (tokens, ran) in enumerate(zip(accepted, rounds or accepted, strict=True))
    )
    return StepRecord(0, kind, "s", sequences, seconds, len(sequences), 0, 1)


class Decodes:
    """A decoder that tells of steps made up."""

    def generate(self, prompts: list[list[int]], on_step: Observer, **_: Any) -> Any:
        on_step(record("prefill", 9.0, 1))
        on_step(record("step", 2.0, 3, 4, rounds=(1, 4)))
        on_step(record("step", 3.0, 2, 4, rounds=(2, 1)))
        on_step(record("step", 1.0, 4, rounds=(3,)))
        return SimpleNamespace(tokens=[[0] * 6 for _ in prompts])

    def request(self, prompt: list[int], **_: Any) -> Any:
        return SimpleNamespace(prompt=tuple(prompt))


def test_a_step_takes_as_many_rounds_as_its_slowest_sequence_and_prefills_are_no_steps() -> None:
    prompts = [[1, 2, 3], [1, 2, 3, 4, 5]]
    found = observe(Decodes(), prompts, {"batch_size": 2}, LOOPS, 4)  # type: ignore[arg-type]
    assert found is not None
    assert dict(found.accepted) == {2: 1, 3: 1, 4: 3}
    assert found.rounds == {"step.filled": 3.0}
    # 3, 2, 4 in the one sequence and 4, 4 in the other; prefills come before nothing
    assert found.after == ((0, 0, 0, 0), (0, 0, 0, 1), (0, 1, 0, 0), (0, 0, 0, 1))
    assert (found.seconds, found.live, found.prefix) == (2.5, 2, 4 + 3)
    # of both sequences 3 + 1 and 5 tokens, then 3 and 4 more; the last step is of one alone
    assert found.by_prefix == ((4, 2.0), (8, 3.0))


def test_steps_are_put_in_parts_by_the_tokens_in_the_cache() -> None:
    class Long(Decodes):
        def generate(self, prompts: list[list[int]], on_step: Observer, **_: Any) -> Any:
            for number in range(20):
                on_step(record("step", float(number), 2))
            return SimpleNamespace(tokens=[[0] * 40 for _ in prompts])

    found = observe(Long(), [[1] * 10], {}, LOOPS)  # type: ignore[arg-type]
    assert found is not None
    assert [seconds for _, seconds in found.by_prefix] == [1, 4, 7, 10, 13, 16, 18.5]
    assert [prefix for prefix, _ in found.by_prefix] == [12, 18, 24, 30, 36, 42, 47]


def test_a_profile_is_that_of_one_strategy() -> None:
    with pytest.raises(ProfileError, match="that of one strategy, not of 2"):
        bench(["ar", "linear_ss"], GOLDEN, write_acceptance="profile.json")


def test_a_device_that_is_none_is_refused_before_anything_runs() -> None:
    with pytest.raises(ProfileError, match="no device `h10`"):
        bench(["linear_ss"], GOLDEN, device="h10")
