"""Loops of every make are captured: a round by itself, and replayed while somebody goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from random_model import random_checkpoint

from nldc import api
from nldc.runtime import Decoder, Engine
from nldc.runtime.engine.strategy import Room
from nldc.runtime.graph.batch import MOST_APART
from nldc.runtime.graph.step_graphs import StepGraphs
from nldc.runtime.graph.work import Rounds, Work
from tests.library import short_steps
from tests.lossless.loops_at_random import accepted
from tests.runtime.graph.emulator import Emulator
from tests.runtime.graph.table_attention import TableBackend

LOOPS = sorted((Path(__file__).parents[2] / "lossless" / "loops").glob("*.yaml"))
FIRST = "a step of its kind is seen for the first times"
PROMPTS: tuple[tuple[list[int], dict[str, Any]], ...] = (
    ([7, 9, 11] * 20, {"eos": ()}),
    ([3, 4], {"eos": (5, 17, 40)}),
    ([8], {"eos": (), "temperature": 0.9, "seed": 3}),
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_checkpoint(tmp_path_factory.mktemp("model"), num_hidden_layers=1)


def load(strategy: str | Path, model: Path, out: Path, **settings: Any) -> Decoder:
    artifact = api.compile(strategy, out, settings, certify=False)
    made = api.load(artifact).from_checkpoint(model, dtype="float64", device="cpu")
    made.model = replace(made.model, backend=TableBackend(made.model.backbone))
    return made


def engine_of(decoder: Decoder, recorder: Emulator | None) -> Engine:
    room = Room(decoder.PROMPT_ROWS, decoder.TOKEN_ROWS, decoder.SCRATCH_ROWS)
    return Engine(decoder.strategies(), decoder.model, room, recorder=recorder)


def run(decoder: Decoder, engine: Engine, tokens: int = 26) -> list[list[int]]:
    """Return the tokens of prompts that come one after another."""
    requests = [
        decoder.request(prompt, max_new_tokens=tokens, sequence_id=n, **options)
        for n, (prompt, options) in enumerate(PROMPTS)
    ]
    for step in range(10**4):
        if step % 2 == 0 and step // 2 < len(requests):
            engine.submit(requests[step // 2])
        engine.step()
        if engine.idle and step >= 2 * len(requests):
            break
    return [list(request.tokens) for request in requests]


def same(decoder: Decoder) -> StepGraphs:
    """Hold replayed tokens against launched ones, and return the graphs."""
    wanted = run(decoder, engine_of(decoder, None))
    engine = engine_of(decoder, Emulator())
    assert run(decoder, engine) == wanted
    return engine.graphs


def loops_in(work: Work) -> list[Rounds]:
    """Return the loops of captured work, those within others too."""
    found = [part for part in work if isinstance(part, Rounds)]
    return [*found, *(inner for one in found for each in one.each for inner in loops_in(each))]


@pytest.mark.parametrize("file", LOOPS, ids=lambda file: file.stem)
def test_every_make_of_loop_gives_what_it_gives_without_graphs(
    file: Path, model: Path, tmp_path: Path
) -> None:
    graphs = same(load(file, model, tmp_path / "artifact"))
    assert set(graphs.eager) == {FIRST}
    assert graphs.replays
    for graph in graphs._graphs.values():
        outer = [part for part in graph.work if isinstance(part, Rounds)]
        assert outer
        assert (len(loops_in(graph.work)) > len(outer)) == (file.stem == "nested")


def test_rounds_that_are_the_same_are_captured_once_and_others_apart(
    model: Path, tmp_path: Path
) -> None:
    for name, apart in (("block_diffusion", False), ("block_diffusion_steps", True)):
        decoder = load(name, model, tmp_path / name, **short_steps(name, 4))
        graphs = same(decoder)
        loops = [one for each in graphs._graphs.values() for one in loops_in(each.work)]
        assert {len(one.each) for one in loops} == {max(one.most for one in loops) if apart else 1}


def test_a_loop_of_too_many_rounds_that_are_each_other_work_is_launched_as_ever(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nldc.runtime.graph.batch.MOST_APART", 3)
    decoder = load("block_diffusion_steps", model, tmp_path / "steps", block_length=4, steps=4)
    graphs = same(decoder)
    assert MOST_APART > 3
    assert graphs.replays == 0
    assert any("each other work" in why for why in graphs.eager)


def test_forwards_of_rounds_are_counted_and_told_by_node(model: Path, tmp_path: Path) -> None:
    decoder = load("block_diffusion", model, tmp_path / "watched", block_length=4, threshold=0.02)
    told: dict[bool, list[Any]] = {}
    for graphs in (False, True):
        engine = engine_of(decoder, Emulator() if graphs else None)
        seen = told.setdefault(graphs, [])
        engine.observe(
            lambda record, seen=seen: seen.append(
                [(one.nfe, dict(one.forwards), one.accepted) for one in record.sequences]
            )
        )
        run(decoder, engine)
        assert bool(engine.graphs.replays) == graphs
    assert told[True] == told[False]
    rounds = {
        forwards["step.filled.seen"]
        for step in told[True]
        for _, forwards, _ in step
        if "step.filled.seen" in forwards
    }
    assert len(rounds) > 1


def test_random_loops_give_what_they_give_without_graphs(model: Path, tmp_path: Path) -> None:
    assert hold_random_loops(range(10**6), 4, model, tmp_path) == 4


@pytest.mark.long
@pytest.mark.parametrize("first", range(1000, 41000, 1000))
def test_many_random_loops_give_what_they_give_without_graphs(
    first: int, model: Path, tmp_path: Path
) -> None:
    assert hold_random_loops(range(first, first + 1000), 15, model, tmp_path) == 15


def hold_random_loops(seeds: range, most: int, model: Path, folder: Path) -> int:
    """Hold up to so many random strategies of loops that the checker takes; return how many."""

    def held(file: Path) -> None:
        graphs = same(load(file, model, file.with_suffix("")))
        why = [why for why in graphs.eager if "Error" in why or "something else" in why]
        assert not why, file.name

    return accepted(seeds, folder, held, most)
