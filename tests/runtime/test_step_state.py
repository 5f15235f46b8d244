"""What the device knows between steps is what the host knows, and a step asks the host nothing."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from company import Company, Decoded, rows_of
from random_model import decoders_on, random_checkpoint
from test_members import MEMBERS, PROMPTS
from torch import Tensor
from watched import watched

from nldc import api
from nldc.runtime.cache.holdings import Holdings
from nldc.runtime.cache.kv_cache import KVCache
from nldc.runtime.decoder import Decoder
from nldc.runtime.step.batch import Batch
from nldc.runtime.step.member import Member
from nldc.runtime.step.sequences import Sequences
from nldc.runtime.step.state import LINEUPS, StepState

STRATEGIES = sorted(api.library())
GOLDEN = Path(__file__).parent.parent / "golden"
LOOPED = [
    name
    for name in STRATEGIES
    if "batch.rounds(" in (GOLDEN / name / "decode.py.txt").read_text(encoding="utf-8")
    if name != "wino"  # whose loop takes all its rounds with this model
]
FIRST = 1
"""Steps of a strategy that may put there what it fixes: tables of rows, what rows see."""
ALLOWED = {"host.py:read tolist"}
"""In a step: a loop reads whom it runs on for, once a round."""
OF_TORCH = {"guided": {"pattern.py:visible as_tensor"}}
"""In torch's attention, what rows see of a prefix that they do not see whole is laid out anew."""


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Decoder]:
    root = tmp_path_factory.mktemp("artifacts")
    model = random_checkpoint(root / "model", seed=4)
    return decoders_on(model, root, dtype="float32")


class Steps:
    """Watches every step of a run but the first ones; `rounds` counts what loops ask."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.seen = 0
        self.rounds = 0
        self.found: Counter[str] = Counter()
        done = Sequences.done

        def counted(batch: Sequences, active: Tensor) -> bool:
            self.rounds += self.seen > FIRST
            return done(batch, active)

        patch.setattr(Sequences, "done", counted)

    def __call__(self, _batch: Batch, name: str) -> AbstractContextManager[object]:
        self.seen += name == "step"
        return watched(self.found) if self.seen > FIRST else nullcontext()


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_step_reads_nothing_but_whom_its_loop_runs_on_for(
    load: Callable[[str], Decoder], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if load(name).ROUTED_BY:  # each of its steps puts there what the strategy fixes of it
        Company(load(name), most=20).decode(PROMPTS, MEMBERS)
    steps = Steps(monkeypatch)
    Company(load(name), most=20, during=steps).decode(PROMPTS, MEMBERS)
    assert steps.seen > FIRST
    found = {what: n for what, n in steps.found.items() if what not in OF_TORCH.get(name, ())}
    assert set(found) <= ALLOWED
    assert sum(found.values()) == steps.rounds


@pytest.mark.parametrize("name", ["ar", "prompt_lookup", "linear_ss", "block_diffusion"])
def test_the_first_step_of_a_sequence_is_like_any_other(
    load: Callable[[str], Decoder], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the strategy has run before: it takes no page and uploads nothing."""
    Company(load(name), most=2).decode(PROMPTS[:2], MEMBERS[:2])
    found: Counter[str] = Counter()
    steps = taken = 0
    extend = Holdings._extend

    def extending(holdings: Holdings, slot: int, number: int) -> None:
        nonlocal taken
        taken += number
        extend(holdings, slot, number)

    @contextmanager
    def during(_batch: Batch, what: str) -> Iterator[None]:
        nonlocal steps
        steps += what == "step"
        before = taken
        with watched(found) if what == "step" else nullcontext():
            yield
        assert what != "step" or taken == before

    monkeypatch.setattr(Holdings, "_extend", extending)
    Company(load(name), most=2, during=during).decode([[1] * 60, [2] * 63], MEMBERS[:2])
    assert steps
    assert taken
    assert set(found) <= ALLOWED


def test_what_is_written_and_read_is_noticed() -> None:
    found: Counter[str] = Counter()
    values = torch.arange(3)
    with watched(found):
        torch.tensor([1])
        values.tolist()
        bool(values.any())
        values[values > 1]
        values.nonzero()
        values + 1
    kinds = Counter(line.rsplit(" ", 1)[1] for line in found.elements())
    assert kinds["tensor"] == kinds["tolist"] == kinds["__bool__"] == 1
    assert kinds["aten.index"] == kinds["aten.nonzero"] == 1


