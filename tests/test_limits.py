"""Limits on what a step may count: in a file, and from whoever compiles it."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from nldc import api
from nldc.cli.commands import cli
from nldc.diagnostics import StrategyError
from nldc.reuse import parse

AR = api.library()["ar"].read_text("utf-8")
ROUTER = api.library()["concurrency_router"].read_text("utf-8")


def found_in(text: str, **limits: int) -> list[str]:
    try:
        api.check_source(parse(text, "case.yaml"), others=False, limits=limits)
    except StrategyError as error:
        return [f"{each.code} {each.message}" for each in error.diagnostics]
    return []


def test_a_step_within_its_limits_is_fine_and_one_beyond_them_is_not() -> None:
    assert found_in(AR + "limits: {launches: 4, host_waits: 1, device_waits: 0}\n") == []
    assert found_in(AR + "limits: {launches: 3}\n") == [
        "NLD130 `step` may take 4 launches, and its limit is 3"
    ]


def test_a_limit_of_the_command_line_holds_beside_the_files() -> None:
    assert found_in(AR, launches=4) == []
    assert found_in(AR, launches=3, host_waits=0) == [
        "NLD130 `step` may take 4 launches, and its limit is 3",
        "NLD130 `step` may take 1 host wait, and its limit is 0",
    ]
    assert found_in(AR + "limits: {launches: 3}\n", launches=10) == [
        "NLD130 `step` may take 4 launches, and its limit is 3"
    ]


def test_each_step_of_several_has_to_keep_the_limits() -> None:
    assert found_in(ROUTER, launches=4) == [
        "NLD130 `speculative` may take 10 launches, and its limit is 4"
    ]


def test_the_node_with_the_largest_part_is_named() -> None:
    source = parse(ROUTER, "case.yaml")
    with pytest.raises(StrategyError) as refused:
        api.check_source(source, others=False, limits={"launches": 4})
    (diagnostic,) = refused.value.diagnostics
    (label,) = diagnostic.labels
    assert label.text == "`drafted` has the largest part, 4"
    assert "drafted:" in source.text.splitlines()[label.span.start_line - 1]


@pytest.mark.parametrize("value", ["-1", "0.5", "true", "many"])
def test_a_limit_is_a_whole_number(value: str) -> None:
    (said,) = found_in(AR + f"limits: {{launches: {value}}}\n")
    assert said.startswith("NLD012 ")


def test_a_misspelt_limit_is_refused() -> None:
    (said,) = found_in(AR + "limits: {launchs: 4}\n")
    assert said.startswith("NLD010 ")


def test_compiling_reports_the_counts_and_writes_nothing_beyond_a_limit(tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["compile", "ar", "--no-certify", "-o", str(out)]
    refused = CliRunner().invoke(cli, [*arguments, "--max-launches", "3"])
    assert refused.exit_code == 1
    assert not out.exists()
    done = CliRunner().invoke(cli, [*arguments, "--max-launches", "4", "--max-device-waits", "0"])
    assert done.exit_code == 0
    assert done.stdout.splitlines()[1:] == ["step: at most 4 launches, 1 host wait, 0 device waits"]


def test_checking_takes_limits_too() -> None:
    refused = CliRunner().invoke(cli, ["check", "block_diffusion_steps", "--max-host-waits", "1"])
    assert refused.exit_code == 1
    assert "9 host waits, and its limit is 1" in refused.stderr
