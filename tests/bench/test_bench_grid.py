"""Which runs a benchmark has."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest

from nldc.bench.grid import MOST, cases
from nldc.runtime.errors import ProfileError

DEMO = Path(str(files("nldc"))) / "demo"


def test_every_strategy_runs_with_every_combination_of_what_it_has() -> None:
    grid = {"block_length": (4, 8), "threshold": (0.4, 0.6)}
    found = cases(["linear_ss", "linear_ss_iterative", "ar"], {}, grid, DEMO)
    assert [(each.file, dict(each.chosen)) for each in found] == [
        ("ar", {}),
        ("linear_ss", {"block_length": 4}),
        ("linear_ss", {"block_length": 8}),
        ("linear_ss_iterative", {"block_length": 4, "threshold": 0.4}),
        ("linear_ss_iterative", {"block_length": 4, "threshold": 0.6}),
        ("linear_ss_iterative", {"block_length": 8, "threshold": 0.4}),
        ("linear_ss_iterative", {"block_length": 8, "threshold": 0.6}),
    ]


def test_a_setting_goes_with_all_of_a_strategys_runs() -> None:
    found = cases(["linear_ss_iterative"], {"threshold": 0.4}, {"block_length": (4,)}, DEMO)
    assert found[1].settings == {"threshold": 0.4, "block_length": 4}
    assert found[1].chosen == {"block_length": 4}


def test_what_no_strategy_has_goes_to_the_first_whose_check_refuses_it() -> None:
    found = cases(["linear_ss", "quadratic_ss"], {}, {"blok_length": (4,)}, DEMO)
    assert [dict(each.chosen) for each in found] == [{}, {"blok_length": 4}, {}]


def test_too_many_runs_are_refused() -> None:
    with pytest.raises(ProfileError, match=f"300 runs are more than the {MOST}"):
        cases(["linear_ss"], {}, {"block_length": range(300)}, DEMO)