def test_nothing_is_written_between_steps_while_the_same_sequences_go_on(
    load: Callable[[str], Decoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[tuple[int, ...], Counter[str]]] = []
    begin = Batch.__init__

    def watching(batch: Batch, model: Any, cache: Any, members: Any, state: Any) -> None:
        found: Counter[str] = Counter()
        with watched(found):
            begin(batch, model, cache, members, state)
        made.append((batch.slots, found))

    monkeypatch.setattr(Batch, "__init__", watching)
    for name in ("ar", "prompt_lookup"):
        made.clear()
        Company(load(name), most=9).decode(PROMPTS, MEMBERS)
        prefills, steps = made[: len(PROMPTS)], made[len(PROMPTS) :]
        assert all(found for _, found in prefills)
        goes_on = 0
        for (before, _), (slots, found) in pairwise(steps):
            assert (not found) == (slots == before)
            goes_on += slots == before
        assert goes_on


@pytest.mark.parametrize("name", ["ar", "linear_ss", "block_diffusion", "linear_ss_iterative"])
def test_pages_are_taken_between_steps(
    load: Callable[[str], Decoder], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: Counter[str] = Counter()
    where = "prefill"
    steps = 0
    extend = Holdings._extend

    def extending(holdings: Holdings, slot: int, number: int) -> None:
        taken[where] += number
        extend(holdings, slot, number)

    @contextmanager
    def during(_batch: Batch, name: str) -> Iterator[None]:
        nonlocal where, steps
        steps += name == "step"
        where = "first" if steps <= FIRST else "step"
        yield
        where = "between"

    monkeypatch.setattr(Holdings, "_extend", extending)
    Company(load(name), most=150, during=during).decode(PROMPTS[:2], MEMBERS[:2])
    assert taken["between"] >= 2
    assert not taken["step"]


@pytest.mark.parametrize("name", ["ar", "prompt_lookup", "linear_ss", "block_diffusion"])
def test_the_device_has_the_lengths_and_the_texts_of_the_host(
    load: Callable[[str], Decoder], name: str
) -> None:
    steps = 0

    def check(batch: Batch, _name: str) -> AbstractContextManager[object]:
        nonlocal steps
        steps += 1
        assert batch.start.tolist() == [batch.cache.length(slot) for slot in batch.slots]
        history = batch.history()
        texts = zip(history.tokens.tolist(), history.count.tolist(), strict=True)
        assert [text[:count] for text, count in texts] == [m.history() for m in batch.members]
        return nullcontext()

    Company(load(name), most=20, during=check).decode(PROMPTS, MEMBERS)
    assert steps > len(PROMPTS)


def test_what_the_host_changes_between_steps_is_written(load: Callable[[str], Decoder]) -> None:
    decoder = load("ar")
    backbone = decoder.model.backbone
    cache = KVCache(decoder.config, backbone.dtype, backbone.device)
    state = StepState(decoder.config, backbone.device)
    texts = [[5, 6, 7], [8, 9]]
    members = [
        Member(cache.acquire(64), key, prompt_length=len(text), history=lambda text=text: text)
        for key, text in enumerate(texts)
    ]

    def seen() -> tuple[list[int], list[int], list[list[int]]]:
        batch = Batch(decoder.model, cache, members, state)
        history = batch.history()
        return batch.start.tolist(), history.count.tolist(), history.tokens.tolist()

    assert seen() == ([0, 0], [3, 2], [[5, 6, 7], [8, 9, 0]])
    cache.append(members[1].slot, 4)
    cache.keep(members[1].slot, 4)
    texts[1] += [1, 2, 3, 4]
    assert seen() == ([0, 4], [3, 6], [[5, 6, 7, 0, 0, 0], [8, 9, 1, 2, 3, 4]])
    cache.forget(members[1].slot, 3)
    del texts[1][2:]
    starts, counts, tokens = seen()
    assert (starts, counts) == ([0, 1], [3, 2])
    assert [line[:count] for line, count in zip(tokens, counts, strict=True)] == texts
    other = Member(members[0].slot, 9, eos=(1, 2, 3), prompt_length=1, history=lambda: [4])
    state.leave(members[0].slot)
    members[0] = other
    assert seen()[1] == [1, 2]
    assert Batch(decoder.model, cache, members, state).ends(
        torch.tensor([[3, 4], [3, 4]])
    ).tolist() == [[True, False], [False, False]]


def test_what_left_is_forgotten(load: Callable[[str], Decoder]) -> None:
    config = load("ar").config
    state = StepState(config, torch.device("cpu"))
    members = [Member(slot, slot) for slot in range(3)]
    gone = weakref.ref(members[1])
    lineup = state.lineup(members)
    assert state.lineup(members) is lineup
    state.lineup(members[:2])
    del lineup, members[1]
    gc.collect()
    assert gone() is not None
    state.leave(1)
    gc.collect()
    assert gone() is None
    for slot in range(3, 60):
        state.lineup([Member(slot, slot)])
    assert len(state._lineups) <= LINEUPS


def kept_of(company: Company, decoded: Sequence[Decoded]) -> list[Tensor]:
    (cache,) = company.caches
    return [rows_of(cache, one.member.slot) for one in decoded]


@contextmanager
def late() -> Iterator[list[int]]:
    """Let a loop hear of each round only when the next one is over; yields rounds too many."""
    done = Sequences.done
    told: dict[int, tuple[Sequences, bool]] = {}
    too_many = [0]

    def told_late(batch: Sequences, active: Tensor) -> bool:
        before = told.get(id(batch), (batch, False))[1]
        told[id(batch)] = (batch, done(batch, active))
        too_many[0] += told[id(batch)][1] and not before
        return before

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sequences, "done", told_late)
        yield too_many


@pytest.mark.parametrize("name", LOOPED)
def test_a_loop_that_hears_of_its_end_a_round_late_changes_nothing(
    load: Callable[[str], Decoder], name: str
) -> None:
    decoder = load(name)
    in_time, too_late = Company(decoder, most=24), Company(decoder, most=24)
    want = in_time.decode(PROMPTS, MEMBERS)
    with late() as too_many:
        found = too_late.decode(PROMPTS, MEMBERS)
    assert too_many[0]
    assert [(one.tokens, one.nfe) for one in found] == [(one.tokens, one.nfe) for one in want]
    for own, other in zip(kept_of(in_time, want), kept_of(too_late, found), strict=True):
        assert own.shape[3]
        assert torch.equal(own, other)
