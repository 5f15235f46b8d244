"""Sequences that carry Counts, take steps of their own, and have drafts of unequal lengths.

They join late, end early and move between slots and strategies; steps are launched, noted and
replayed. Whatever the Counts are, the tokens are AR's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import noted_in_torch
import pytest
from random_model import random_checkpoint

from nldc import api
from nldc.runtime import Decoder
from nldc.runtime.engine.handover import Progress
from nldc.runtime.engine.request import Request
from nldc.runtime.step.carry import Carry
from tests.runtime.graph.delayed import Delayed, late_copies
from tests.runtime.graph.table_attention import TableBackend
from tests.runtime.graph.test_overlap import COMING_AND_GOING, LONG, Asked, engine_of, of, run

UNUSUAL = Path(__file__).parents[2] / "lossless" / "unusual"
COUNTING = ("cut_by_a_carried_count", "routed_by_counts", "linear_ss_confident")
ASKED = (*COMING_AND_GOING, Asked([5, 9] * 6, 24, after=1), Asked(LONG, 15, after=7, leaves=12))


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    """Return a decoder of strategies that count, and of AR, on attention that can be captured."""
    root = tmp_path_factory.mktemp("counts")
    files = [UNUSUAL / f"{name}.yaml" for name in COUNTING[:2]]
    artifact = api.compile(["ar", *files, COUNTING[2]], root / "several", certify=False)
    model = random_checkpoint(root / "model", num_hidden_layers=1, text=True)
    made = api.load(artifact).from_checkpoint(model, dtype="float64", device="cpu")
    made.model = replace(made.model, backend=TableBackend(made.model.backbone))
    return made


def tokens_of(decoder: Decoder, recorder: Any, asked: Sequence[Asked]) -> list[list[int]]:
    return [heard.tokens for heard in run(decoder, engine_of(decoder, recorder), asked)]


@pytest.fixture(scope="module")
def wanted(decoder: Decoder) -> list[list[int]]:
    """Return AR's tokens, of those that are not cancelled all that were asked for."""
    return tokens_of(decoder, None, of("ar", ASKED))


def same(found: list[list[int]], wanted: list[list[int]]) -> None:
    for one, other, asked in zip(found, wanted, ASKED, strict=True):
        if asked.leaves is None:
            assert one == other
        else:
            shorter = min(len(one), len(other))
            assert one[:shorter] == other[:shorter]


@pytest.mark.parametrize("name", COUNTING)
@pytest.mark.parametrize("noted", [False, True], ids=["ops", "noted"])
def test_sequences_that_come_and_go_say_what_ar_says(
    name: str, noted: bool, decoder: Decoder, wanted: list[list[int]]
) -> None:
    decoder.model.backend.between = noted_in_torch.do if noted else None
    try:
        same(tokens_of(decoder, None, of(name, ASKED)), wanted)
    finally:
        decoder.model.backend.between = None


@pytest.mark.parametrize("name", COUNTING)
def test_replayed_steps_say_it_too_and_wait_only_for_what_a_route_asks(
    name: str, decoder: Decoder, wanted: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Delayed()
    with late_copies(recorder.line, monkeypatch):
        engine = engine_of(decoder, recorder)
        same([heard.tokens for heard in run(decoder, engine, of(name, ASKED))], wanted)
    assert engine.graphs.replays
    assert bool(engine.graphs.overlapped) == (name != "routed_by_counts")


def test_sequences_move_between_strategies_and_begin_to_count_anew(
    decoder: Decoder, wanted: list[list[int]]
) -> None:
    names = ("routed_by_counts", "cut_by_a_carried_count", "ar")

    def choose(progress: Progress) -> str:
        return names[(progress.cycles // 2 + progress.sequence) % len(names)]

    asked = [replace(one, options={**one.options, "strategy": choose}) for one in ASKED]
    same(tokens_of(decoder, None, asked), wanted)
    handovers = decoder.HANDOVERS  # type: ignore[attr-defined]
    assert handovers["routed_by_counts"].counts == {"lately": 3, "turn": 0}
    assert handovers["routed_by_counts"].carry_of([5, 6, 7]) == {
        "seed": [7], "lately": [3], "turn": [0],
    }  # fmt: skip


def test_each_part_takes_its_own_step_together(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts: list[tuple[str, tuple[int, ...]]] = []
    kind = decoder.PARTS["routed_by_counts"]  # type: ignore[attr-defined]
    for name in kind.steps():
        step = getattr(kind, name)

        def watched(self: Any, batch: Any, carry: Any, name: str = name, step: Any = step) -> Any:
            parts.append((name, batch.slots))
            for slot_carries in zip(carry["lately"].tolist(), carry["turn"].tolist(), strict=True):
                (lately,), (turn,) = slot_carries
                assert self.route(batch.size, lately, turn) == name
            return step(self, batch, carry)

        monkeypatch.setattr(kind, name, watched)
    decoder.__dict__.pop("parts", None)
    tokens_of(decoder, None, of("routed_by_counts", ASKED))
    decoder.__dict__.pop("parts", None)
    assert {name for name, _ in parts} == {"step_single", "step_cut", "step_whole"}
    assert max(len(slots) for _, slots in parts) > 1
    assert any(one[0] != other[0] for one, other in pairwise(parts))


def test_a_step_that_fails_is_taken_again_with_the_counts_that_it_read(
    decoder: Decoder, wanted: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    write, failed = Carry.write, 0

    def fails(self: Carry, slots: Any, index: Any, values: Any, notes: Any = None) -> None:
        nonlocal failed
        write(self, slots, index, values, notes)
        if len(slots) > 1 and failed < 4:
            failed += 1
            raise RuntimeError("a kernel failed")

    monkeypatch.setattr(Carry, "write", fails)
    same(tokens_of(decoder, None, of("routed_by_counts", ASKED)), wanted)
    assert failed == 4


def test_a_request_is_told_of_the_counts_that_say_its_step(decoder: Decoder) -> None:
    engine = engine_of(decoder, None)
    request: Request = Asked([3, 4], 6, options={"strategy": "routed_by_counts"}).request(
        decoder, 0
    )
    engine.submit(request)
    seen = []
    while not engine.idle:
        engine.step()
        seen.append(dict(request.told))
    assert all(set(each) == {"lately", "turn"} for each in seen)
    assert len({each["turn"] for each in seen}) > 1
