"""What a request brings of a strategy's params is what would have been compiled in."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from random_model import random_checkpoint

from nldc import api
from nldc.runtime import Decoder, GenerateOptions, Param, PromptError, Worth
from nldc.runtime.model.scores import mixed
from nldc.runtime.step.choose import choice_of, grouped
from nldc.runtime.step.lineup import Lineup
from nldc.runtime.step.member import Member
from nldc.runtime.step.params import Columns, values_of
from nldc.runtime.step.sampling import Sampling
from nldc.runtime.step.sequences import Sequences
from nldc.runtime.step.values import Hidden, Logits

FILE = """nldc: 1
name: tuned
summary: A block whose rules, weights and draft take what requests bring.
guarantee: none
params:
  bar:  {type: float, default: 0.9, min: 0.0, max: 1.0, runtime: true, help: how sure}
  few:  {type: int, default: 2, min: 1, max: 4, runtime: true}
  heat: {type: float, default: 0.5, min: 0.0, max: 2.0, runtime: true}
  part: {type: float, default: 0.5, min: 0.0, max: 1.0, runtime: true}
prefill:
  context: {op: forward, tokens: $prompt, attention: causal, cache: append, counted: false}
  seed:    {op: sample, logits: context.last}
carry: {seed: prefill.seed}
step:
  block: {op: rows, segments: [{tokens: seed}, {masks: 7}]}
  filled:
    op: repeat
    on: block
    until: full
    at_least: 1
    at_most: 8
    body:
      seen:  {op: forward, tokens: block, attention: bidirectional, cache: read}
      other: {op: forward, tokens: block, attention: causal, predicts: self, cache: read}
      both:  {op: mix, logits: [seen, other], weights: [1 - part, part]}
      pick:  {op: sample, logits: both, temperature: heat}
      sure:  {op: score, logits: seen, tokens: pick, by: probability}
      take:
        op: select
        among: block.masked
        score: sure
        at_least: bar * 0.01
        where: score > bar * 0.01 and row < few + 3 or rank < few
        always: best few
      block: {op: fill, rows: block, where: take, tokens: pick}
  refresh: {op: forward, tokens: filled, attention: causal, cache: append}
  after:   {op: sample, logits: refresh.last}
  emit:    {tokens: filled, cache: keep all, next: {seed: after}}
