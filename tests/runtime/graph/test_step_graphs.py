"""Steps that are replayed from what was captured of them give what steps give that are not."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from random_model import random_checkpoint
from torch import Tensor

from nldc import api
from nldc.runtime import Decoder, Engine, Event, PromptEmbeddings
from nldc.runtime.engine.strategy import Room
from nldc.runtime.errors import GraphWarning
from nldc.runtime.graph.key import FIRST_KEYS, bucket
from nldc.runtime.graph.recorder import Recorder
from nldc.runtime.graph.step_graphs import StepGraphs
from nldc.runtime.step.state import StepState
from tests.runtime.graph.emulator import Emulator, RefusedError, Tape
from tests.runtime.graph.table_attention import TableBackend
from tests.runtime.paged import scatter_pages

STRAIGHT = (
    "ar", "linear_ss", "linear_ss_lora", "quadratic_ss", "quadratic_ss_ensemble", "tidar",
    "prompt_lookup", "jacobi", "linear_ss_tree", "lookahead", "prompt_lookup_tree",
)  # fmt: skip
LOOPED = (
    "block_diffusion", "block_diffusion_steps", "entropy_bounded", "factor_threshold",
    "margin_confidence", "slow_fast", "token_editing",
)  # fmt: skip
LONG = [7, 9, 11] * 20  # 60 tokens: the first page ends within the answer
SAMPLED = {"temperature": 0.9, "seed": 11}
SETTINGS: dict[str, int | float] = {"block_length": 3}


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    """Return a decoder of several strategies, on attention that can be captured."""
    root = tmp_path_factory.mktemp("graphs")
    return decoder_of([*STRAIGHT, *LOOPED, "concurrency_router"], root, SETTINGS)


def decoder_of(names: Sequence[str], root: Path, settings: dict[str, int | float]) -> Decoder:
    artifact = api.compile(names, root / "several", settings, certify=False)
    model = random_checkpoint(root / "model", num_hidden_layers=1)
    made = api.load(artifact).from_checkpoint(model, dtype="float64", device="cpu")
    made.model = replace(made.model, backend=TableBackend(made.model.backbone))
    return made


def engine_of(decoder: Decoder, recorder: Recorder | None) -> Engine:
    """Return an engine; with a recorder, its steps are captured."""
    room = Room(decoder.PROMPT_ROWS, decoder.TOKEN_ROWS, decoder.SCRATCH_ROWS)
    return Engine(decoder.strategies(), decoder.model, room, recorder=recorder)


@dataclass
class Asked:
    """A request: when it comes, and when it goes by itself (None: at its end)."""

    prompt: Sequence[int]
    tokens: int = 12
    after: int = 0
    leaves: int | None = None
    options: dict[str, Any] = field(default_factory=dict)


def run(
    decoder: Decoder,
    engine: Engine,
    asked: Sequence[Asked],
    between: Callable[[int, Engine], None] = lambda *_: None,
) -> list[list[int]]:
    """Decode requests that come and go at given steps; return the tokens of each."""
    requests = [
        decoder.request(
            one.prompt, **{"eos": (), "max_new_tokens": one.tokens, "sequence_id": n, **one.options}
        )
        for n, one in enumerate(asked)
    ]
    step = 0
    while step == 0 or not engine.idle or any(request.id < 0 for request in requests):
        for one, request in zip(asked, requests, strict=True):
            if one.after == step:
                engine.submit(request)
            if one.leaves == step:
                engine.cancel(request.id)
        between(step, engine)
        errors = [event for event in engine.step() if isinstance(event, Event) and event.error]
        assert not errors, errors
        step += 1
    return [list(request.tokens) for request in requests]


def same(decoder: Decoder, asked: Sequence[Asked], **more: Any) -> Engine:
    """Hold the tokens of steps that are captured against those of steps that are not."""
    wanted = run(decoder, engine_of(decoder, None), asked, **more)
    engine = engine_of(decoder, Emulator())
    assert run(decoder, engine, asked, **more) == wanted
    assert all(wanted)
    return engine


COMING_AND_GOING = (
    Asked(LONG, 14),
    Asked([3], 9, after=3),
    Asked([4, 5], 20, after=3, options=SAMPLED),
    Asked([200, 201, 202], 30, after=5, leaves=9),
)


@pytest.mark.parametrize("strategy", STRAIGHT)
def test_every_strategy_without_loops_is_replayed_token_for_token(
    decoder: Decoder, strategy: str
) -> None:
    asked = [
        replace(one, options={**one.options, "strategy": strategy}) for one in COMING_AND_GOING
    ]
    engine = same(decoder, asked)
    assert engine.graphs.replays >= 4
    assert set(engine.graphs.eager) == {"a step of its kind is seen for the first times"}


@pytest.mark.parametrize("strategy", LOOPED)
def test_loops_are_replayed_as_long_as_somebody_goes_on(decoder: Decoder, strategy: str) -> None:
    asked = [
        replace(one, tokens=3 * one.tokens, options={**one.options, "strategy": strategy})
        for one in COMING_AND_GOING
    ]
    engine = same(decoder, asked)
    assert engine.graphs.replays >= 4
    assert set(engine.graphs.eager) == {"a step of its kind is seen for the first times"}


@pytest.mark.parametrize("strategy", ["linear_ss", "block_diffusion"])
def test_log_probabilities_are_read_beside_replayed_steps(decoder: Decoder, strategy: str) -> None:
    more = {"strategy": strategy, "max_new_tokens": 30, "eos": ()}
    found = []
    for recorder in (None, Emulator()):
        engine = engine_of(decoder, recorder)
        requests = [
            decoder.request(prompt, logprobs=top, **more)
            for prompt, top in ((LONG, 1), ([3], None), ([4, 5], 0))
        ]
        for request in requests:
            engine.submit(request)
        while not engine.idle:
            engine.step()
        found.append([(request.tokens, request.logprobs) for request in requests])
    assert found[0] == found[1]
    assert [len(known) for _, known in found[0]] == [30, 0, 30]
    assert engine.graphs.replays >= 4
    assert engine.cache.used == 0


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_lineups_of_any_size_fill_their_graph(decoder: Decoder, count: int) -> None:
    asked = [Asked([10 + n, 3], 8) for n in range(count)]
    engine = same(decoder, asked)
    assert engine.graphs.captures == 1
    assert engine.graphs.replays == 8 - 1 - 2


def test_a_graph_serves_whoever_comes_as_long_as_nothing_grows(decoder: Decoder) -> None:
    engine = engine_of(decoder, Emulator())
    everyone = [Asked([n, 5, n], 16, 4 * n, options={"eos": (n,)}) for n in range(3)]
    run(decoder, engine, everyone)
    graphs = engine.graphs
    captures, launched = graphs.captures, graphs.eager.total()
    assert len({key.kind.size for key in graphs._graphs}) == 3
    others = [Asked([9, 8, 7 + n], 20 - n, n, leaves=15 - 4 * n) for n in range(3)]
    for asked in (others, everyone[::-1], [replace(one, after=0, tokens=5) for one in others]):
        assert run(decoder, engine, asked) == run(decoder, engine_of(decoder, None), asked)
    assert (graphs.captures, graphs.eager.total()) == (captures, launched)
    assert graphs.replays > 40


def test_page_boundaries_are_crossed_without_capturing_anew(decoder: Decoder) -> None:
    engine = same(decoder, [Asked([5] * 50, 40)])
    assert engine.graphs.captures == 1
    assert engine.graphs.replays == 37


def test_more_keys_take_a_larger_graph(decoder: Decoder, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="nldc"):
        engine = same(decoder, [Asked([5] * (FIRST_KEYS - 4), 12)])
    assert engine.graphs.captures == 2
    told = [each for each in caplog.messages if each.startswith("captured a step of ")]
    assert len(told) == 2


@pytest.mark.parametrize("strategy", ["ar", "quadratic_ss"])
def test_pages_that_lie_anywhere_and_move_are_followed(
    decoder: Decoder, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scatter_pages(monkeypatch)

    def restless(_: int, engine: Engine) -> None:
        engine.cache._holdings._steady = False  # it grows by half, and shrinks

    asked = [
        replace(one, options={**one.options, "strategy": strategy})
        for one in (*COMING_AND_GOING, Asked(LONG * 4, 6, after=7), Asked([8], 30))
    ]
    engine = same(decoder, asked, between=restless)
    assert engine.graphs.replays


def test_sequences_switch_strategies_between_replays(decoder: Decoder) -> None:
    def turns(progress: Any) -> str:
        return ("ar", "prompt_lookup", "quadratic_ss")[len(progress.tokens) // 7 % 3]

    engine = same(
        decoder,
        [
            Asked(LONG, 40, options={"strategy": turns}),
            Asked([3, 4], 40, options={"strategy": turns}),
        ],
    )
    assert engine.graphs.replays >= 5


def test_a_router_has_a_graph_for_each_number_of_sequences(decoder: Decoder) -> None:
    asked = [Asked([n], 10 - n, options={"strategy": "concurrency_router"}) for n in range(6)]
    engine = same(decoder, asked)
    sizes = {key.kind.size for key in engine.graphs._met}
    assert {5, 6} <= sizes


def test_sequences_that_are_sampled_unlike_share_a_graph(decoder: Decoder) -> None:
    kinds: list[dict[str, Any]] = [
        {}, {"temperature": 0.7, "top_k": 20, "seed": 2**63 + 5}, {"temperature": 0.7, "top_k": 20},
    ]  # fmt: skip
    engine = same(decoder, [Asked([n], 10, options=kind) for n, kind in enumerate(kinds)])
    assert engine.graphs.captures == 1
    assert engine.graphs.replays == 7


def test_how_a_sequence_is_sampled_is_no_part_of_a_graph(decoder: Decoder) -> None:
    heats = [{"temperature": 0.5 + n / 4, "seed": n} for n in range(4)]
    cuts: list[dict[str, Any]] = [{"top_k": 3}, {"top_p": 0.5}, {"min_p": 0.2}, {"top_k": 2}]
    cut = [{**heat, **more} for heat, more in zip(heats, cuts, strict=True)]
    engine = engine_of(decoder, Emulator())
    for captures, options in ((1, heats), (2, cut)):
        for n, one in enumerate(options):
            asked = [Asked([3, n], 12, options=one)]
            wanted = run(decoder, engine_of(decoder, None), asked)
            assert run(decoder, engine, asked) == wanted
        assert engine.graphs.captures == captures
    unlike = [Asked([n], 12, options=one) for n, one in enumerate([{}, *heats[:1], *cut[:2]])]
    moved = [replace(one, prompt=[n + 9]) for n, one in enumerate(reversed(unlike))]
    for together in (unlike, moved):
        assert run(decoder, engine, together) == run(decoder, engine_of(decoder, None), together)
    assert engine.graphs.captures == 3


def test_what_the_host_computes_by_samplings_has_a_graph_for_each(tmp_path: Path) -> None:
    text = (Path(api.__file__).parent / "strategies" / "block_diffusion.yaml").read_text()
    own = tmp_path / "own.yaml"
    own.write_text(text.replace("by: probability", "by: probability, of: processed"))
    one = decoder_of([str(own)], tmp_path, SETTINGS)
    engine = engine_of(one, Emulator())
    for temperature in (0.0, 0.7, 1.4, 0.7):
        options = {"temperature": temperature, "seed": 5}
        asked = [Asked([3, 7], 12, options=options)]
        assert run(one, engine, asked) == run(one, engine_of(one, None), asked), temperature
    assert engine.graphs.replays
    kinds = {key.kind.groups for key in engine.graphs._graphs}
    assert len(kinds) == 3


@pytest.mark.parametrize("strategy", ["block_diffusion", "token_editing"])
def test_what_requests_bring_is_no_part_of_a_graph(decoder: Decoder, strategy: str) -> None:
    bars = (0.0, 0.004, 0.006, 1.0)
    asked = [
        Asked([3, n], 12, options={"strategy": strategy, "params": {"threshold": bar}})
        for n, bar in enumerate(bars)
    ]
    engine = same(decoder, asked)
    assert engine.graphs.captures == 1
    engine = engine_of(decoder, Emulator())
    for one in asked:  # alone, one after another
        assert run(decoder, engine, [one]) == run(decoder, engine_of(decoder, None), [one])
    assert engine.graphs.captures == 1


def test_ends_are_those_of_whoever_sits_there_now(decoder: Decoder) -> None:
    free = run(decoder, engine_of(decoder, None), [Asked([n], 20) for n in range(2)])
    ends = [Asked([n], 20, options={"eos": (free[n][9], 1)}) for n in range(2)]
    asked = [*(Asked([n], 20) for n in range(2)), *(replace(one, after=25) for one in ends)]
    asked = [
        replace(one, options={"sequence_id": n % 2, **one.options}) for n, one in enumerate(asked)
    ]
    engine = same(decoder, asked)
    assert engine.graphs.captures <= 2


@pytest.mark.parametrize("strategy", ["ar", "linear_ss"])
def test_thinking_budgets_are_kept_within_a_graph(decoder: Decoder, strategy: str) -> None:
    budget = {"end_think_token_id": 50, "start_think_token_id": 51, "strategy": strategy}
    asked = [
        Asked([51, 7, 8], 14, options={**budget, "max_thinking_tokens": 6}),
        Asked([7, 8], 14, options={**budget, "max_thinking_tokens": 2}, after=2),
        Asked([51], 14, options={**budget, "max_thinking_tokens": 9, **SAMPLED}, after=2),
    ]
    engine = same(decoder, asked)
    assert engine.graphs.replays >= 4
    engine = engine_of(decoder, Emulator())
    assert 50 in run(decoder, engine, asked)[0][:8]


def test_watched_steps_count_their_forwards(decoder: Decoder) -> None:
    def told(recorder: Recorder | None) -> tuple[list[Any], Engine]:
        engine, heard = engine_of(decoder, recorder), []
        engine.observe(lambda record: heard.append(replace(record, seconds=0.0)))
        run(decoder, engine, [Asked([3], 12), Asked([4], 12)])
        return heard, engine

    wanted, _ = told(None)
    heard, engine = told(Emulator())
    assert heard == wanted
    assert engine.graphs.replays


def test_an_interrupted_replay_is_taken_up_where_it_began(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [Asked([3], 14, options={"strategy": "quadratic_ss"}), Asked(LONG, 14)]
    wanted = run(decoder, engine_of(decoder, None), asked)
    engine = engine_of(decoder, Emulator())
    replay, count = Tape.replay, 0

    def interrupted(self: Tape) -> None:
        nonlocal count
        count += 1
        if count % 3 == 0:
            self.calls[0].again()
            raise KeyboardInterrupt
        replay(self)
        if count % 3 == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(Tape, "replay", interrupted)
    requests = [
        decoder.request(one.prompt, eos=(), max_new_tokens=14, sequence_id=n, **one.options)
        for n, one in enumerate(asked)
    ]
    for request in requests:
        engine.submit(request)
    while not engine.idle:
        with suppress(KeyboardInterrupt):
            engine.step()
    assert [list(request.tokens) for request in requests] == wanted
    assert count > 6


# What is not captured


def forbids(logits: Tensor, positions: Tensor) -> Tensor:
    """Forbid one token in five."""
    ids = torch.arange(logits.shape[-1])
    return logits.masked_fill((ids + positions.unsqueeze(-1)) % 5 == 0, -torch.inf)


def test_steps_with_a_processor_are_launched_as_ever(decoder: Decoder) -> None:
    engine = same(decoder, [Asked([3, 4], 12, options={"processors": (forbids,)})])
    assert engine.graphs.replays == engine.graphs.captures == 0
    assert engine.graphs.eager["a processor looks at the logits"]


def test_prompts_of_embeddings_are_replayed_as_those_of_tokens_are(decoder: Decoder) -> None:
    prompt: Any = PromptEmbeddings(decoder.embed([3, 4, 5]), [3, 4, 5])
    engine = same(decoder, [Asked(prompt, 12), Asked([3, 4, 5, 9], 12)])
    assert engine.graphs.replays
    assert not [why for why in engine.graphs.eager if "prompt" in why]


LAST_IN_A_STEP = """nldc: 1
name: late
summary: The last prompt token is computed by the first step.
guarantee: exact
prefill:
  last:  {op: join, parts: ["$prompt.last"]}
  start: {op: rows, segments: [{tokens: "$prompt[:-1]", kind: early}, {tokens: "$prompt[-1:]"}]}
  context: {op: forward, tokens: start, attention: causal, cache: {append: "kind == early"}}
