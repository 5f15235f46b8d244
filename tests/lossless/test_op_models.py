"""Proof, interpreter and runtime mean the same by every op: one table, held together at random."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import get_args

import pytest
import torch

from nldc.ir import ops
from nldc.ir.build import build
from nldc.reuse import parse
from nldc.runtime.step.sequences import Sequences
from nldc.runtime.step.values import Logits
from tests.lossless.at_random import HEAD, file_that_counts, prefill, random_pick, strategy
from tests.lossless.loops_at_random import EOS, Guesser, random_file
from tests.lossless.mutants import STRATEGIES, UNUSUAL, base_text, built
from tests.lossless.op_models import ROWS, watch
from tests.lossless.trees_at_random import trees

LIBRARY = sorted(path.stem for path in (*STRATEGIES.glob("*.yaml"), *UNUSUAL.glob("*.yaml")))


def model_of(random: Random) -> Guesser:
    return Guesser(Random(random.random()), eos=random.choice(EOS))


def watch_text(text: str, seed: int) -> Counter[type]:
    graph = build(parse(text)).graph
    if graph is None:
        return Counter()
    random = Random(seed)
    prompt = [random.randrange(4) for _ in range(random.randint(1, 6))]
    return watch(graph, prompt, model_of(random))


def test_every_op_has_a_row_in_the_table() -> None:
    assert set(ROWS) == set(get_args(ops.Op))


def test_every_op_means_the_same_to_proof_interpreter_and_runtime() -> None:
    """Loops with all their ends, and the shapes that the test of soundness is made of."""
    asked: Counter[type] = Counter()
    for seed in range(60):
        asked += watch_text(random_file(seed), seed)
    for seed in range(60):
        asked += watch_text(strategy(random_pick(seed)), seed)
        asked += watch_text(HEAD + trees(random_pick(seed), prefill), seed)
    for seed in range(40):
        asked += watch_text(file_that_counts(random_pick(seed)), seed)
    assert set(asked) == set(ROWS)
    assert min(asked.values()) >= 10, asked


@pytest.mark.long
def test_every_op_means_the_same_in_many_more_strategies() -> None:
    for seed in range(1000, 6000):
        watch_text(random_file(seed), seed)
        watch_text(strategy(random_pick(seed)), seed)


@pytest.mark.parametrize("name", LIBRARY)
def test_the_library_means_the_same_to_all_three(name: str) -> None:
    _, graph = built(base_text(name))
    for seed in range(6):
        random = Random(seed)
        prompt = [random.randrange(4) for _ in range(random.randint(1, 5))]
        watch(graph, prompt, model_of(random))


def test_mixed_logits_are_those_of_the_parts_that_weigh_something() -> None:
    first, second = (ops.Value(name, span=None) for name in ("a", "b"))  # type: ignore[arg-type]
    mix = ops.Mix((first, second, first), (0.0, 1.0, 0.0))
    assert mix.weighed == ((second, 1.0),)
    assert ops.Mix((first, second, first), (0.25, 0.25, 0.5)).weighed == (
        (first, 0.75),
        (second, 0.25),
    )
    assert ops.Mix((first, first), (0.7, 0.3)).weighed == ((first, 1.0),)
    assert ops.Mix((first, second), (0.0, 0.0)).weighed == ((first, 0.0),)


def test_a_mix_is_due_and_lies_where_its_first_part_does() -> None:
    values, places = torch.rand(1, 2, 5), torch.tensor([[3, 4]])
    due = torch.tensor([[True, False]])
    parts = (Logits(values, places, due), Logits(values, places, ~due))
    mixed = object.__new__(Sequences).mix(parts, (0.5, 0.5))
    assert mixed.due is due
    assert mixed.positions is places
    assert torch.equal(mixed.values, values)