"""
BROUGHT: tuple[dict[str, int | float], ...] = (
    {},
    {"bar": 0.3, "few": 3, "heat": 0.0, "part": 0.0},
    {"bar": 0.7, "few": 1, "heat": 2.0, "part": 1.0},
    {"bar": 0.0, "few": 4, "heat": 1e-9, "part": 0.25},
    {"bar": 1.0, "few": 2, "heat": 0.7, "part": 0.9},
)
PROMPTS = ([3, 5], [4], [6, 7, 8], [9, 10], [11])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_checkpoint(tmp_path_factory.mktemp("model"), num_hidden_layers=1)


def decoder_of(folder: Path, text: str, settings: Mapping[str, Any], model: Path) -> Decoder:
    folder.mkdir()
    file = folder / "tuned.yaml"
    file.write_text(text, encoding="utf-8")
    artifact = api.compile(file, folder / "out", settings, certify=False)
    return api.load(artifact).from_checkpoint(model, device="cpu", dtype="float32")


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_a_batch_of_any_values_is_as_if_each_were_compiled_in(
    tmp_path: Path, model: Path, temperature: float
) -> None:
    tuned = decoder_of(tmp_path / "tuned", FILE, {}, model)
    options = [
        GenerateOptions(
            max_new_tokens=20, eos=(), temperature=temperature, top_k=(None, 9)[number % 2],
            seed=number, sequence_id=number, params=each,
        )
        for number, each in enumerate(BROUGHT)
    ]  # fmt: skip
    mixed = tuned.generate(list(PROMPTS), options=options)
    for number, each in enumerate(BROUGHT):
        plain = FILE.replace(", runtime: true", "")
        own = decoder_of(tmp_path / f"own{number}", plain, each, model)
        alone = replace(options[number], params=None)
        found = own.generate([PROMPTS[number]], options=alone)
        assert found.tokens[0] == mixed.tokens[number]
        assert found.stats[0].nfe == mixed.stats[number].nfe
    assert len({stats.nfe for stats in mixed.stats}) > 2


def test_a_default_is_set_where_the_strategy_is_compiled(model: Path, tmp_path: Path) -> None:
    tuned = decoder_of(tmp_path / "tuned", FILE, {"few": 4}, model)
    assert [(each.name, each.default) for each in tuned.runtime_params()] == [
        ("bar", 0.9), ("few", 4), ("heat", 0.5), ("part", 0.5),
    ]  # fmt: skip
    one, other = (
        tuned.generate([PROMPTS[0]], max_new_tokens=9, eos=(), params=each).tokens
        for each in (None, {"few": 4})
    )
    assert one == other


WRONG: dict[str, tuple[Any, str]] = {
    "an unknown name": ({"bra": 0.5}, "did you mean bar"),
    "a name like none": ({"zzzzzz": 0.5}, "the params are bar, few, heat, part"),
    "too much": ({"bar": 1.5}, "from 0.0 to 1.0; the default is 0.9"),
    "too little": ({"few": 0}, "a whole number from 1 to 4; the default is 2"),
    "no whole number": ({"few": 1.5}, "a whole number from 1 to 4"),
    "a truth value": ({"bar": True}, "a number from 0.0 to 1.0"),
    "no number": ({"bar": float("nan")}, "a number from 0.0 to 1.0"),
    "text": ({"bar": "0.5"}, "a number from 0.0 to 1.0"),
    "no names": ([0.5], "give names with their values"),
}


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Decoder:
    return decoder_of(tmp_path_factory.mktemp("held") / "tuned", FILE, {}, model)


@pytest.mark.parametrize("name", WRONG)
def test_a_value_that_is_none_is_refused(tuned: Decoder, name: str) -> None:
    given, said = WRONG[name]
    with pytest.raises(PromptError) as caught:
        tuned.generate([[3]], params=given)
    assert said in str(caught.value)


@pytest.mark.parametrize("kind", [int, float, torch.tensor])
def test_numbers_of_any_kind_are_numbers(tuned: Decoder, kind: Callable[[int], Any]) -> None:
    request = tuned.request([3], params={"bar": kind(1)})
    assert request.params == {"bar": 1.0}


def test_a_strategy_without_such_params_takes_none(tmp_path: Path, model: Path) -> None:
    artifact = api.compile("ar", tmp_path / "ar", certify=False)
    ar = api.load(artifact).from_checkpoint(model, device="cpu")
    with pytest.raises(PromptError, match="set by --set"):
        ar.generate([[3]], params={"threshold": 0.5})


def test_values_go_by_name_where_strategies_change(tmp_path: Path, model: Path) -> None:
    names = ["linear_ss_iterative", "ar", "block_diffusion"]
    artifact = api.compile(names, tmp_path / "several", {"block_length": 4}, certify=False)
    several = api.load(artifact).from_checkpoint(model, device="cpu")
    turns = "ar:3,linear_ss_iterative:4,ar:2,linear_ss_iterative"
    found = [
        several.generate(
            [[5, 6]], max_new_tokens=20, eos=(), params={"threshold": bar},
            strategy=several_turns(turns, several),
        )
        for bar in (0.0, 1.0)
    ]  # fmt: skip
    assert found[0].tokens == found[1].tokens  # the promise is kept for every value
    assert found[0].stats[0].nfe < found[1].stats[0].nfe
    assert [each.name for each in several.runtime_params()] == ["threshold", "threshold"]


def several_turns(text: str, decoder: Decoder) -> Any:
    from nldc.runtime.engine.handover import schedule

    return schedule(text, tuple(decoder.strategies()))


# The pieces


BAR = Param("bar", 0.5, 0.0, 1.0)
FEW = Param("few", 2, 0, 9)
MORE = Worth((FEW, BAR), lambda few, bar: few - bar)


def test_columns_hold_a_line_a_slot_and_change_with_who_sits_there() -> None:
    columns = Columns(torch.float32, torch.device("cpu"))
    columns.expect([(BAR, "score")])
    columns.reserve(3)
    columns.put(0, {"bar": 0.7})
    columns.put(2, {"few": 5})
    index = torch.tensor([2, 0])
    assert columns.read(BAR, "score", index).tolist() == torch.tensor([[0.5], [0.7]]).tolist()
    assert columns.read(FEW, "count", index).tolist() == [[5], [2]]  # asked for the first time
    assert columns.read(MORE, "temperature", index).tolist() == [[4.5], [1.3]]
    before = columns.addresses
    columns.put(0, {})
    assert columns.read(BAR, "score", index).flatten().tolist() == [0.5, 0.5]
    assert columns.addresses == before
    columns.reserve(9)
    columns.put(8, {"few": 1})
    assert columns.read(FEW, "count", torch.tensor([8, 2])).tolist() == [[1], [5]]


def test_a_weight_of_a_sequence_is_as_one_of_all() -> None:
    torch.manual_seed(0)
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        parts = [torch.randn(2, 3, 5).to(dtype) for _ in range(2)]
        precision = torch.promote_types(dtype, torch.float32)
        weights = [torch.tensor([[w], [1 - w]], dtype=precision) for w in (0.3, 0.9)]
        found = mixed(parts, weights)
        for number, (one, other) in enumerate(((0.3, 0.9), (1 - 0.3, 1 - 0.9))):
            alone = mixed(parts, [one, other])[number]
            assert torch.equal(found[number], alone)
    parts[0][...] = -torch.inf
    nothing = torch.zeros(2, 1)
    for weights in ([nothing, nothing + 1], [0.0, 1.0]):
        assert torch.equal(mixed(parts, weights), parts[1])


SAMPLINGS = (Sampling(), Sampling(0.8, top_k=3, seed=4), Sampling(top_k=1), Sampling(0.8, top_k=3))


def test_a_drafters_temperature_is_in_place_of_the_sequences_own() -> None:
    torch.manual_seed(1)
    logits = Logits(torch.randn(4, 6, 40), torch.arange(24).view(4, 6))

    def batch(samplings: Any) -> Sequences:
        members = [Member(n, n, sampling) for n, sampling in enumerate(samplings)]
        return Sequences(Lineup.of(members, 0, torch.device("cpu")))

    def at(temperature: float) -> list[Sampling]:
        return [
            replace(each, temperature=temperature, top_k=each.top_k if each.temperature else None)
            for each in SAMPLINGS
        ]

    own = batch(SAMPLINGS)
    for temperature in (0.0, 0.4, 1.7):
        wanted = batch(at(temperature)).sample(logits)
        assert torch.equal(own.sample(logits, temperature=temperature), wanted)
        each = torch.full((4, 1), temperature, dtype=torch.float64)
        assert torch.equal(own.sample(logits, temperature=each), wanted)
    mixed = torch.tensor([[0.0], [0.4], [1.7], [1e-9]], dtype=torch.float64)
    rows = [batch(at(float(t))).sample(logits)[n] for n, t in enumerate(mixed)]
    assert torch.equal(own.sample(logits, temperature=mixed), torch.stack(rows))


def test_unlike_sequences_share_one_choice_of_a_drafter() -> None:
    members = [Member(n, n, sampling) for n, sampling in enumerate(SAMPLINGS)]
    assert len(grouped(members, torch.device("cpu"))) > 1
    rules = Lineup.of(members, 0, torch.device("cpu")).rules
    hidden = Hidden(torch.zeros(4, 1, 2), torch.zeros(4, 1, dtype=torch.int64))

    def heat(temperature: Any) -> list[float] | None:
        choice = choice_of(rules, hidden, temperature=temperature)
        assert choice is not None
        assert choice.filters == (choice.drawing is not None)
        return None if choice.drawing is None else choice.drawing.temperature.tolist()

    each = [0.0, 0.5, 1.0, 2.0]
    assert heat(None) == [0.0, 0.8, 0.0, 0.8]
    assert heat(0.0) is None
    assert heat(0.3) == [0.3] * 4
    assert heat(torch.tensor(each, dtype=torch.float64).unsqueeze(1)) == each


def test_what_a_column_cannot_hold_is_beyond_every_score() -> None:
    """A request within its bounds may bring it: expressions over params outgrow float32."""
    columns = Columns(torch.float32, torch.device("cpu"))
    large = Param("g", 1.0, -1e39, 1e39, "")
    columns.expect([(large, "score")])
    columns.reserve(2)
    columns.put(0, {"g": 1e39})
    columns.put(1, {"g": -1e39})
    found = columns.read(large, "score", torch.arange(2))
    assert found.tolist() == [[math.inf], [-math.inf]]


def test_a_whole_number_that_no_float_holds_is_beyond_every_score() -> None:
    """With a column and without one: a batch of whoever runs a step by itself has none."""
    many = Param("k", 1, -(10**6), 10**6)
    power = Worth((many,), lambda k: k**101)
    given = ({"k": 10**6}, {"k": -(10**6)})
    columns = Columns(torch.float32, torch.device("cpu"))
    columns.reserve(2)
    for slot, each in enumerate(given):
        columns.put(slot, each)
    found = columns.read(power, "score", torch.arange(2))
    alone = values_of(power, "score", given, torch.float32, torch.device("cpu"))
    assert found.tolist() == alone.tolist() == [[math.inf], [-math.inf]]