carry: {last: prefill.last}
step:
  checked: {op: forward, tokens: last, attention: causal, cache: append}
  choice:  {op: sample, logits: checked}
  emit:    {tokens: choice, cache: keep all, next: {last: choice}}
"""


def test_steps_that_may_compute_rows_of_embeddings_are_launched_as_ever(tmp_path: Path) -> None:
    (tmp_path / "late.yaml").write_text(LAST_IN_A_STEP, encoding="utf-8")
    late = decoder_of([str(tmp_path / "late.yaml")], tmp_path, {})
    prompt: Any = PromptEmbeddings(late.embed([3, 4, 5]), [3, 4, 5])
    engine = same(late, [Asked(prompt, 6)])
    assert engine.graphs.replays == 0
    assert engine.graphs.eager["rows of a prompt that is given as embeddings may be computed again"]


def test_graphs_are_off_where_nothing_can_be_captured(decoder: Decoder) -> None:
    model = decoder.model
    assert "cpu" in StepGraphs.on(model).off
    assert StepGraphs.on(model, recorder=Emulator()).off == ""
    assert "turned off" in StepGraphs.on(model, False, Emulator()).off
    host = replace(model, backend=type(model.backend).__mro__[1](model.backbone))
    assert "lengths" in StepGraphs.on(host, True, Emulator()).off


class Failing:
    """A recorder that cannot."""

    def record(self, work: Callable[[], Any]) -> Any:
        """Fail in the midst of the work."""
        work()
        raise RefusedError("no")


def test_a_capture_that_fails_is_said_once_and_changes_nothing(decoder: Decoder) -> None:
    asked = [Asked([3, 4], 12, options={"strategy": "linear_ss"})]
    wanted = run(decoder, engine_of(decoder, None), asked)
    engine = engine_of(decoder, Failing())
    with pytest.warns(GraphWarning, match="no") as said:
        assert run(decoder, engine, asked) == wanted
    assert len(said) == 1


@contextmanager
def baked(monkeypatch: pytest.MonkeyPatch, name: str) -> Iterator[None]:
    """Let captured steps take as a constant what they should read from the device."""
    method = getattr(StepState, name)

    def constant(self: StepState, *arguments: Any) -> Any:
        return method(self, *arguments).clone().fill_(3) if recording else method(self, *arguments)

    recording: list[bool] = []

    class Baking(Emulator):
        def record(self, work: Callable[[], Any]) -> Any:
            recording.append(True)
            try:
                return super().record(work)
            finally:
                recording.clear()

    monkeypatch.setattr(StepState, name, constant)
    monkeypatch.setattr(sys.modules[__name__], "Emulator", Baking)
    yield


def test_a_graph_that_does_something_else_is_not_used(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with baked(monkeypatch, "lengths"), pytest.warns(GraphWarning, match="something else"):
        engine = same(decoder, [Asked(LONG, 12)])
    assert engine.graphs.captures == 1
    assert engine.graphs.replays == 0


@pytest.mark.parametrize(
    ("size", "first", "wanted"),
    [(1, 1, 1), (2, 1, 2), (3, 1, 4), (5, 1, 8), (8, 1, 8), (1, 128, 128), (129, 128, 256)],
)
def test_buckets_double(size: int, first: int, wanted: int) -> None:
    assert bucket(size, first) == wanted


def test_the_emulator_refuses_what_a_graph_cannot_hold() -> None:
    line = torch.arange(4)
    for work in (
        lambda _: line.tolist(),
        lambda _: bool(line[0] == 0),
        lambda _: torch.tensor([1, 2]) + line[:2],
        lambda _: line.nonzero(),
        lambda _: line[line > 2],
    ):
        with torch.inference_mode(), pytest.raises(RefusedError):
            Emulator().record(work)


def test_the_emulator_replays_on_the_same_memory() -> None:
    line = torch.arange(4)
    with torch.inference_mode():
        tape, found = Emulator().record(lambda _: (line + 1).view(2, 2).mul_(2))
        line.fill_(10)
        tape.replay()
    assert found.tolist() == [[22, 22], [22, 22]]
