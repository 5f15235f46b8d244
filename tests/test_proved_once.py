"""A command proves a strategy once for the params that it asks about, and hands the proof on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from nldc import api
from nldc.check.lossless import proof
from nldc.check.lossless.solve import Solution
from nldc.cli import cli
from nldc.ir.graph import Graph

Proved = Counter[tuple[str, tuple[tuple[str, int | float], ...]]]


@pytest.fixture
def proved(monkeypatch: pytest.MonkeyPatch) -> Proved:
    """How often a graph was proved, by its name and params."""
    found: Proved = Counter()
    solve = proof.solve

    def counted(graph: Graph, **how: Any) -> Solution:
        assert not how
        found[graph.name, tuple(graph.params.items())] += 1
        return solve(graph)

    monkeypatch.setattr(proof, "solve", counted)
    return found


def nldc(*arguments: str) -> None:
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code in (0, 1), result.output


def names(proved: Proved) -> set[str]:
    return {name for name, _ in proved}


SHORT = ("--count", "1", "--max-new-tokens", "4")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("check", "ar", "linear_ss"), {"ar", "linear_ss"}),
        (("check", "block_diffusion"), set()),
        (("explain", "linear_ss"), {"linear_ss"}),
        (("explain", "block_diffusion"), {"block_diffusion"}),
        (("diff", "ar", "linear_ss"), {"ar", "linear_ss"}),
        (("bench", "linear_ss", *SHORT, "--repeats", "1"), {"ar", "linear_ss"}),
        (("sol", "linear_ss", *SHORT, "--block-length", "4"), {"ar", "linear_ss"}),
    ],
    ids=lambda value: "_".join(value[:2]) if isinstance(value, tuple) else "",
)
def test_a_command_proves_a_strategy_once(
    arguments: tuple[str, ...], expected: set[str], proved: Proved
) -> None:
    nldc(*arguments)
    assert names(proved) == expected
    assert set(proved.values()) <= {1}


def test_check_alone_tries_other_params_too(proved: Proved) -> None:
    nldc("check", "linear_ss")
    tried = {dict(params)["block_length"] for _, params in proved}
    assert {2, 3, 16} < tried
    proved.clear()
    nldc("explain", "linear_ss")
    assert {dict(params)["block_length"] for _, params in proved} == {16}


def test_listing_the_library_proves_what_promises_something_and_nothing_else(
    proved: Proved,
) -> None:
    promising = {
        name for name in api.library() if api.check(name, others=False).guarantee != "none"
    }
    proved.clear()
    nldc("strategies")
    assert names(proved) == promising
    assert set(proved.values()) == {1}
    assert len(proved) == len(promising)


def test_compiling_several_and_verifying_prove_each_once(tmp_path: Path, proved: Proved) -> None:
    out = str(tmp_path / "both")
    nldc("compile", "ar", "block_diffusion", "-o", out)
    assert names(proved) == {"ar", "block_diffusion"}
    assert list(proved.values()) == [1, 1]
    proved.clear()
    nldc("compile", "linear_ss", "-o", str(tmp_path / "linear_ss"))
    assert names(proved) == {"linear_ss"}
    assert set(proved.values()) == {1}
    proved.clear()
    nldc("verify", out, *SHORT)
    assert proved == {("ar", ()): 1}


def test_what_promises_nothing_is_proved_when_somebody_asks_and_then_once(proved: Proved) -> None:
    checked = api.check("block_diffusion")
    assert not proved
    assert checked.certificate.claimed == "none"
    assert checked.certificate is checked.certificate
    api.generate([checked])
    api.switching([checked])
    assert list(proved.values()) == [1]
