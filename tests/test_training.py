"""`nldc train` checks its settings before a long run begins."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from nldc.cli import cli
from nldc.runtime.errors import NldcRuntimeError
from nldc.runtime.train.drafter import DrafterRecipe
from nldc.runtime.train.recipe import Recipe
from nldc.training import with_settings

CHECKPOINT = Path(__file__).parent / "golden_checkpoints" / "random-0"


def test_settings_change_numbers_of_the_recipe_and_nothing_else() -> None:
    recipe = with_settings(DrafterRecipe(), {"rank": 8, "alpha": 16})
    assert recipe == DrafterRecipe(rank=8, alpha=16.0)
    assert with_settings(Recipe(), {}) == Recipe()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rnak": 8}, "no number rnak"),
        ({"rank": 8.5}, "rank = 8.5 is not allowed"),
        ({"rank": 0}, "rank = 0 is not allowed"),
        ({"precision": 3}, "no number precision"),
        ({"learning_rate": float("nan")}, "learning_rate = nan is not allowed"),
        ({"alpha": float("inf")}, "alpha = inf is not allowed"),
        ({"threads": 10**12}, "threads = 1000000000000 is not allowed"),
        ({"seed": 10**20}, "is not allowed"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    settings: dict[str, int | float], message: str
) -> None:
    with pytest.raises(NldcRuntimeError, match=message):
        with_settings(DrafterRecipe(), settings)


def test_mistakes_end_with_an_error_and_nothing_written(tmp_path: Path) -> None:
    run = CliRunner().invoke(cli, ["train", "drafter", str(tmp_path / "none")])
    assert run.exit_code == 1
    assert "error" in run.stderr
    run = CliRunner().invoke(cli, ["train", "base", str(tmp_path / "out"), "--set", "stpes=3"])
    assert run.exit_code == 1
    assert "the recipe has no number stpes" in run.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_not_overwritten_by_accident(tmp_path: Path) -> None:
    (tmp_path / "state.pt").write_bytes(b"days of work")
    run = CliRunner().invoke(cli, ["train", "base", str(tmp_path)])
    assert run.exit_code == 1
    assert "--resume" in run.stderr
    assert (tmp_path / "state.pt").read_bytes() == b"days of work"
