"""Compiled decoders on random checkpoints: exact ones are AR, and all are what they mean."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
import torch

from nldc import api
from nldc.check.lossless import prove
from nldc.interpret import run
from nldc.runtime.decoder import Decoder
from nldc.runtime.reference.model import ReferenceModel
from tests.lossless.at_random import random_pick, strategy
from tests.lossless.checkpoints import write
from tests.lossless.mutants import STRATEGIES, base_text, built
from tests.lossless.soundness import graph_of

EXACT = sorted(
    path.stem for path in STRATEGIES.glob("*.yaml") if "guarantee: exact" in path.read_text("utf-8")
)
SMALL = {"block_length": 4, "k": 4, "length": 4, "ngram": 2, "most": 2}
Compile = Callable[[str], type[Decoder]]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compile:
    known: dict[str, type[Decoder]] = {}

    def get(text: str) -> type[Decoder]:
        if text not in known:
            folder = tmp_path_factory.mktemp("artifact")
            file = folder / "strategy.yaml"
            file.write_text(text, encoding="utf-8")
            declared = api.load_source(file).data.get("params") or {}
            given = {name: value for name, value in SMALL.items() if name in declared}
            known[text] = api.load(api.compile(file, folder / "out", given))
        return known[text]

    return get


def case(seed: int, vocabulary: int) -> tuple[list[list[int]], dict[str, float | int]]:
    """Draw prompts of a batch, and options: greedy or sampled with one filter."""
    draw = Random(seed)
    prompts = [
        [draw.randrange(vocabulary) for _ in range(draw.choice((1, 2, 5, 9)))]
        for _ in range(draw.choice((1, 2, 4)))
    ]
    options: dict[str, float | int] = {"max_new_tokens": draw.choice((7, 16, 25))}
    if draw.random() < 0.6:
        options |= {"temperature": draw.choice((0.5, 1.0, 1.7)), "seed": seed}
        options |= draw.choice(({}, {"top_k": 5}, {"top_p": 0.8}, {"min_p": 0.05}))
    return prompts, options


def equals_ar(name: str, seed: int, compiled: Compile, folder: Path) -> None:
    checkpoint = write(folder, seed)
    exact = compiled(base_text(name)).from_checkpoint(checkpoint, dtype="float64", device="cpu")
    plain = compiled(base_text("ar")).from_checkpoint(checkpoint, dtype="float64", device="cpu")
    prompts, options = case(seed, exact.config.vocab_size)
    expected = plain.generate(prompts, **options)  # type: ignore[arg-type]
    assert exact.generate(prompts, **options).tokens == expected.tokens  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", EXACT)
def test_exact_strategies_equal_ar_on_random_checkpoints(
    name: str, seed: int, compiled: Compile, tmp_path: Path
) -> None:
    equals_ar(name, seed, compiled, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("name", EXACT)
def test_exact_strategies_equal_ar_on_many_random_checkpoints(
    name: str, compiled: Compile, tmp_path: Path
) -> None:
    for seed in range(100, 400):
        equals_ar(name, seed, compiled, tmp_path / str(seed))


def means_what_it_says(seed: int, folder: Path) -> bool:
    """Compile a random strategy and hold it against the interpreter; False if it has no graph."""
    text = strategy(random_pick(seed)).replace("guarantee: exact", "guarantee: none")
    graph = graph_of(text)
    if graph is None or "lookup" in text:
        return False
    file = folder / "strategy.yaml"
    file.write_text(text, encoding="utf-8")
    try:
        decoder_class = api.load(api.compile(file, folder / "out"))
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
