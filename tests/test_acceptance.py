"""A profile of accepted tokens, its file, and what it says of other block lengths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nldc.acceptance import Acceptance, parse_acceptance, read_acceptance, write_acceptance
from nldc.runtime.errors import ProfileError

GOOD: dict[str, Any] = {
    "format": 1,
    "strategy": "linear_ss",
    "params": {"block_length": 4},
    "accepted": {"1": 400, "2": 300, "3": 200, "4": 100},
}


def test_a_profile_expects_its_own_mean_at_the_block_length_where_it_was_measured() -> None:
    profile = parse_acceptance(GOOD, "file")
    assert profile.steps == 1000
    assert profile.mean == pytest.approx(2.0)
    assert profile.expected(4) == pytest.approx(profile.mean)


def test_a_shorter_block_cuts_every_run_off_at_its_length() -> None:
    profile = parse_acceptance(GOOD, "file")
    assert profile.expected(1) == 1
    assert profile.expected(2) == pytest.approx(1 + 0.6)
    assert profile.expected(3) == pytest.approx(1 + 0.6 + 0.3)


def test_beyond_what_was_measured_the_share_that_goes_on_is_one_number() -> None:
    profile = parse_acceptance(GOOD, "file")
    tail = (300 + 100) / (600 + 300)  # positions 2 and 3, the second half, pooled
    assert profile.goes_on(4) == profile.goes_on(40) == pytest.approx(tail)
    assert profile.expected(6) == pytest.approx(2.0 + 0.1 * tail + 0.1 * tail**2)


def test_geometric_runs_are_continued_exactly() -> None:
    accepted = {n: 2 ** (16 - n) for n in range(1, 9)} | {9: 2**8 - 0}
    profile = Acceptance("s", {}, accepted)  # every second run goes on; 9 is where they were cut
    assert profile.expected(64) == pytest.approx(2.0, abs=1e-9)


def test_where_hardly_any_step_came_the_tail_stands_in() -> None:
    profile = Acceptance("s", {}, {1: 500, 2: 499, 3: 1}, most=8)
    assert profile.goes_on(3) == profile.goes_on(7) < 0.01
    assert Acceptance("s", {}, {1: 7}).expected(16) == 1


def test_drafts_of_one_length_are_the_chain_that_needs_no_chain() -> None:
    profile = parse_acceptance(GOOD, "file")
    assert profile.counts == (400, 300, 200, 100)
    assert profile.expected_of([4, 4, 4, 4]) == pytest.approx(profile.expected(4))
    assert profile.expected_of([1]) == 1


def test_short_drafts_behind_likely_points_cost_the_steps_after_them() -> None:
    profile = parse_acceptance(GOOD, "file")
    p = 0.6  # how likely a second token is
    # after 1 a draft of 2 tokens, after 2 one of 1: p(1) = 1 / (1 + p)
    assert profile.expected_of([2, 1]) == pytest.approx((1 + 2 * p) / (1 + p))
    assert profile.expected_of([1, 2]) == pytest.approx(1.0)  # once 1, always 1
    always = Acceptance("s", {}, {1: 0, 2: 100, 3: 100})
    assert always.expected_of([2, 1, 1]) == pytest.approx(1.5)  # goes round: 1, 2, 1, 2


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    profile = Acceptance("s", {"k": 4, "t": 0.5}, {2: 3, 1: 9}, {"step.filled": 3.5}, 4)
    write_acceptance(profile, tmp_path / "profile.json")
    assert read_acceptance(tmp_path / "profile.json") == profile
    assert list(json.loads((tmp_path / "profile.json").read_text())["accepted"]) == ["1", "2"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 2}, "format is 2"),
        ({"format": True}, "format is True"),
        ({"strategy": 1}, "strategy is 1"),
        ({"params": {"k": "4"}}, "params is"),
        ({"accepted": None}, "accepted is None"),
        ({"accepted": {}}, "counts no step"),
        ({"accepted": {"1": 0}}, "counts no step"),
        ({"accepted": {"0": 3}}, "accepted has '0': 3"),
        ({"accepted": {"²": 3}}, "accepted has '²': 3"),
        ({"accepted": {"1": -3}}, "accepted has '1': -3"),
        ({"accepted": {"1": 1.5}}, "accepted has '1': 1.5"),
        ({"accepted": {"99999": 1}}, "accepted has '99999': 1"),
        ({"rounds": {"step.filled": -1}}, "rounds is"),
        ({"most": 1e9}, "most is"),
        ({"acepted": {}}, "has the key 'acepted'"),
    ],
)
def test_what_is_no_profile_is_refused_in_one_sentence(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ProfileError, match=r"^file") as refused:
        parse_acceptance(GOOD | change, "file")
    assert said in refused.value.message
    assert refused.value.hint


def test_files_that_are_not_there_or_no_json_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="there is no file"):
        read_acceptance(tmp_path / "profile.json")
    (tmp_path / "profile.json").write_text("[1")
    with pytest.raises(ProfileError, match="cannot be read as JSON"):
        read_acceptance(tmp_path / "profile.json")
    (tmp_path / "profile.json").write_text("[1]")
    with pytest.raises(ProfileError, match="holds no JSON object"):
        read_acceptance(tmp_path / "profile.json")
