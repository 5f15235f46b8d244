"""What is right is certified: the library at many params, and unusual but right strategies."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nldc.check.lossless import prove
from nldc.check.lossless.other_params import other_params
from nldc.check.rules import check_graph
from nldc.ir.build import build
from nldc.reuse import load
from tests.lossless.hash_model import first_difference
from tests.lossless.mutants import STRATEGIES, UNUSUAL, base_text, built

LIBRARY = sorted(STRATEGIES.glob("*.yaml"))
EXACT = [path for path in LIBRARY if "guarantee: exact" in path.read_text("utf-8")]
UNUSUAL_FILES = sorted(UNUSUAL.glob("*.yaml"))

CHECKED = "checked: {op: forward, tokens: drafted, attention: causal, cache: append}"
NOT_AT_TWO = "k.row <= q.row or (block_length < 3 and k.row == 1)"


def name(path: Path) -> str:
    return path.stem


@pytest.mark.parametrize("path", EXACT, ids=name)
def test_every_exact_strategy_of_the_library_is_certified(path: Path) -> None:
    graph = build(load(path)).graph
    assert graph is not None
    certificate = prove(graph)
    assert certificate.proved == "exact"
    assert certificate.problems == ()
    assert {ground.obligation for ground in certificate.grounds} == {
        "source", "visibility", "purity", "cache", "seed", "progress",
    }  # fmt: skip


@pytest.mark.parametrize("path", EXACT, ids=name)
def test_they_are_certified_at_small_params_and_at_the_largest(path: Path) -> None:
    source = load(path)
    params = source.data.get("params") or {}
    sizes = {key: value for key, value in params.items() if value["type"] == "int"}
    for number in (0, 1, 2):
        given = {key: min(value["min"] + number, value["max"]) for key, value in sizes.items()}
        graph = build(source, given).graph
        assert graph is not None
        assert prove(graph).proved == "exact", given


@pytest.mark.parametrize("path", UNUSUAL_FILES, ids=name)
def test_unusual_strategies_that_are_right_are_certified(path: Path) -> None:
    _, graph = built(base_text(path.stem))
    certificate = prove(graph)
    assert certificate.problems == ()
    assert certificate.proved == "exact"


@pytest.mark.parametrize("path", UNUSUAL_FILES, ids=name)
def test_they_equal_ar_on_hash_models(path: Path) -> None:
    _, graph = built(base_text(path.stem))
    assert first_difference(graph, tries=4, tokens=12) is None


@pytest.mark.parametrize("path", LIBRARY, ids=name)
def test_no_promise_is_never_refused(path: Path) -> None:
    text = path.read_text("utf-8").replace("guarantee: exact", "guarantee: none")
    source, graph = built(text)
    assert not [found for found in check_graph(graph, source) if found.severity == "error"]


@pytest.mark.parametrize("path", LIBRARY, ids=name)
def test_a_certificate_is_plain_data_and_the_same_every_time(path: Path) -> None:
    graph = build(load(path)).graph
    assert graph is not None
    texts = {json.dumps(prove(graph).data(), indent=1) for _ in range(2)}
    assert len(texts) == 1


def test_a_strategy_that_promises_nothing_may_still_be_proved() -> None:
    _, graph = built(base_text("ar").replace("guarantee: exact", "guarantee: none"))
    certificate = prove(graph)
    assert (certificate.claimed, certificate.proved) == ("none", "exact")


def test_the_certificate_says_what_holds_between_steps() -> None:
    _, linear = built(base_text("linear_ss"))
    _, quadratic = built(base_text("quadratic_ss"))
    boundary = prove(linear).boundary
    assert boundary is not None
    assert (boundary.frontier, dict(boundary.carry)) == (1, {"seed": ((0,),)})
    boundary = prove(quadratic).boundary
    assert boundary is not None
    assert (boundary.frontier, dict(boundary.carry)) == (0, {"draft": ((0,), (), (), ())})


def test_the_whole_library_is_checked_in_seconds() -> None:
    start = time.process_time()
    for path in LIBRARY:
        graph = build(load(path)).graph
        assert graph is not None
        prove(graph)
    assert time.process_time() - start < 5


def test_the_proof_loads_no_torch() -> None:
    code = "import sys; import nldc.check.lossless; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_promise_that_is_kept_for_some_params_only_is_warned_of() -> None:
    text = base_text("linear_ss").replace(
        CHECKED, CHECKED.replace("causal", f'"{NOT_AT_TWO}", predicts: next')
    )
    source, graph = built(text, {"block_length": 8})
    (warning,) = other_params(graph, source, prove(graph))
    assert (warning.code, warning.severity) == ("NLD105", "warning")
    assert "with block_length = 2" in warning.notes[0]
