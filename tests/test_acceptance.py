"""Acceptance profiles: measured, written, read, and compiled in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from nldc import api
from nldc.acceptance import longest_draft, profile_of, profile_text, read_profile, write_profile
from nldc.cli import cli
from nldc.diagnostics import StrategyError
from nldc.ir.ops import LayRows
from nldc.ir.taper import taper

GOLDEN = Path(__file__).parent / "golden_checkpoints" / "random-0"
PROFILE = ((9, 2, 1), (1, 3, 9), (0, 1, 30))
TAPERED = "quadratic_ss_tapered"
SMALL = {"block_length": 3, "rows": 8}


def nldc(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def masks_of(checked: api.Checked) -> list[int]:
    op = checked.graph.node("step.groups").op
    assert isinstance(op, LayRows)
    return [size.fixed for size in op.layout.segments[1].sizes]


def test_steps_are_counted_by_what_the_step_before_accepted() -> None:
    assert profile_of([[1, 3, 3, 1], [2], []], 3) == ((0, 0, 1), (0, 0, 0), (1, 0, 1))


def test_a_profile_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_profile(tmp_path / "p.json", PROFILE, "quadratic_ss")
    assert read_profile(tmp_path / "p.json") == PROFILE
    assert json.loads((tmp_path / "p.json").read_text())["strategy"] == "quadratic_ss"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[", "is not JSON"),
        ("[]", "is no acceptance profile"),
        (profile_text(PROFILE, "x").replace('"version": 1', '"version": 2'), "version 2, not 1"),
        (profile_text(PROFILE, "x").replace('"strategy"', '"stratgy"'), "do not have: stratgy"),
        (profile_text(PROFILE, "x").replace("9, 2", "9, 2.5"), "no lists of whole numbers"),
        (profile_text(PROFILE, "x").replace("9, 2", "9, -2"), "not between 0 and"),
        (profile_text(((0, 0),), "x"), "counts no steps"),
    ],
)
def test_what_is_no_profile_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(StrategyError, match=said):
        read_profile(tmp_path / "p.json")


def test_a_profile_that_is_not_there_is_refused_with_what_writes_one(tmp_path: Path) -> None:
    result = nldc("check", TAPERED, "--acceptance", tmp_path / "none.json")
    assert result.exit_code == 1
    assert "cannot read" in result.output
    assert "--write-acceptance FILE" in result.output


def test_masks_are_dealt_by_the_profile_that_is_given(tmp_path: Path) -> None:
    own = api.check(TAPERED, SMALL, others=False)
    given = api.check(TAPERED, {**SMALL, "acceptance": PROFILE}, others=False)
    assert masks_of(given) == list(taper(PROFILE, 3, 5)) != masks_of(own)
    assert sum(masks_of(given)) <= 5
    assert given.certificate.proved == "exact"
    assert given.certificate.data()["params"]["acceptance"] == PROFILE
    write_profile(tmp_path / "p.json", PROFILE, "quadratic_ss")
    sets = ("--set", "block_length=3", "--set", "rows=8")
    told = nldc("explain", TAPERED, *sets, "--acceptance", tmp_path / "p.json")
    listed = ", ".join(map(str, masks_of(given)))
    assert f"masks of step.groups behind 1 to 3 accepted tokens: {listed}" in told.output


def test_a_profile_goes_to_the_files_that_have_one_and_to_one_at_least(tmp_path: Path) -> None:
    write_profile(tmp_path / "p.json", PROFILE, "quadratic_ss")
    both = nldc("check", "ar", TAPERED, "--acceptance", tmp_path / "p.json")
    assert both.exit_code == 0, both.output
    assert "acceptance = a profile of 56 steps" in both.output
    none = nldc("check", "ar", "--acceptance", tmp_path / "p.json")
    assert none.exit_code == 1
    assert "no strategy here has a param of the type profile" in none.output


def test_bench_writes_a_profile_that_compile_takes(tmp_path: Path) -> None:
    file, few = tmp_path / "p.json", ("--count", "2", "--max-new-tokens", "12", "--repeats", "1")
    small = ("--model", GOLDEN, "--set", "block_length=3")
    measured = nldc("bench", "quadratic_ss", *small, *few, "--write-acceptance", file)
    assert measured.exit_code == 0, measured.output
    profile = read_profile(file)
    assert [len(row) for row in profile] == [3, 3, 3]
    out = tmp_path / "artifact"
    sets = ("--set", "block_length=3", "--set", "rows=8")
    compiled = nldc("compile", TAPERED, "-o", out, *sets, "--acceptance", file)
    assert compiled.exit_code == 0, compiled.output
    certificate = json.loads((out / "certificate.json").read_text())
    assert certificate["params"]["acceptance"] == [list(row) for row in profile]


@pytest.mark.parametrize(("name", "why"), [("ar", "verifies no"), (TAPERED, "cut short")])
def test_only_whole_drafts_have_a_profile(name: str, why: str) -> None:
    with pytest.raises(StrategyError, match=why):
        longest_draft(api.check(name, others=False).graph)
    assert longest_draft(api.check("quadratic_ss", others=False).graph) == 8


def test_a_profile_is_of_one_strategy(tmp_path: Path) -> None:
    result = nldc("bench", "ar", "quadratic_ss", "--write-acceptance", tmp_path / "p.json")
    assert result.exit_code == 2
    assert "of one strategy, not 2" in result.output
