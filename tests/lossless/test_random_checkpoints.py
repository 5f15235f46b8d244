"""Compiled decoders on random checkpoints: exact ones are AR, and all are what they mean."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random

import pytest
import torch
from hypothesis import HealthCheck, given, settings

from nldc import api
from nldc.check.lossless import prove
from nldc.interpret import run
from nldc.runtime.decoder import Decoder
from nldc.runtime.reference.model import ReferenceModel
from tests.lossless.at_random import random_pick, strategy
from tests.lossless.cases import EXACT, Case, cases, compiler
from tests.lossless.checkpoints import write
from tests.lossless.mutants import STRATEGIES, base_text, built
from tests.lossless.soundness import graph_of

QUICK = settings(
    max_examples=50, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
LONG = settings(
    max_examples=4000, deadline=None, print_blob=True, suppress_health_check=list(HealthCheck)
)
Compile = Callable[[str, Mapping[str, int | float]], type[Decoder]]


def can_interpret() -> bool:
    pytest.importorskip("triton")
    from nldc.runtime.kernels.device import can_interpret

    return can_interpret()


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compile:
    return compiler(tmp_path_factory.mktemp("artifacts"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoint")


def decoded(case: Case, compiled: Compile, folder: Path) -> None:
    """Assert that an exact strategy gives AR's tokens in a case."""
    checkpoint = write(folder, case.weights, case.geometry)
    exact, plain = (
        compiled(name, params).from_checkpoint(checkpoint, dtype=case.dtype, device="cpu")
        for name, params in ((case.strategy, case.params), ("ar", {}))
    )
    expected = plain.generate(case.prompts, **case.options)
    assert exact.generate(case.prompts, **case.options).tokens == expected.tokens


@QUICK
@given(case=cases(EXACT))
def test_exact_strategies_equal_ar_on_random_checkpoints(
    case: Case, compiled: Compile, folder: Path
) -> None:
    decoded(case, compiled, folder)


@pytest.mark.long
@LONG
@given(case=cases(EXACT))
def test_exact_strategies_equal_ar_on_many_random_checkpoints(
    case: Case, compiled: Compile, folder: Path
) -> None:
    decoded(case, compiled, folder)


@pytest.mark.skipif(not can_interpret(), reason="this triton cannot interpret with this numpy")
@pytest.mark.parametrize("count", [4, pytest.param(300, marks=pytest.mark.long)])
def test_exact_strategies_equal_ar_through_the_triton_kernels(count: int) -> None:
    # Another process, because Triton reads TRITON_INTERPRET when it is imported.
    run_it = subprocess.run(
        [sys.executable, "-m", "tests.lossless.interpreted", str(count)],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        cwd=STRATEGIES.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run_it.returncode == 0, run_it.stdout + run_it.stderr
    assert f"{count} cases" in run_it.stdout


def means_what_it_says(seed: int, folder: Path) -> bool:
    """Compile a random strategy and hold it against the interpreter; False if it has no graph."""
    text = strategy(random_pick(seed)).replace("guarantee: exact", "guarantee: none")
    graph = graph_of(text)
    if graph is None or "lookup" in text or "temperature" in text:
        return False
    file = folder / "strategy.yaml"
    file.write_text(text, encoding="utf-8")
    try:
        decoder_class = api.load(api.compile(file, folder / "out", certify=False))
    except api.StrategyError:
        return False  # rows out of order, or tokens that no sample chose
    checkpoint = write(folder / "checkpoint", seed)
    adapter = checkpoint / "linear_spec_lora"
    decoder = decoder_class.from_checkpoint(checkpoint, dtype="float64", device="cpu")
    model = ReferenceModel.load(checkpoint, {"drafter": adapter})
    prompt = [Random(seed).randrange(12) for _ in range(1 + seed % 4)]
    got = decoder.generate([prompt], max_new_tokens=8)
    meant = run(graph, model, prompt, 8)
    assert tuple(got.tokens[0]) == meant.tokens, text
    if prove(graph).proved == "exact":
        plain = built(base_text("ar"))[1]
        assert run(plain, model, prompt, 8).tokens == meant.tokens, text
    return True


def test_compiled_random_strategies_give_what_the_interpreter_gives(tmp_path: Path) -> None:
    tried = 0
    for seed in range(16):
        folder = tmp_path / str(seed)
        folder.mkdir()
        tried += means_what_it_says(seed, folder)
    assert tried > 3


@pytest.mark.long
def test_many_compiled_random_strategies_give_what_the_interpreter_gives(tmp_path: Path) -> None:
    for seed in range(1000, 2500):
        folder = tmp_path / str(seed)
        folder.mkdir()
        means_what_it_says(seed, folder)
