"""Every strategy of the library: golden tokens and costs, batches, sampling, and both backends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from nldc import api
from nldc.runtime import Decoder
from tests.library import exact, short_steps

CHECKPOINTS = sorted((Path(__file__).parent / "golden_checkpoints").glob("random-*"))
STRATEGIES = sorted(api.library())
EXACT = exact()
GOLDEN_MODES = [
    "ar",
    "block_diffusion",
    "block_diffusion_steps",
    "linear_ss",
    "linear_ss_iterative",
    "linear_ss_lora",
    "quadratic_ss",
    "quadratic_ss_ensemble",
    "quadratic_ss_lora",
]
WITH_ADAPTER = ("linear_ss_lora", "quadratic_ss_lora")
PROMPTS = [[1, 38, 26], [5], [7] * 9, [1, 9], [8, 3, 3], [4, 4, 1, 2, 3, 1, 2], [11], [2, 30, 2]]
MOST = 22


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Compile a strategy, each with its settings once."""
    root = tmp_path_factory.mktemp("artifacts")
    known: dict[tuple[Any, ...], type[Decoder]] = {}

    def get(name: str, **settings: int | float) -> type[Decoder]:
        key = (name, *sorted(settings.items()))
        if key not in known:
            out = root / "_".join(str(part) for part in key).replace("'", "").replace(" ", "")
            known[key] = api.load(api.compile(name, out, settings, certify=False))
        return known[key]

    return get


def settings_of(mode: str, case: dict[str, Any]) -> dict[str, int | float]:
    settings = dict(case["modes"][mode]["params"])
    if mode != "ar":
        settings["block_length"] = case["block_length"]
    return settings


@pytest.mark.parametrize(
    ("dtype", "first"),  # the others run handwritten, in tests/runtime/test_golden.py
    [("float64", 1), ("float32", 0), pytest.param("float32", 1, marks=pytest.mark.long)],
)
@pytest.mark.parametrize("mode", GOLDEN_MODES)
def test_tokens_forwards_and_acceptance_are_golden(
    compiled: Any, mode: str, dtype: str, first: int
) -> None:
    for folder in CHECKPOINTS[first::2]:
        for case in json.loads((folder / "expected.json").read_text(encoding="utf-8")):
            decoder = compiled(mode, **settings_of(mode, case)).from_checkpoint(
                folder,
                adapter="auto" if mode in WITH_ADAPTER else None,
                dtype=dtype,
                device="cpu",
                backend="torch",
            )
            result = decoder.generate([case["prompt"]], max_new_tokens=case["max_new_tokens"])
            expected = case["modes"][mode]
            assert result.tokens[0] == expected["tokens"], (folder.name, case["prompt"])
            assert result.stats[0].nfe == expected["nfe"], (folder.name, case["prompt"])
            if "accepted" in expected:
                assert list(result.stats[0].accepted) == expected["accepted"]


@pytest.fixture(scope="module")
def ar_tokens(compiled: Any) -> dict[float, list[list[int]]]:
    decoder = compiled("ar").from_checkpoint(CHECKPOINTS[1], dtype="float64", device="cpu")
    return {
        temperature: decoder.generate(
            PROMPTS, max_new_tokens=MOST, temperature=temperature, seed=5
        ).tokens
        for temperature in (0.0, 0.9)
    }


@pytest.mark.parametrize(
    ("batch", "short"),
    [
        pytest.param(1, True, marks=pytest.mark.long),
        (3, False),
        pytest.param(8, True, marks=pytest.mark.long),
    ],
)
@pytest.mark.parametrize("name", STRATEGIES)
def test_a_sequence_does_not_depend_on_its_batch(
    compiled: Any, ar_tokens: dict[float, list[list[int]]], name: str, batch: int, short: bool
) -> None:
    kind = compiled(name, **(short_steps(name, 4) if short else {}))
    decoder = kind.from_checkpoint(CHECKPOINTS[1], dtype="float64", device="cpu")
    prompts = PROMPTS[: 4 * batch]
    for temperature, expected in ar_tokens.items():
        options: dict[str, Any] = {"max_new_tokens": MOST, "temperature": temperature, "seed": 5}
        result = decoder.generate(prompts, batch_size=batch, **options)
        if name in EXACT:
            assert result.tokens == expected[: len(prompts)]
        else:
            alone = decoder.generate([PROMPTS[2]], sequence_ids=[2], **options)
            assert result.tokens[2] == alone.tokens[0]
            assert result.stats[2].nfe == alone.stats[0].nfe
        assert all(len(tokens) <= MOST for tokens in result.tokens)


def test_a_router_takes_ar_while_the_batch_is_large(compiled: Any) -> None:
    decoder = compiled("concurrency_router", most=2, block_length=4).from_checkpoint(
        CHECKPOINTS[1], dtype="float64", device="cpu"
    )
    crowded = decoder.generate(PROMPTS[:3], max_new_tokens=8, eos=())
    assert all(set(stats.accepted) == {1} for stats in crowded.stats)
    assert all(stats.nfe == 8 for stats in crowded.stats)
    few = decoder.generate(PROMPTS[:2], max_new_tokens=8, eos=())
    assert all(stats.nfe == 1 + 2 * len(stats.accepted) for stats in few.stats)


INTERPRETED = """
import json, sys
from pathlib import Path
import torch
from nldc import api
from tests.runtime.patched_once import patch_once
torch.set_num_threads(1)
patch_once()
folder, artifacts, prompts = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
different = []
for artifact in sorted(artifacts.iterdir()):
    results = [
        api.load(artifact)
        .from_checkpoint(folder, dtype="float32", device="cpu", backend=backend)
        .generate(prompts, max_new_tokens=3)
        for backend in ("torch", "triton")
    ]
    if results[0].tokens != results[1].tokens:
        different.append((artifact.name, results[0].tokens, results[1].tokens))
print(json.dumps(different))
"""


def test_every_strategy_gives_the_same_tokens_through_the_triton_kernels(tmp_path: Path) -> None:
    # Another process, because Triton reads TRITON_INTERPRET when it is imported.
    for name in STRATEGIES:
        settings = short_steps(name, 3)
        api.compile(name, tmp_path / "artifacts" / name, settings, certify=False)
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            INTERPRETED,
            str(CHECKPOINTS[1]),
            str(tmp_path / "artifacts"),
            json.dumps(PROMPTS[:2]),
        ],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == []


def test_the_demo_of_the_language_fits_in_thirty_lines() -> None:
    samplers = (
        "entropy_bounded",
        "margin_confidence",
        "factor_threshold",
        "token_editing",
        "slow_fast",
        "prompt_lookup",
        "tidar",
    )
    for name in samplers:
        lines = api.library()[name].read_text(encoding="utf-8").splitlines()
        assert len(lines) <= 30, name


def test_sampling_noise_is_keyed_by_sequence_and_seed(compiled: Any) -> None:
    decoder = compiled("linear_ss").from_checkpoint(CHECKPOINTS[1], dtype="float64", device="cpu")
    options: dict[str, Any] = {"max_new_tokens": 12, "temperature": 1.0, "eos": ()}
    twice = decoder.generate([PROMPTS[0]] * 2, seed=1, **options).tokens
    assert twice[0] != twice[1]
    assert decoder.generate([PROMPTS[0]] * 2, seed=1, **options).tokens == twice
    assert decoder.generate([PROMPTS[0]] * 2, seed=2, **options).tokens != twice
    assert torch.tensor(twice).shape == (2, 12)
