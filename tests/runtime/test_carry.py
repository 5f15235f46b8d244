"""What sequences carry lies at their slots: each reads what it wrote, and nothing older."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor

from nldc import api
from nldc.runtime import Decoder, Engine
from nldc.runtime.engine.handover import in_turn
from nldc.runtime.step.batch import Batch
from nldc.runtime.step.carry import Carry
from nldc.runtime.step.values import Emit
from nldc.runtime.switching import SwitchingDecoder

CPU = torch.device("cpu")
CHECKPOINT = Path(__file__).parents[1] / "golden_checkpoints" / "random-1"
NAMES = ("ar", "linear_ss", "quadratic_ss", "tidar")  # they carry 1, 1, 4 and 5 tokens
POISON = 10**9
"""No token of any model: one that is read ends in an error, or in other tokens."""


def carry_for(slots: int) -> Carry:
    carry = Carry(CPU)
    carry.reserve(slots)
    return carry


def write(carry: Carry, lines: Mapping[int, Sequence[int]], name: str = "seed") -> None:
    carry.write([*lines], torch.tensor([*lines]), {name: torch.tensor([*lines.values()])})


def read(carry: Carry, *slots: int) -> dict[str, list[list[int]]]:
    found = carry.read(slots, torch.tensor(slots))
    return {name: values.tolist() for name, values in found.items()}


def test_each_slot_reads_what_it_wrote_in_whatever_company() -> None:
    carry = carry_for(4)
    write(carry, {2: [7], 0: [5]})
    write(carry, {1: [6]})
    assert read(carry, 1, 2) == {"seed": [[6], [7]]}
    write(carry, {2: [9], 1: [8]})
    assert read(carry, 0, 1, 2) == {"seed": [[5], [8], [9]]}


def test_what_was_read_is_not_changed_by_what_is_written_then() -> None:
    carry = carry_for(2)
    write(carry, {0: [1], 1: [2]})
    before = carry.read([0, 1], torch.tensor([0, 1]))
    write(carry, {0: [3], 1: [4]})
    assert before["seed"].tolist() == [[1], [2]]


def test_a_slot_that_was_forgotten_or_never_written_carries_nothing() -> None:
    carry = carry_for(3)
    write(carry, {0: [1], 1: [2]})
    carry.forget(1)
    carry.forget(99)
    assert read(carry, 0) == {"seed": [[1]]}
    for slots in ((1,), (2,)):
        with pytest.raises(ValueError, match=f"slot {slots[0]} carries nothing"):
            read(carry, *slots)
    with pytest.raises(ValueError, match="slots 0 and 1 do not carry the same"):
        read(carry, 0, 1)


def test_a_strategy_that_carries_nothing_reads_nothing() -> None:
    carry = carry_for(1)
    carry.write([0], torch.tensor([0]), {})
    assert read(carry, 0) == {}


def test_values_of_other_widths_and_names_share_slots_but_are_not_mixed_up() -> None:
    carry = carry_for(3)
    write(carry, {0: [1], 1: [2]}, "draft")
    write(carry, {2: [3, 4, 5]}, "draft")
    assert read(carry, 0, 1) == {"draft": [[1], [2]]}
    write(carry, {2: [6]}, "draft")
    assert read(carry, 0, 2) == {"draft": [[1], [6]]}
    carry.put(0, {"draft": [7, 8, 9], "seed": [1]})
    assert read(carry, 0) == {"draft": [[7, 8, 9]], "seed": [[1]]}
    with pytest.raises(ValueError, match="do not carry the same"):
        read(carry, 0, 2)
    carry.put(0, {"seed": [4]})
    assert read(carry, 0) == {"seed": [[4]]}


def test_the_host_may_write_inside_inference_mode_and_outside_it() -> None:
    carry = carry_for(1)
    with torch.inference_mode():
        write(carry, {0: [1]})
        carry.reserve(4)
        write(carry, {0: [2, 3], 3: [5, 6]})
    carry.put(3, {"seed": [7, 8]})
    assert read(carry, 0, 3) == {"seed": [[2, 3], [7, 8]]}


def test_a_table_moves_only_when_it_has_no_room() -> None:
    carry = carry_for(8)
    write(carry, {0: [1, 2, 3]})
    place = carry._tables["seed"].data_ptr()
    for slot in range(8):
        write(carry, {slot: [slot] * (1 + slot % 3)})
        carry.forget((slot + 5) % 8)
        carry.reserve(8)
    assert carry._tables["seed"].data_ptr() == place
    write(carry, {7: [7] * 4})
    moved = carry._tables["seed"].data_ptr()
    assert moved != place
    carry.reserve(9)
    assert carry._tables["seed"].data_ptr() != moved
    assert read(carry, 7) == {"seed": [[7] * 4]}


def test_values_that_are_no_token_ids_are_refused() -> None:
    carry = carry_for(1)
    with pytest.raises(RuntimeError):
        carry.write([0], torch.tensor([0]), {"seed": torch.tensor([[0.5]])})


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> SwitchingDecoder:
    folder = tmp_path_factory.mktemp("artifacts") / "all"
    settings = {"block_length": 5, "k": 4}
    made = api.load(api.compile([*NAMES], folder, settings, certify=False))
    decoder = made.from_checkpoint(CHECKPOINT, dtype="float64", device="cpu")
    assert isinstance(decoder, SwitchingDecoder)
    return decoder


def requests_of(decoder: SwitchingDecoder) -> list[Any]:
    """Requests of all lengths that join and leave at other moments, and switch all the time."""
    drawn = Random(3)
    turns = in_turn(decoder.HANDOVERS, NAMES)
    return [
        decoder.request(
            [drawn.randrange(1, 40) for _ in range(drawn.randrange(1, 6))],
            max_new_tokens=drawn.randrange(1, 16),
            eos=(),
            strategy=turns if number % 2 else drawn.choice(NAMES),
        )
        for number in range(14)
    ]


def decoded(engine: Engine, requests: list[Any]) -> list[list[int]]:
    for request in requests:
        engine.submit(request)
    while not engine.idle:
        for event in engine.step():
            assert event.error is None
    return [request.tokens for request in requests]


def test_no_stale_line_is_read_while_sequences_join_leave_and_switch(
    decoder: SwitchingDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is not carried now is poisoned: lines of who left, other names, columns behind."""
    poisoned = 0

    def poison(carry: Carry, slots: Sequence[int]) -> None:
        nonlocal poisoned
        for name, table in carry._tables.items():
            for slot in slots:
                width = dict(carry._forms[slot] or ()).get(name, 0)
                table[slot, width:] = POISON
                poisoned += table.shape[1] - width

    forget, put, after = Carry.forget, Carry.put, Carry.write

    def forgets(self: Carry, slot: int) -> None:
        forget(self, slot)
        poison(self, [slot] if slot < len(self._forms) else [])

    def puts(self: Carry, slot: int, values: Mapping[str, Sequence[int]]) -> None:
        put(self, slot, values)
        poison(self, [slot])

    def writes(
        self: Carry, slots: Sequence[int], index: Tensor, values: Any, notes: Any = None
    ) -> None:
        after(self, slots, index, values, notes)
        poison(self, slots)

    want = [
        decoder.generate([request.prompt], max_new_tokens=request.max_new_tokens, eos=()).tokens[0]
        for request in requests_of(decoder)
    ]
    monkeypatch.setattr(Carry, "forget", forgets)
    monkeypatch.setattr(Carry, "put", puts)
    monkeypatch.setattr(Carry, "write", writes)
    for at_most in (3, None):
        engine = decoder.new_engine(max_live=at_most)
        assert decoded(engine, requests_of(decoder)) == want
    assert poisoned > 100


