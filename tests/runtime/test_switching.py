"""One decoder, several strategies: for each request, and between any two steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from nldc import api
from nldc.runtime import Decoder, Progress, PromptEmbeddings, SwitchingDecoder
from nldc.runtime.engine.handover import Handover, in_turn, schedule
from nldc.runtime.errors import PromptError
from nldc.verify import trials, verify

CHECKPOINT = Path(__file__).parents[1] / "golden_checkpoints" / "random-1"
EXACT = ("ar", "linear_ss", "quadratic_ss", "prompt_lookup", "tidar", "linear_ss_lora")
INEXACT = ("block_diffusion", "quadratic_ss_ensemble", "token_editing")
PROMPTS = [[1, 38, 26], [5], [7] * 9, [4, 4, 1, 2, 3, 1, 2]]
NUMBER = 20


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("artifacts")
    settings = {"block_length": 5, "k": 4, "threshold": 0.3, "edit": 0.4}
    return api.compile([*EXACT, *INEXACT], root / "all", settings, certify=False)


@pytest.fixture(scope="module")
def decoder(artifact: Path) -> Decoder:
    return api.load(artifact).from_checkpoint(CHECKPOINT, dtype="float64", device="cpu")


@pytest.fixture(scope="module")
def ar(decoder: Decoder) -> Callable[..., list[list[int]]]:
    """Decode by AR alone, with an artifact of its own."""

    def run(prompts: Sequence[Sequence[int]], **options: Any) -> list[list[int]]:
        return decoder.generate(prompts, strategy="ar", **options).tokens

    return run


def at_random(names: Sequence[str], seed: int) -> Callable[[Progress], str]:
    """Return a chooser that draws again at every step, the same for the same progress."""

    def choose(progress: Progress) -> str:
        drawn = Random(f"{seed} {progress.sequence} {progress.cycles} {len(progress.tokens)}")
        return drawn.choice(names)

    return choose


OPTIONS: list[dict[str, Any]] = [
    {},
    {"batch_size": 2},
    {"temperature": 0.9, "seed": 3},
    {"temperature": 1.2, "top_p": 0.8, "seed": 4, "batch_size": 1},
    {"max_thinking_tokens": 6, "end_think_token_id": 9, "eos": ()},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_exact_strategies_give_ars_tokens_however_they_are_switched(
    decoder: Decoder, ar: Callable[..., list[list[int]]], options: dict[str, Any]
) -> None:
    expected = ar(PROMPTS, max_new_tokens=NUMBER, **options)
    for seed in range(2):
        choose = at_random(EXACT, seed)
        found = decoder.generate(PROMPTS, max_new_tokens=NUMBER, strategy=choose, **options)
        assert found.tokens == expected, seed
    assert isinstance(decoder, SwitchingDecoder)
    turns = in_turn(decoder.HANDOVERS, EXACT)
    found = decoder.generate(PROMPTS, max_new_tokens=NUMBER, strategy=turns, **options)
    assert found.tokens == expected


@pytest.mark.parametrize("first", INEXACT)
@pytest.mark.parametrize("then", EXACT)
def test_what_follows_an_approximation_is_ars_continuation_of_it(
    decoder: Decoder, ar: Callable[..., list[list[int]]], first: str, then: str
) -> None:
    for number, prompt in enumerate(PROMPTS[1:3], 1):
        given: list[int] = []

        def choose(progress: Progress, given: list[int] = given) -> str:
            if len(progress.tokens) < 7:
                return first
            if progress.strategy == first:
                given[:] = progress.tokens
            return then

        (tokens,) = decoder.generate(
            [prompt], max_new_tokens=NUMBER, strategy=choose, eos=(), sequence_ids=[number]
        ).tokens
        assert 7 <= len(given) < NUMBER
        left = NUMBER - len(given)
        assert tokens[: len(given)] == given
        assert tokens[len(given) :] == ar([prompt + given], max_new_tokens=left, eos=())[0]


def test_each_request_may_have_a_strategy_of_its_own(decoder: Decoder) -> None:
    names = ["ar", "block_diffusion", "linear_ss", "quadratic_ss"]
    together = decoder.generate(PROMPTS, max_new_tokens=NUMBER, strategy=names)
    for number, (prompt, name) in enumerate(zip(PROMPTS, names, strict=True)):
        alone = decoder.generate(
            [prompt], max_new_tokens=NUMBER, strategy=name, sequence_ids=[number]
        )
        assert together.tokens[number] == alone.tokens[0]
        assert together.stats[number].nfe == alone.stats[0].nfe
        assert together.stats[number].accepted == alone.stats[0].accepted


def test_a_strategy_alone_costs_what_its_own_artifact_costs(
    decoder: Decoder, tmp_path: Path
) -> None:
    for name in ("ar", "linear_ss", "quadratic_ss", "block_diffusion"):
        settings: dict[str, int | float] = {"block_length": 5} if name != "ar" else {}
        if name == "block_diffusion":
            settings["threshold"] = 0.3
        own = api.load(api.compile(name, tmp_path / name, settings, certify=False)).from_checkpoint(
            CHECKPOINT, dtype="float64", device="cpu"
        )
        one, other = (
            decoder.generate(PROMPTS, max_new_tokens=NUMBER, strategy=name),
            own.generate(PROMPTS, max_new_tokens=NUMBER),
        )
        assert one.tokens == other.tokens
        assert [s.nfe for s in one.stats] == [s.nfe for s in other.stats]


def test_the_first_strategy_is_the_default(decoder: Decoder) -> None:
    assert next(iter(decoder.strategies())) == "ar"
    result = decoder.generate(PROMPTS[:1], max_new_tokens=6, eos=())
    assert result.stats[0].accepted == [1] * 5


def test_switching_at_every_step_still_comes_to_an_end(decoder: Decoder) -> None:
    # Each of these is entered with guesses and may emit nothing new in its first step.
    asked: list[int] = []

    def choose(progress: Progress) -> str:
        asked.append(len(progress.tokens))
        return "tidar" if progress.strategy == "quadratic_ss" else "quadratic_ss"

    result = decoder.generate([PROMPTS[0]], max_new_tokens=15, strategy=choose, eos=())
    assert len(result.tokens[0]) == 15
    assert asked == sorted(set(asked)), "asked only when there are new tokens"
    assert sum(result.stats[0].accepted) >= 15


def test_a_chooser_sees_how_far_a_sequence_is(decoder: Decoder) -> None:
    seen: list[Progress] = []

    def choose(progress: Progress) -> str:
        seen.append(progress)
        return "ar"

    result = decoder.generate(PROMPTS[:2], max_new_tokens=4, strategy=choose, eos=())
    first = [progress for progress in seen if progress.sequence == 1]
    assert [len(progress.tokens) for progress in first] == [0, 1, 2, 3]
    assert [progress.strategy for progress in first] == ["", "ar", "ar", "ar"]
    assert [progress.cycles for progress in first] == [0, 0, 1, 2]
    assert first[3].tokens == tuple(result.tokens[1][:3])
    assert {progress.live for progress in seen[2:]} == {2}
    assert first[0].prompt_tokens == len(PROMPTS[1])


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        ("beam", "no strategy 'beam'"),
        (["ar"], "1 strategies for 2 prompts"),
        (["ar", "beam"], "no strategy 'beam'"),
        (lambda _: "beam", "no strategy 'beam'"),
        (lambda _: 3, "the strategy chooser <lambda> returned a int, no name"),
    ],
)
def test_a_choice_that_means_nothing_is_refused(
    decoder: Decoder, strategy: Any, message: str
) -> None:
    with pytest.raises(PromptError, match=message):
        decoder.generate(PROMPTS[:2], max_new_tokens=4, strategy=strategy)


def test_a_switch_that_is_not_legal_is_refused(tmp_path: Path) -> None:
    two = Path(__file__).parents[1] / "lossless" / "unusual" / "trailing_two.yaml"
    kind = api.load(api.compile(["ar", two], tmp_path / "two", certify=False))
    decoder = kind.from_checkpoint(CHECKPOINT, dtype="float64", device="cpu")
    options: dict[str, Any] = {"max_new_tokens": 12, "eos": ()}
    expected = decoder.generate(PROMPTS, strategy="ar", **options).tokens
    into = schedule("ar:5,trailing_two", ["ar", "trailing_two"])
    assert decoder.generate(PROMPTS, strategy=into, **options).tokens == expected
    back = schedule("trailing_two:5,ar", ["ar", "trailing_two"])
    with pytest.raises(PromptError, match="cannot go from `trailing_two` to `ar`"):
        decoder.generate(PROMPTS, strategy=back, **options)


THREE = Path(__file__).parents[1] / "cases" / "strategies" / "three_tokens_behind.yaml"


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    """Decodes with AR, and with strategies whose cache trails the text by three and by none."""
    folder = tmp_path_factory.mktemp("behind") / "artifact"
    kind = api.load(api.compile(["ar", THREE, "quadratic_ss"], folder, certify=False))
    return kind.from_checkpoint(CHECKPOINT, dtype="float64", device="cpu")


@pytest.mark.parametrize("options", [{}, {"temperature": 0.9, "seed": 3}], ids=str)
@pytest.mark.parametrize("after", [1, 2, 3, 6])
def test_a_text_that_is_too_short_for_a_strategy_goes_on_until_it_is_long_enough(
    behind: Decoder, options: dict[str, Any], after: int
) -> None:
    """The cache of a prompt of one token has no three rows to forget."""
    prompts = [[5], [5, 9], [1, 38, 26], [7] * 9]
    options = {"max_new_tokens": 12, "eos": (), **options}
    expected = behind.generate(prompts, strategy="ar", **options).tokens
    for first in ("ar", "quadratic_ss"):
        into = schedule(f"{first}:{after},three_tokens_behind", list(behind.strategies()))
        assert behind.generate(prompts, strategy=into, **options).tokens == expected


@pytest.mark.parametrize("after", [1, 2, 3, 6])
def test_rows_that_stood_for_embeddings_are_never_computed_again_from_tokens(
    behind: Decoder, after: int
) -> None:
    generator = torch.Generator().manual_seed(after)
    rows = [torch.randn(n, behind.config.hidden_size, generator=generator) for n in (1, 2, 5)]
    prompts = [PromptEmbeddings(each) for each in rows]
    options: dict[str, Any] = {"max_new_tokens": 12, "eos": ()}
    expected = behind.generate(prompts, strategy="ar", **options).tokens
    seen: list[str] = []

    def choose(progress: Progress) -> str:
        seen.append(progress.strategy)
        return "ar" if len(progress.tokens) < after else "three_tokens_behind"

    assert behind.generate(prompts, strategy=choose, **options).tokens == expected
    assert "three_tokens_behind" in seen


@pytest.mark.parametrize(
    ("text", "chosen"),
    [("ar", ["ar"] * 5), ("ar:2,tidar", ["ar", "ar", "tidar", "tidar", "tidar"]),
     ("ar:1,tidar:2,ar", ["ar", "tidar", "tidar", "ar", "ar"])],
)  # fmt: skip
def test_a_schedule_gives_each_strategy_its_tokens(text: str, chosen: list[str]) -> None:
    choose = schedule(text, ["ar", "tidar"])
    found = [choose(Progress(0, 3, list(range(count)), 0, "", 1)) for count in range(5)]
    assert found == chosen


@pytest.mark.parametrize("text", ["", "beam", "ar:,tidar", "ar:0,tidar", "ar,tidar", "ar:2", "a:b",
                                  f"ar:{'9' * 5000},tidar", "ar:\u0663,tidar"])  # fmt: skip
def test_a_schedule_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(PromptError):
        schedule(text, ["ar", "tidar"])


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("tidar:3", "'tidar:3' ends the schedule", "write tidar without a number"),
        ("ar:4, tidar:5", "'tidar:5' ends the schedule", "behind it: tidar:5,NAME"),
        ("ar:4,beam:5", "no strategy 'beam'", "it has `ar`, `tidar`"),
        ("ar:4,", "nobody goes on at the end of the schedule 'ar:4,'", "leave the last comma out"),
        ("ar:4,,tidar", "a part of the schedule is empty", "write NAME:TOKENS"),
        ("beam:4,tidar", "no strategy 'beam'", "it has `ar`, `tidar`"),
        ("ar,tidar", "'ar' does not say for how many tokens", "write NAME:TOKENS"),
        ("ar:0,tidar", "ar cannot go on for '0' tokens", "a whole number from 1"),
        ("ar:x,tidar", "ar cannot go on for 'x' tokens", "a whole number from 1"),
        (f"ar:{'9' * 40},tidar", "of 40 digits", "at most 18 digits"),
    ],
)
def test_what_is_wrong_with_a_schedule_is_said_with_a_remedy(
    text: str, message: str, hint: str
) -> None:
    with pytest.raises(PromptError) as problem:
        schedule(text, ["ar", "tidar"])
    assert message in problem.value.message
    assert hint in (problem.value.hint or "")


def test_spaces_in_a_schedule_say_nothing() -> None:
    choose = schedule(" ar : 2 , tidar ", ["ar", "tidar"])
    found = [choose(Progress(0, 3, list(range(count)), 0, "", 1)) for count in range(4)]
    assert found == ["ar", "ar", "tidar", "tidar"]


def test_taking_turns_meets_every_pair_and_passes_over_what_is_not_legal() -> None:
    free = Handover(1, 1, 0, {})
    names = ["a", "b", "c", "d"]

    def walk(handovers: dict[str, Handover]) -> Iterator[tuple[str, str]]:
        choose, here = in_turn(handovers, names), "a"
        for cycle in range(200):
            there = choose(Progress(0, 1, [], cycle, here, 1))
            yield here, there
            here = there

    pairs = set(walk(dict.fromkeys(names, free)))
    assert pairs == {(a, b) for a in names for b in names if a != b}
    closed = {**dict.fromkeys(names, free), "c": Handover(1, None, 0, {})}
    assert not [pair for pair in walk(closed) if pair[1] == "c"]


def test_text_streams_while_strategies_change(tmp_path: Path) -> None:
    kind = api.load(
        api.compile(["linear_ss", "block_diffusion", "ar"], tmp_path / "three", certify=False)
    )
    decoder = kind.from_checkpoint()
    choose = schedule("block_diffusion:9,linear_ss", list(decoder.strategies()))
    pieces = list(decoder.stream("import os\n", max_new_tokens=30, strategy=choose))
    whole = decoder.generate(["import os\n"], max_new_tokens=30, strategy=choose)
    assert "".join(pieces) == whole.text[0]
    assert len(pieces) > 1


def test_verify_tries_every_exact_strategy_and_all_of_them_in_turn(artifact: Path) -> None:
    found, pair = verify(artifact, CHECKPOINT, count=2, generation={"max_new_tokens": 9})
    assert [each.strategy for each in found] == [*EXACT, f"{', '.join(EXACT)} in turn"]
    assert all(each.same for each in found)
    (alone,) = trials(artifact, pair.decoder, "tidar:3,ar")
    assert alone.name == "tidar:3,ar"
    named, _ = verify(
        artifact, CHECKPOINT, count=2, generation={"max_new_tokens": 9}, strategy="token_editing"
    )
    assert [each.same for each in named] == [False]
