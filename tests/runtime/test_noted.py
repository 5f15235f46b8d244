"""What a step notes between two calls of the model, done at once, is what its ops do one by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import noted_in_torch
import pytest
import torch
from noted_cases import CASES, case
from random_model import random_checkpoint
from torch import Tensor

from nldc import api
from nldc.runtime import Decoder, Engine
from nldc.runtime.engine.strategy import Room
from nldc.runtime.graph.step_graphs import StepGraphs
from nldc.runtime.model.backend import Program
from nldc.runtime.step import ops
from nldc.runtime.step.carry import Carry
from nldc.runtime.step.followed import Noted as Followed
from nldc.runtime.step.followed import programs
from nldc.runtime.step.noted import Noted, Notes, real
from tests.library import short_steps
from tests.lossless.loops_at_random import accepted
from tests.runtime.graph.emulator import Emulator
from tests.runtime.graph.table_attention import TableBackend

SHOWN = (
    "linear_ss",
    "linear_ss_confident",
    "entropy_bounded",
    "quadratic_ss_tapered",
    "prompt_lookup",
    "lookahead",
)
"""Strategies with a loop, without, with choices of rows, with texts, pools and branches; the others
are long.
"""
PROMPTS: tuple[tuple[list[int], dict[str, Any]], ...] = (
    ([7, 9, 11] * 20, {"eos": ()}),
    ([3, 4], {"eos": (5, 17, 40)}),
    ([8], {"eos": (), "temperature": 0.9, "seed": 3}),
)


@pytest.mark.parametrize("op", CASES)
def test_an_op_that_is_noted_comes_to_what_torch_makes_of_it(op: str) -> None:
    for seed in range(12):
        CASES[op](case(noted_in_torch.do, seed))


def notes_of(launch: Any, size: int = 2) -> Notes:
    return Notes(torch.arange(size), launch)


def test_nothing_is_launched_until_somebody_asks_for_a_tensor() -> None:
    launched: list[Program] = []

    def launch(program: Program, memory: Sequence[Tensor], slots: Tensor) -> None:
        launched.append(program)
        noted_in_torch.do(program, memory, slots)

    notes = notes_of(launch)
    one = notes.known(torch.tensor([[1, 2], [3, 4]]))
    more = ops.join(one + 1, one[:, 1:])
    assert not launched
    assert real(more).tolist() == [[2, 3, 2], [4, 5, 4]]
    assert [[op for op, *_ in each] for each in launched] == [["add", "copy", "copy"]]
    assert more.tolist() == [[2, 3, 2], [4, 5, 4]]
    assert len(launched) == 1, "what is known is not done again"


@pytest.mark.parametrize(
    "of",
    [
        lambda one: one / 2,
        lambda one: one & True,
        lambda one: one * torch.ones(2, 2, dtype=torch.float64),
        lambda one: torch.cat([one, one], 1),
        lambda one: one[0],
        lambda one: one.clamp_min(2),
        lambda one: (one > 1) + (one > 2),
    ],
    ids=["division", "a flag", "float64", "a function", "a line", "a method", "sums of flags"],
)
def test_what_is_not_noted_is_asked_of_torch(of: Any) -> None:
    one = torch.tensor([[1, 2], [3, 4]])
    found = of(notes_of(noted_in_torch.do).known(one))
    assert isinstance(found, Tensor)
    assert torch.equal(found, of(one))
    assert found.dtype == of(one).dtype


def test_scores_in_float64_are_chosen_of_by_torch() -> None:
    among, score = torch.tensor([[True, True, False]] * 2), torch.rand(2, 3, dtype=torch.float64)
    found = ops.select(notes_of(noted_in_torch.do).known(among), score, best=1)
    assert torch.equal(found, ops.select(among, score, best=1))


def test_no_number_of_sequences_and_no_table_is_part_of_a_program() -> None:
    found: set[Program] = set()
    for size in (1, 3):
        for room in (4, 9):
            notes = notes_of(lambda program, *_: found.add(program), size)
            table = torch.zeros(8, room, dtype=torch.int64)
            value: Any = notes.line(table[:, :3], 3)
            assert isinstance(value, Noted)
            real(value * room + 2)
    assert len(found) == 1


# Whole strategies


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_checkpoint(tmp_path_factory.mktemp("model"), num_hidden_layers=1)


@dataclass(eq=False)
class Launches:
    """Counts what is launched."""

    found: Counter[Followed] = field(default_factory=Counter)

    def __call__(self, program: Program, memory: Sequence[Tensor], slots: Tensor) -> None:
        self.found[program, tuple(each.dtype for each in memory)] += 1
        noted_in_torch.do(program, memory, slots)


def load(strategy: str | Path, model: Path, out: Path) -> Decoder:
    settings = short_steps(strategy, 4) if isinstance(strategy, str) else {}
    artifact = api.compile(strategy, out, settings, certify=False)
    made = api.load(artifact).from_checkpoint(model, dtype="float32", device="cpu")
    made.model = replace(made.model, backend=TableBackend(made.model.backbone))
    return made


def run(decoder: Decoder, between: Any, recorder: Emulator | None) -> tuple[list[Any], StepGraphs]:
    """Return the tokens of prompts that come one after another."""
    backend = decoder.model.backend
    assert isinstance(backend, TableBackend)
    backend.between = between
    room = Room(decoder.PROMPT_ROWS, decoder.TOKEN_ROWS, decoder.SCRATCH_ROWS)
    engine = Engine(decoder.strategies(), decoder.model, room, recorder=recorder)
    requests = [
        decoder.request(prompt, max_new_tokens=26, sequence_id=n, **options)
        for n, (prompt, options) in enumerate(PROMPTS)
    ]
    for step in range(10**4):
        if step % 2 == 0 and step // 2 < len(requests):
            engine.submit(requests[step // 2])
        engine.step()
        if engine.idle and step >= 2 * len(requests):
            break
    return [(list(each.tokens), each.nfe) for each in requests], engine.graphs


def check(strategy: str | Path, model: Path, out: Path) -> Launches:
    """Hold a strategy that notes against one that does not, launched and replayed."""
    decoder = load(strategy, model, out)
    want, _ = run(decoder, None, None)
    sizes = range(1, 5) if decoder.ROUTES else (1,)
    steps = [getattr(decoder, each) for each in decoder.steps()] or [decoder.step]
    known = {
        each
        for step in steps
        for each in programs(decoder.prefill, step, sizes, texts=decoder.LOOKS_UP)
    }
    alone = Launches()
    assert run(decoder, alone, None)[0] == want
    assert set(alone.found) <= known, "what is launched is what is compiled ahead"
    captured = Launches()
    found, graphs = run(decoder, captured, Emulator())
    assert found == want
    assert graphs.captures
    assert graphs.replays
    assert set(captured.found) <= known
    return alone


@pytest.mark.parametrize("name", SHOWN)
def test_a_strategy_that_notes_says_what_it_says_otherwise(
    name: str, model: Path, tmp_path: Path
) -> None:
    check(name, model, tmp_path / "made")


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(set(api.library()) - set(SHOWN)))
def test_so_does_every_other_strategy(name: str, model: Path, tmp_path: Path) -> None:
    check(name, model, tmp_path / "made")


@pytest.mark.long
def test_so_do_loops_at_random(model: Path, tmp_path: Path) -> None:
    def held(file: Path) -> None:
        check(file, model, file.with_suffix(""))

    assert accepted(range(60), tmp_path, held) > 20


@pytest.mark.parametrize(
    ("name", "launches"),
    [
        ("ar", 2),
        ("linear_ss", 3),
        ("quadratic_ss", 3),
        ("prompt_lookup", 2),
        ("prompt_lookup_tree", 2),
        ("lookahead", 2),
    ],
)
def test_a_step_launches_once_between_two_calls_of_the_model(
    name: str, launches: int, model: Path, tmp_path: Path
) -> None:
    decoder = load(name, model, tmp_path / "made")
    found = programs(decoder.prefill, decoder.step, texts=decoder.LOOKS_UP)
    assert len(found) == launches


def test_a_step_that_fails_begins_again_with_what_it_read(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = load("quadratic_ss", model, tmp_path / "made")
    prompts = [[3, 5], [4, 5], [6, 5]]
    want = decoder.generate(prompts, max_new_tokens=12, eos=()).tokens
    decoder = load("quadratic_ss", model, tmp_path / "again")
    launches = Launches()
    decoder.model.backend.between = launches
    write, failed = Carry.write, 0

    def fails(self: Carry, slots: Any, index: Any, values: Any, notes: Any = None) -> None:
        nonlocal failed
        write(self, slots, index, values, notes)
        if len(slots) > 1 and failed < 3:
            failed += 1
            raise RuntimeError("a kernel failed")

    monkeypatch.setattr(Carry, "write", fails)
    assert decoder.generate(prompts, max_new_tokens=12, eos=()).tokens == want
    assert failed == 3
    assert launches.found


def test_what_a_watcher_is_told_is_counted_by_torch(model: Path, tmp_path: Path) -> None:
    decoder = load("block_diffusion", model, tmp_path / "made")
    launches = Launches()
    decoder.model.backend.between = launches
    steps: list[Any] = []
    found = decoder.generate([[7, 9, 11]], max_new_tokens=8, on_step=steps.append)
    assert sum(each.nfe for step in steps for each in step.sequences) == found.stats[0].nfe
    assert not launches.found
