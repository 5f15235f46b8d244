"""What a step costs where sequences are routed by what they carry: the one they begin with."""

from __future__ import annotations

from click.testing import CliRunner

from nldc.cli import cli


def test_a_strategy_whose_route_asks_a_carried_count_is_explained_on_a_device() -> None:
    found = CliRunner().invoke(cli, ["explain", "linear_ss_adaptive", "--device", "h100"])
    assert found.exit_code == 0, found.output
    assert "short" in found.output
    assert "long" in found.output
