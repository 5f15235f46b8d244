"""Random models and damaged files: exactness holds for any weights, and no damage goes unnamed."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from handwritten import CHECKPOINTS, Ar, LinearSS, QuadraticSS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_model import random_checkpoint

from nldc.runtime.errors import CheckpointError

QUICK = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
SLOW = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))

ROPES = (
    {"rope_type": "default", "rope_theta": 100.0},
    {
        "rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0,
        "original_max_position_embeddings": 16, "mscale": 1.0, "mscale_all_dim": 0.5,
        "llama_4_scaling_beta": 0.3,
    },
)  # fmt: skip
GEOMETRIES = st.fixed_dictionaries(
    {
        "num_key_value_heads": st.sampled_from([1, 2, 4]),
        "num_hidden_layers": st.integers(1, 3),
        "head_dim": st.sampled_from([4, 10, 16]),
        "vocab_size": st.sampled_from([7, 33]),
        "mask_token_id": st.integers(0, 6),
        "eos_token_id": st.lists(st.integers(0, 6), max_size=2),
        "rope_parameters": st.sampled_from(ROPES),
    }
)
RUNS = st.fixed_dictionaries(
    {
        "max_new_tokens": st.integers(1, 20),
        "temperature": st.sampled_from([0.0, 0.7, 2.0]),
        "top_k": st.sampled_from([None, 3]),
        "seed": st.integers(0, 5),
        "batch_size": st.sampled_from([None, 2]),
    }
)
PROMPTS = st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=20), min_size=1, max_size=3)


def speculation_equals_ar(
    seed: int, geometry: Any, run: Any, prompts: list[list[int]], block: int
) -> None:
    with tempfile.TemporaryDirectory() as held:
        folder = random_checkpoint(Path(held), seed, **geometry)
        options: dict[str, Any] = {"dtype": "float64", "device": "cpu", "backend": "torch"}
        if not geometry["eos_token_id"]:
            run = {**run, "eos": ()}
        want = Ar.from_checkpoint(folder, **options).generate(prompts, **run)
        for base in (LinearSS, QuadraticSS):
            kind = type(base.__name__, (base,), {"BLOCK": block})
            found = kind.from_checkpoint(folder, **options).generate(prompts, **run)
            assert found.tokens == want.tokens
            assert found.finish == want.finish


@QUICK
@given(st.integers(0, 99), GEOMETRIES, RUNS, PROMPTS, st.integers(2, 5))
def test_speculation_equals_ar_on_random_models(
    seed: int, geometry: Any, run: Any, prompts: list[list[int]], block: int
) -> None:
    speculation_equals_ar(seed, geometry, run, prompts, block)


@pytest.mark.long
@SLOW
@given(st.integers(0, 9999), GEOMETRIES, RUNS, PROMPTS, st.integers(2, 8))
def test_speculation_equals_ar_on_many_random_models(
    seed: int, geometry: Any, run: Any, prompts: list[list[int]], block: int
) -> None:
    speculation_equals_ar(seed, geometry, run, prompts, block)


@QUICK
@given(st.floats(0, 1), st.sampled_from(["model-00001-of-00002.safetensors", "config.json"]))
def test_a_file_cut_anywhere_is_a_checkpoint_error_that_names_it(share: float, name: str) -> None:
    with tempfile.TemporaryDirectory() as held:
        folder = Path(shutil.copytree(CHECKPOINTS[1], Path(held) / "model"))
        whole = (folder / name).read_bytes().rstrip()
        (folder / name).write_bytes(whole[: int(share * (len(whole) - 1))])
        with pytest.raises(CheckpointError, match=name):
            Ar.from_checkpoint(folder, device="cpu", backend="torch")


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2400), st.integers(0, 255))
def test_a_damaged_header_is_a_checkpoint_error_or_another_valid_header(
    place: int, byte: int
) -> None:
    with tempfile.TemporaryDirectory() as held:
        folder = Path(shutil.copytree(CHECKPOINTS[2], Path(held) / "model"))
        path = folder / "model.safetensors"
        data = bytearray(path.read_bytes())
        data[place] = byte
        path.write_bytes(data)
        problem: CheckpointError | None = None
        try:
            Ar.from_checkpoint(folder, device="cpu", backend="torch")
        except CheckpointError as raised:
            problem = raised
        assert problem is None or (str(folder) in problem.message and problem.hint)