def test_a_step_that_fails_when_it_has_written_begins_again_with_what_it_read(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"max_new_tokens": 12, "eos": (), "strategy": "quadratic_ss"}
    prompts = [[3, 5], [4, 5], [6, 5]]
    want = decoder.generate(prompts, **options).tokens
    write = Carry.write
    failed = 0

    def fails(
        self: Carry, slots: Sequence[int], index: Tensor, values: Any, notes: Any = None
    ) -> None:
        nonlocal failed
        write(self, slots, index, values, notes)
        if len(slots) > 1 and failed < 3:
            failed += 1
            raise RuntimeError("a kernel failed")

    monkeypatch.setattr(Carry, "write", fails)
    assert decoder.generate(prompts, **options).tokens == want
    assert failed == 3


def test_a_batch_carries_what_its_sequences_emitted_last(decoder: Decoder) -> None:
    class Watched(type(decoder.parts["ar"])):  # type: ignore[misc,attr-defined]
        def step(self, batch: Batch, carry: dict[str, Tensor]) -> Emit:
            assert carry["seed"].tolist() == [[each.history()[-1]] for each in batch.members]
            return super().step(batch, carry)

    own = Watched.from_checkpoint(CHECKPOINT, dtype="float64", device="cpu")
    result = own.generate([[3], [4, 5], [6]], max_new_tokens=6, eos=(), batch_size=2)
    assert [len(tokens) for tokens in result.tokens] == [6, 6, 6]
