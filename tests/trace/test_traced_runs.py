"""A traced run decodes as any other: the same tokens, and no wait more; and its trace is right."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from nldc import api
from nldc.codegen.emit_artifact import emit_artifact
from nldc.codegen.folder import write_folder
from nldc.runtime.abi import BATCH, OPS
from nldc.runtime.artifact_import import load_artifact
from nldc.runtime.engine.observe import StepRecord
from nldc.runtime.engine.options import GenerateOptions
from nldc.runtime.errors import TraceError
from nldc.runtime.step.host import Copy
from nldc.runtime.trace.instrument import ACCEPTS, CHOOSES, MOVES
from nldc.runtime.trace.tracer import Traced
from nldc.serve.artifacts import load_together
from nldc.serve.watching import Took, Watch
from nldc.trace.document import Trace
from nldc.trace.running import Watched, watch
from nldc.trace.sight import Sights
from nldc.trace.summary import summary
from nldc.verify import named_strategy
from tests.cases.decoders import graph_of
from tests.runtime.watched import watched as counted
from tests.trace.conftest import CHECKPOINT, LOADING, Compiled
from tests.trace.conftest import Watch as Watches

PROMPTS = [[1, 38, 26], [5], [7] * 9]
OPTIONS = {"max_new_tokens": 10}
SWITCHED = ("linear_ss", "quadratic_ss")
EVERY_WAY = (
    "ar", "block_diffusion", "concurrency_router", "linear_ss", "linear_ss_tree", "lookahead",
    "quadratic_ss",
)  # fmt: skip
SHAPES = Path(__file__).parents[1] / "cases"
UNTRIED = (
    "float_in_where", "param_named_like_kind", "position_of_a_billion",  # refused by the checker
    "none_prefill_adapter_threshold",  # needs an adapter
    "nothing_agreed_nothing_emitted",  # never ends
)  # fmt: skip
OFTEN = ("one_round_of_two_loops", "w04_offset_zero_with_the_seed")
CASES = [
    file if file.stem in OFTEN else pytest.param(file, marks=pytest.mark.long)
    for file in sorted(SHAPES.glob("*/*.yaml"))
    if file.stem not in UNTRIED
]
NAMES = [
    name if name in EVERY_WAY else pytest.param(name, marks=pytest.mark.long)
    for name in sorted(api.library())
]


@pytest.mark.parametrize("name", NAMES)
def test_a_traced_run_has_the_tokens_of_any_other(
    compiled: Compiled, watched: Watches, name: str
) -> None:
    plain = api.load(compiled(name)).from_checkpoint(CHECKPOINT, **LOADING)
    for sampling in ({}, {"temperature": 1.0, "seed": 3}):
        options: dict[str, Any] = {**OPTIONS, **sampling}
        trace, found = watched(name).run(PROMPTS, options)
        assert found.tokens == plain.generate(PROMPTS, **options).tokens
        assert tokens_of(trace) == found.tokens
        assert [list(each.prompt or ()) for each in trace.sequences] == PROMPTS
        assert trace.problem() is None
        assert_sources_are_right(trace)


def tokens_of(trace: Trace) -> list[list[int]]:
    """The tokens of each sequence, put together of its steps."""
    found: list[list[int]] = [[] for _ in trace.sequences]
    for step in trace.steps:
        for part in step.parts:
            found[part.sequence] += part.tokens
    ends = (each.tokens for each in trace.sequences)
    return [tokens[:end] for tokens, end in zip(found, ends, strict=True)]


def assert_sources_are_right(trace: Trace) -> None:
    """Every token is the one that the choice chose which it is said to come from."""
    for step in trace.steps:
        for part in step.parts:
            draft = part.draft
            pairs = list(zip(part.tokens, part.chosen, strict=True))
            if draft is not None:
                pairs += zip(draft.tokens, draft.by, strict=True)
                pairs += zip(draft.targets, draft.verified, strict=True)
                assert None not in draft.verified
                agreed = [one == two for one, two in zip(draft.tokens, draft.targets, strict=False)]
                assert draft.accepted == (*agreed, False).index(False)
            for token, source in pairs:
                if source is not None:
                    choice, place = trace.choice(part.sequence, source)
                    assert choice.tokens[place] == token
            if step.kind == "step" and all(
                each.guarantee == "exact" for each in trace.artifact.strategies.values()
            ):
                assert None not in part.chosen


@pytest.mark.parametrize("file", CASES, ids=lambda file: file.stem)
def test_strategies_of_every_shape_are_traced(file: Path, tmp_path: Path) -> None:
    """Loops in loops, offsets of 0, rows in other orders, prompts in parts: what the corpus has."""
    folder = tmp_path / "case"
    text = file.read_text("utf-8")
    write_folder(folder, emit_artifact(graph_of(file), "case.yaml", text, api.__version__))
    other = {**LOADING, "adapter": None}
    plain = api.load(folder).from_checkpoint(CHECKPOINT, **other)
    own = watch(folder, CHECKPOINT, **other)
    steps: list[Traced] = []
    with own.listening() as recorder:
        told = own.tracer.told

        def both(traced: Traced) -> None:
            steps.append(traced)
            told(traced)

        own.tracer.told = both
        found = own.decoder.generate(PROMPTS, **OPTIONS)
    assert found.tokens == plain.generate(PROMPTS, **OPTIONS).tokens
    trace = own.trace(recorder, OPTIONS, [(len(tokens), None) for tokens in found.tokens])
    assert trace.problem() is None
    assert tokens_of(trace) == found.tokens
    for number in {part.id for step in steps for part in step.parts}:
        sights = Sights()
        for step in steps:
            for part in (each for each in step.parts if each.id == number):
                sights.add(step, part)
                rows = sights.rows[step.record.number]
                assert all(row.mark for forward in rows for row in forward)


@pytest.mark.parametrize("name", ["ar", "block_diffusion", "linear_ss", "quadratic_ss"])
def test_tokens_come_as_the_server_says_of_them(
    compiled: Compiled, watched: Watches, name: str
) -> None:
    told: list[tuple[StepRecord, tuple[Took, ...]]] = []
    _, ways = load_together([compiled(name)])
    watch_ = Watch(ways, dict.fromkeys(ways, 0), lambda record, took: told.append((record, took)))
    own = watched(name)
    own.decoder.engine.observe(watch_)
    try:
        trace, _ = own.run(PROMPTS, OPTIONS)
    finally:
        own.decoder.engine.ignore(watch_)
    expected = [each.origins for _, took in told for each in took]
    assert [part.origins for step in trace.steps for part in step.parts] == expected


@pytest.mark.parametrize("name", ["block_diffusion", "linear_ss"])
def test_no_wait_for_the_device_is_added(compiled: Compiled, watched: Watches, name: str) -> None:
    plain = api.load(compiled(name)).from_checkpoint(CHECKPOINT, **LOADING)
    own = watched(name)
    short = {"max_new_tokens": 5}
    plain.generate(PROMPTS, **short)
    own.run(PROMPTS, short)  # what is made once is made
    usual: Counter[str] = Counter()
    with counted(usual):
        plain.generate(PROMPTS, on_step=lambda _: None, **short)
    traced: Counter[str] = Counter()
    with own.listening() as recorder, counted(traced):
        own.decoder.generate(PROMPTS, **short)
    more = traced - usual
    # What it reads itself is there by then: it does so when the engine has read the step.
    assert more.pop("tracer.py:<listcomp> tolist", 0) + more.pop(
        "tracer.py:__call__ tolist", 0
    ) == 2 * len(recorder.steps)
    on_host = {f"recording.py:{name} tolist" for name in ("<listcomp>", "_choice", "_forward")}
    assert more.keys() <= on_host  # of layouts, which lie there
    assert not usual - traced


def test_what_is_traced_is_read_behind_the_steps_own_record(
    watched: Watches, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, order = watched("linear_ss"), []
    read = Copy.read

    def noted(copy: Copy) -> list[Any]:
        order.append("engine")
        return read(copy)

    monkeypatch.setattr(Copy, "read", noted)
    with own.listening():
        monkeypatch.setattr(own.tracer, "told", lambda _: order.append("trace"))
        own.decoder.generate(PROMPTS, **OPTIONS)
    assert order[:2] == ["engine", "trace"]
    assert order == ["engine", "trace"] * (len(order) // 2)


def test_an_artifact_loaded_without_a_trace_is_as_it_was(
    compiled: Compiled, watched: Watches
) -> None:
    folder = compiled("linear_ss")
    watched("linear_ss")
    plain = load_artifact(folder)
    assert plain is not type(watched("linear_ss").decoder)
    names = plain.step.__code__.co_names
    assert "head_choose" in names
    assert not [name for name in names if " " in name]
    text = (folder / "decode.py").read_text(encoding="utf-8")
    assert "trac" not in text


def test_a_drafts_confidence_is_the_drafters_and_the_choice_instead_the_verifiers(
    watched: Watches,
) -> None:
    trace, _ = watched("quadratic_ss").run([[1, 38, 26]], OPTIONS)
    broken = [
        (step, part, part.draft)
        for step, part in trace.parts_of(0)
        if part.draft is not None and part.draft.is_broken
    ]
    assert broken
    for step, part, draft in broken:
        by, verified = draft.by[draft.accepted], draft.verified[draft.accepted]
        assert by is not None
        assert verified is not None
        assert by[0] < step.number  # drafted by the step before
        assert verified[0] == step.number
        choice, place = trace.choice(0, by)
        assert draft.probability[draft.accepted] == choice.probability[place]
        own, at = trace.choice(0, verified)
        assert own.node == "step.choice"
        assert own.first[at] == draft.targets[draft.accepted] != draft.tokens[draft.accepted]
        assert own.gap[at] > 0
        forward = part.forwards[own.forwards[at]]
        assert forward.node == "step.both"
        assert forward.tokens[own.rows[at]] in (*draft.tokens, *draft.targets, part.tokens[0])


def test_each_filled_row_comes_from_the_round_that_filled_it(watched: Watches) -> None:
    trace, _ = watched("block_diffusion").run([[1, 38, 26]], OPTIONS)
    _, part = list(trace.parts_of(0))[1]
    masked = [set(each.masked) for each in part.rounds]
    assert masked == sorted(masked, key=len, reverse=True)
    assert not masked[-1]
    for place, source in enumerate(part.chosen[1:], 1):
        assert source is not None
        number = source[1]  # a choice a round, and the last one chooses the next block's first
        assert place not in masked[number]
        assert not number or place in masked[number - 1]


def test_probabilities_are_those_of_the_logits(watched: Watches) -> None:
    own = watched("ar")
    trace, found = own.run([[1, 38, 26]], {**OPTIONS, "logprobs": 2})
    for (_, part), expected in zip(trace.parts_of(0), found.logprobs[0], strict=False):
        choice, place = trace.choice(0, part.chosen[0] or (0, 0, 0))
        assert choice.probability[place] == pytest.approx(
            torch.tensor(expected.logprob).exp().item(), rel=1e-4
        )
        (first, best), (second, next_) = expected.top
        assert (choice.first[place], choice.second[place]) == (first, second)
        assert choice.gap[place] == pytest.approx(best - next_, abs=1e-4)


def test_a_sequence_that_goes_on_by_another_strategy_is_traced_through(
    tmp_path: Path,
) -> None:
    both = [api.check(name, {"block_length": 4}, others=False) for name in SWITCHED]
    folder = api.write(both, tmp_path / "both", certify=False)
    own: Watched = watch(folder, CHECKPOINT, **LOADING)
    turns = named_strategy(own.decoder, "linear_ss:5,quadratic_ss")
    trace, found = own.run(PROMPTS, {**OPTIONS, **turns})
    assert {step.strategy for step in trace.steps} == set(SWITCHED)
    assert tokens_of(trace) == found.tokens
    assert trace.problem() is None


def test_the_summary_counts_what_the_run_counts(watched: Watches) -> None:
    trace, found = watched("linear_ss").run(PROMPTS, OPTIONS)
    come = summary(trace)
    assert come.tokens == sum(map(len, found.tokens))
    assert come.nfe == sum(each.nfe for each in found.stats)
    assert come.histogram == Counter(n for each in found.stats for n in each.accepted)
    assert sum(come.origins.values()) == come.tokens
    assert all(0 <= each.accepted <= each.reached for each in come.positions)


def test_a_run_without_a_step_has_no_trace(watched: Watches) -> None:
    own = watched("ar")
    with own.listening() as recorder:
        own.decoder.score([[5, 7]])
    with pytest.raises(TraceError, match="0 sequences had a step, and 1 were asked for"):
        own.trace(recorder, {}, [(0, None)])


def test_a_step_that_fails_for_one_is_traced_for_the_others(watched: Watches) -> None:
    own = watched("linear_ss")
    expected, _ = own.run(PROMPTS[:1], OPTIONS)

    def breaks(logits: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        if positions.max() > 6:
            raise ValueError("no more")
        return logits

    whole = GenerateOptions(**OPTIONS)
    broken = GenerateOptions(**OPTIONS, processors=(breaks,))
    with own.listening() as recorder:
        requests = own.decoder.reader.requests(PROMPTS[:2], [whole, broken])
        for request in requests:
            own.decoder.engine.submit(request, lambda _: None)
        while not own.decoder.engine.idle:
            own.decoder.engine.step()
    assert [request.finish for request in requests] == ["length", "error"]
    ends = [(len(request.tokens), request.finish) for request in requests]
    trace = own.trace(recorder, OPTIONS, ends)
    assert trace.problem() is None
    before = [part.tokens for _, part in expected.parts_of(0)]
    assert [part.tokens for _, part in trace.parts_of(0)] == before


def test_every_op_is_known_to_move_tokens_or_not_to() -> None:
    moved = {*MOVES, *ACCEPTS, "advance", "candidates", "fill_after_eos", "lookup", "recall"}
    others = {
        "choose_rows", "differ", "has_masks", "held", "leading", "least", "left", "length_of",
        "no_tokens", "number", "select", "unfinished",
    }  # fmt: skip
    assert not moved & others
    assert moved | others == set(OPS)
    asked = {*CHOOSES, "append", "forward", "head", "mix"}
    scores = {"entropy", "everyone", "margin", "noise", "param", "probability", "rounds", "safety"}
    assert asked | scores | {"size"} == set(BATCH)
