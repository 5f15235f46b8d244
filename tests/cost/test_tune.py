"""The search for the params of the most predicted tokens a second, and its commands."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from nldc.acceptance import Acceptance, write_acceptance
from nldc.cli.commands import cli
from nldc.cost.device import load_device
from nldc.cost.geometry import RELEASED
from nldc.cost.step import Setting
from nldc.cost.tune import show_tuned, tune
from nldc.diagnostics import StrategyError
from nldc.ir.taper import survival, taper, tokens_a_step
from nldc.runtime.errors import ProfileError

SETTING = Setting(load_device("h100"), RELEASED["8b"])
LONG = dict.fromkeys(range(1, 33), 1000)
"""Steps that are long now and then: 16.5 tokens on average."""
AFTER = ((9, 2, 1), (1, 3, 9), (0, 1, 30))
ROWS = (5, 8, 9, 12)


def profile(accepted: dict[int, int], strategy: str = "linear_ss") -> Acceptance:
    return Acceptance(strategy, {"block_length": 32}, accepted, {}, 32)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("profile") / "profile.json"
    write_acceptance(profile(LONG), path)
    return path


def nldc(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(each) for each in arguments])


def test_the_best_choice_is_that_of_the_most_tokens_a_second() -> None:
    values = {"block_length": (4, 14, 18)}
    tuned = tune("quadratic_ss", SETTING, profile(LONG, "quadratic_ss"), values)
    rates = {choice.params["block_length"]: choice.rate for choice in tuned.choices}
    assert max(rates, key=rates.__getitem__) == tuned.best.params["block_length"] == 14
    # 18 groups of 19 rows: arithmetic takes longer than reading the weights
    assert rates[18] < rates[14]


def test_a_strategy_that_is_hardly_accepted_wants_short_blocks_and_one_that_is_long_ones() -> None:
    values = {"block_length": (2, 4, 8, 16, 32, 64)}
    short = tune("linear_ss", SETTING, profile({1: 900, 2: 90, 3: 10}), values).best
    long = tune("linear_ss", SETTING, profile(LONG), values).best
    assert short.params["block_length"] < long.params["block_length"]
    assert long.params["block_length"] == 32


def test_masks_are_dealt_anew_for_every_budget_of_rows() -> None:
    measured = Acceptance("quadratic_ss", {}, {1: 10, 2: 6, 3: 40}, {}, 3, AFTER)
    choices = tune("quadratic_ss_tapered", SETTING, measured, {"block_length": (3,), "rows": ROWS})
    tokens = [choice.tokens for choice in choices.choices]
    survives = survival(AFTER, 3)
    best = [tokens_a_step(taper(AFTER, 3, rows - 3), survives) for rows in ROWS]
    assert tokens == pytest.approx(best)
    assert tokens == sorted(set(tokens))
    assert "compile with its --acceptance as well" in show_tuned(choices)
    alone = replace(measured, after=())  # then steps do not depend on those before
    others = tune("quadratic_ss_tapered", SETTING, alone, {"block_length": (3,), "rows": ROWS})
    assert [choice.tokens for choice in others.choices] != pytest.approx(tokens, rel=0.01)
    with pytest.raises(StrategyError, match="is an acceptance profile, and no number"):
        tune("quadratic_ss_tapered", SETTING, measured, {"acceptance": (4,)})


def test_large_batches_want_fewer_rows() -> None:
    values = {"block_length": (4, 8, 16, 32)}
    one, many = (
        tune("linear_ss", replace(SETTING, batch=batch), profile(LONG), values).best.params
        for batch in (1, 64)
    )
    assert many["block_length"] < one["block_length"]


def test_without_values_all_of_the_profiles_params_are_tried_and_the_best_are_shown() -> None:
    tuned = tune("linear_ss", SETTING, profile(LONG))
    assert [choice.params["block_length"] for choice in tuned.choices] == [*range(2, 65)]
    lines = show_tuned(tuned).splitlines()
    assert lines[-1] == f"--set block_length={tuned.best.params['block_length']}"
    assert "the best 40 of 63 are shown" in lines[-2]


def test_what_cannot_be_tried_is_said() -> None:
    with pytest.raises(ProfileError, match="nothing says which params to try"):
        tune("ar", SETTING, profile(LONG))
    with pytest.raises(ProfileError, match="are more than the 1024"):
        tune("concurrency_router", SETTING, profile(LONG), {"most": range(1, 4000)})
    with pytest.raises(StrategyError, match="no param `block_lenght`"):
        tune("linear_ss", SETTING, profile(LONG), {"block_lenght": (4,)})
    with pytest.raises(StrategyError, match="not between 2 and 64"):
        tune("linear_ss", SETTING, profile(LONG), {"block_length": (1000,)})


def test_the_command_prints_a_table_and_the_setting_to_use(file: Path) -> None:
    options = ("--device", "h100", "--acceptance", file)
    found = nldc("tune", "linear_ss", *options, "--param", "block_length=8..32:8")
    assert found.exit_code == 0, found.output
    lines = found.stdout.splitlines()
    assert lines[-1] == "--set block_length=32"
    assert [line.lstrip("* ").split()[0] for line in lines[2:-1]] == ["8", "16", "24", "32"]
    other = nldc("tune", "quadratic_ss", *options, "--param", "block_length=4,6")
    assert "the profile is that of linear_ss" in other.stdout


@pytest.mark.parametrize(
    "values", ["block_length", "block_length=", "=4", "b=4..", "b=x", "b=4..2"]
)
def test_values_that_are_none_are_refused(file: Path, values: str) -> None:
    options = ("--device", "h100", "--acceptance", file)
    refused = nldc("tune", "linear_ss", *options, "--param", values)
    assert refused.exit_code == 2
    assert "is not of the form" in refused.stderr


def test_explaining_for_a_device_prints_every_forward_and_the_sum(file: Path) -> None:
    found = nldc("explain", "linear_ss", "--full", "--device", "h200", "--acceptance", file)
    assert found.exit_code == 0, found.output
    text = found.stdout
    assert "linear_ss on h200, 8b in bfloat16: 1 sequence, 1024 tokens in the cache" in text
    for node in ("step.drafted.seen", "step.checked", "step.choice (head)", "all, with 5 other"):
        assert node in text
    assert "launches 1 (625 kernels in graphs), host waits 1, device waits 0" in text
    assert "times AR" in text.splitlines()[-1]
    bare = nldc("explain", "block_diffusion", "--full", "--device", "h100", "--geometry", "3b")
    assert "give --rounds step.filled=MEAN" in bare.stdout
    given = nldc(
        "explain", "block_diffusion", "--full", "--device", "h100", "--rounds", "step.filled=3.5"
    )
    assert "--rounds" not in given.stdout
    assert (
        "give --acceptance FILE"
        in nldc("explain", "linear_ss", "--full", "--device", "h100").stdout
    )


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--batch", 2),
        ("--prefix", 9),
        ("--geometry", "3b"),
        ("--rounds", "a=1"),
        ("--dtype", "float32"),
    ],
)
def test_an_option_of_a_prediction_without_a_device_is_refused(option: str, value: object) -> None:
    refused = nldc("explain", "ar", option, value)
    assert refused.exit_code == 2
    assert "give --device as well" in refused.stderr


@pytest.mark.parametrize("option", ["--batch", "--prefix"])
def test_sizes_of_no_machine_are_refused(option: str) -> None:
    result = nldc("explain", "ar", "--device", "h200", option, "9" * 400)
    assert result.exit_code == 2
    assert "is not in the range 1<=x<=2147483647" in result.stderr


def test_rounds_of_what_is_no_loop_are_refused_with_the_loops_that_there_are() -> None:
    options = ("--device", "h200", "--rounds")
    result = nldc("explain", "block_diffusion", *options, "step.fill=3")
    assert result.exit_code == 1
    assert "`block_diffusion` has no loop `step.fill`" in result.stderr
    assert "its loops are step.filled" in result.stderr
    assert "it has no loops" in nldc("explain", "ar", *options, "step.x=3").stderr
    assert nldc("explain", "block_diffusion", *options, "step.filled=3").exit_code == 0
