"""Requests that begin alike share pages of their prompts, to the bit as if each had its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from handwritten import CAUSAL, CHECKPOINTS, LAST, LinearSS
from paged import IN_ORDER, Counted, cache_for, forward
from torch import Tensor

from nldc import api
from nldc.runtime.cache.kv_cache import KVCache
from nldc.runtime.decoder import Decoder
from nldc.runtime.engine.embeddings import PromptEmbeddings
from nldc.runtime.errors import PromptError
from nldc.runtime.invariant.line_tiles import KEY_TILE
from nldc.runtime.rows.table import Table
from nldc.runtime.step.batch import Model
from nldc.runtime.step.processors import sees_tokens

DTYPES = ("float32", "float64", "bfloat16", "float16")
ROOM = 1000
PROMPT = [5 + place * place % 31 for place in range(3 * KEY_TILE + 9)]


def model_of(dtype: str = "float32") -> Model:
    return LinearSS.from_checkpoint(
        CHECKPOINTS[0], dtype=dtype, device="cpu", backend="torch", adapter="auto"
    ).model


def alone(model: Model, prompt: list[int], adapter: str | None = None) -> list[Tensor]:
    """Return the logits of a prompt's last row and of what follows, in a cache of its own."""
    cache = cache_for(model)
    return decode(model, cache, cache.acquire(ROOM), prompt, adapter)


def decode(
    model: Model, cache: KVCache, slot: int, prompt: list[int], adapter: str | None = None
) -> list[Tensor]:
    first = forward(model, cache, [slot], [prompt], states=LAST, adapter=adapter)
    behind = (prompt[:rows] for rows in (1, 5, 70))
    return [first, *(forward(model, cache, [slot], [rows], pattern=CAUSAL) for rows in behind)]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("adapter", [None, "drafter"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_prompt_that_begins_as_a_live_one_shares_its_pages_and_has_its_own_bits(
    dtype: str, adapter: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(dtype)
    others = [
        PROMPT,
        PROMPT[: 2 * KEY_TILE],  # its last row is asked for: one page less
        PROMPT[: 2 * KEY_TILE + 1],
        [*PROMPT[:70], *PROMPT[80:]],
        [*PROMPT, *PROMPT],
        PROMPT[1:],
        PROMPT[:5],
    ]
    want = [alone(model, prompt, adapter) for prompt in others]
    cache = cache_for(model)
    first = cache.acquire(ROOM)
    decode(model, cache, first, PROMPT, adapter)
    counted = Counted(monkeypatch)
    shared = []
    for prompt, logits in zip(others, want, strict=True):
        counted.rows.clear()
        slot = cache.acquire(ROOM)
        assert same(decode(model, cache, slot, prompt, adapter), logits)
        shared.append(len(prompt) - counted.rows[0])
        common = set(cache.pages(slot)) & set(cache.pages(first))
        assert len(common) * KEY_TILE == shared[-1]
        cache.release(slot)
    assert [rows // KEY_TILE for rows in shared] == [3, 1, 2, 1, 3, 0, 0]
    cache.release(first)
    assert cache.used == 0


def test_only_rows_whose_states_nobody_asks_for_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = model_of()
    cache = cache_for(model)
    whole = forward(model, cache, [cache.acquire(ROOM)], [PROMPT])
    counted = Counted(monkeypatch)
    for states, computed in (
        (None, len(PROMPT)),
        (slice(0, 1), len(PROMPT)),
        (slice(KEY_TILE, None), len(PROMPT) - KEY_TILE),
        (slice(2 * KEY_TILE - 1, 2 * KEY_TILE + 7, 3), len(PROMPT) - KEY_TILE),
        (LAST, len(PROMPT) - 3 * KEY_TILE),
        (slice(0, 0), len(PROMPT) - 3 * KEY_TILE),
    ):
        counted.rows.clear()
        found = forward(model, cache, [cache.acquire(ROOM)], [PROMPT], states=states)
        assert counted.rows == [computed]
        assert torch.equal(found, whole if states is None else whole[:, states])


def test_rows_with_an_adapter_have_other_pages_than_rows_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = model_of()
    cache = cache_for(model)
    flags = [place < 100 for place in range(len(PROMPT))]
    table = Table.of([place for place, flag in enumerate(flags) if flag])
    counted = Counted(monkeypatch)

    def rows(**adapted: object) -> int:
        counted.rows.clear()
        forward(model, cache, [cache.acquire(ROOM)], [PROMPT], states=LAST, **adapted)  # type: ignore[arg-type]
        return counted.rows[0]

    every, few = len(PROMPT), len(PROMPT) - 3 * KEY_TILE
    assert rows() == every
    assert rows(adapter="drafter") == every
    assert rows(adapter="drafter", adapter_rows=flags) == every - KEY_TILE
    assert rows(adapter="drafter", adapter_rows=table) == few
    assert rows(adapter="drafter", adapter_rows=[False] * every) == few
    assert rows(adapter="not loaded") == few
    assert rows(adapter="drafter") == few


def test_a_prompt_given_as_embeddings_is_neither_shared_nor_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = model_of()
    cache = cache_for(model)
    states = model.backbone.embed(torch.tensor(PROMPT))
    counted = Counted(monkeypatch)
    for embeddings in (states, None, states * 2, states):
        slot = cache.acquire(ROOM)
        forward(model, cache, [slot], [PROMPT], states=LAST, embeddings=embeddings)
    assert counted.rows == [len(PROMPT)] * 4


@pytest.mark.parametrize("cut", [1, KEY_TILE, KEY_TILE + 1, 2 * KEY_TILE + 30, 3 * KEY_TILE])
def test_a_cut_into_a_shared_page_changes_nobody_elses_rows(cut: int) -> None:
    model = model_of()
    cache = cache_for(model)
    slots = [cache.acquire(ROOM) for _ in range(3)]
    for slot in slots:
        forward(model, cache, [slot], [PROMPT], states=LAST)
    assert len({cache.pages(slot)[:3] for slot in slots}) == 1
    behind = [9, 8, 7]
    want = alone_after(model, PROMPT, behind)
    short = len(PROMPT) - cut
    cache.forget(slots[1], cut)
    found = forward(model, cache, [slots[1]], [behind], pattern=CAUSAL)
    assert torch.equal(found, alone_after(model, PROMPT[:short], behind))
    full = short // KEY_TILE
    assert cache.pages(slots[1])[:full] == cache.pages(slots[0])[:full]
    assert cache.pages(slots[1])[full] not in cache.pages(slots[0])
    for slot in (slots[0], slots[2]):
        assert torch.equal(forward(model, cache, [slot], [behind], pattern=CAUSAL), want)
    fourth = cache.acquire(ROOM)
    forward(model, cache, [fourth], [PROMPT], states=LAST)
    assert cache.pages(fourth)[:3] == cache.pages(slots[0])[:3]
    assert torch.equal(forward(model, cache, [fourth], [behind], pattern=CAUSAL), want)


def alone_after(model: Model, prompt: list[int], behind: list[int]) -> Tensor:
    cache = cache_for(model)
    slot = cache.acquire(ROOM)
    forward(model, cache, [slot], [prompt])
    return forward(model, cache, [slot], [behind], pattern=CAUSAL)


def test_a_page_that_its_only_holder_writes_again_is_found_no_more() -> None:
    model = model_of()
    cache = cache_for(model)
    slot = cache.acquire(ROOM)
    forward(model, cache, [slot], [PROMPT], states=LAST)
    cache.forget(slot, 2 * KEY_TILE)
    forward(model, cache, [slot], [[9] * 3], pattern=CAUSAL)
    other = cache.acquire(ROOM)
    assert torch.equal(
        forward(model, cache, [other], [PROMPT], states=LAST), alone(model, PROMPT)[0]
    )
    assert len(set(cache.pages(slot)) & set(cache.pages(other))) == 1


@pytest.mark.parametrize("pages", [0, 2, 50])
def test_pages_are_kept_for_later_requests_as_far_as_their_budget_goes(
    pages: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of()
    size = cache_for(model).page_bytes
    cache = cache_for(model, keep_prefixes=pages * size)
    want = alone(model, PROMPT)
    counted = Counted(monkeypatch)
    for turn in range(2):
        counted.rows.clear()
        slot = cache.acquire(ROOM)
        assert same(decode(model, cache, slot, PROMPT), want)
        cache.release(slot)
        kept = min(pages, 3)
        assert cache.used == kept
        assert counted.rows[0] == len(PROMPT) - turn * kept * KEY_TILE


def test_pieces_follow_shared_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nldc.runtime.rows.plan.PIECE", 50)
    model = model_of()
    prompt = [*PROMPT, *PROMPT]
    want = alone(model, prompt, "drafter")
    cache = cache_for(model)
    decode(model, cache, cache.acquire(ROOM), PROMPT, "drafter")
    counted = Counted(monkeypatch)
    assert same(decode(model, cache, cache.acquire(ROOM), prompt, "drafter"), want)
    rest = len(prompt) - 3 * KEY_TILE
    assert counted.rows[: rest // 50 + 1] == [50] * (rest // 50) + [rest % 50]


@pytest.fixture(scope="module")
def switching(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    names = ["ar", "linear_ss_lora", "quadratic_ss", "prompt_lookup"]
    settings = {"block_length": 5}
    folder = tmp_path_factory.mktemp("prefixes") / "all"
    kind = api.load(api.compile(names, folder, settings, certify=False))
    return kind.from_checkpoint(CHECKPOINTS[0], dtype="float64", device="cpu")


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_strategies_that_take_turns_share_prompts(
    switching: Decoder, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [PROMPT, PROMPT[:150], [*PROMPT[:90], 7, 7], PROMPT, PROMPT[:64]]
    options = {"max_new_tokens": 12, "temperature": temperature, "eos": (), "seed": 3}
    want = [
        switching.generate([prompt], strategy="ar", sequence_ids=[number], **options)
        for number, prompt in enumerate(prompts)
    ]

    def in_turn(progress: object) -> str:
        names = tuple(switching.strategies())
        return names[(progress.cycles // 2 + progress.sequence) % len(names)]  # type: ignore[attr-defined]

    counted = Counted(monkeypatch)
    for strategy in ("ar", "linear_ss_lora", in_turn):
        counted.rows.clear()
        found = switching.generate(prompts, strategy=strategy, **options)
        assert found.tokens == [one.tokens[0] for one in want]
        assert sum(rows > 90 for rows in counted.rows) < 4
        if strategy == "ar":
            assert [one.nfe for one in found.stats] == [one.stats[0].nfe for one in want]
            assert sorted(rows for rows in counted.rows if rows > 5) == [9, 22, 28, 64, len(PROMPT)]


def test_a_thinking_budget_and_processors_see_the_whole_of_a_shared_prompt(
    switching: Decoder,
) -> None:
    seen: list[list[int]] = []

    @sees_tokens
    def watch(logits: Tensor, _positions: Tensor, text: Tensor) -> Tensor:
        seen.extend(text.flatten(0, -2).tolist())
        return logits

    prompt = [*PROMPT[:100], 4, *PROMPT[:50]]
    options = {
        "max_new_tokens": 8, "eos": (), "strategy": "ar", "max_thinking_tokens": 55,
        "end_think_token_id": 2, "start_think_token_id": 4, "processors": watch,
    }  # fmt: skip
    want = switching.generate([prompt], **options).tokens[0]
    assert want[5] == 2
    seen.clear()
    found = switching.generate([prompt, prompt, prompt], **options).tokens
    assert found == [want] * 3
    assert all(text[: len(prompt)] == prompt for text in seen)
    assert len(seen) == 3 * 8


def test_an_engine_keeps_prefixes_for_later_requests_if_it_is_told_to(
    switching: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted(monkeypatch)
    page = cache_for(switching.model).page_bytes
    for memory, again in ((None, len(PROMPT)), (2 * page, len(PROMPT) - 2 * KEY_TILE)):
        engine = switching.new_engine(keep_prefixes=memory)
        firsts = []
        for _ in range(2):
            counted.rows.clear()
            engine.submit(switching.request(PROMPT, max_new_tokens=3, eos=(), strategy="ar"))
            while engine.live or not counted.rows:
                engine.step()
            firsts.append(counted.rows[0])
        assert firsts == [len(PROMPT), again]
        assert engine.cache.used * page == (memory or 0)
    with pytest.raises(PromptError, match="no size"):
        switching.new_engine(keep_prefixes="all")


def test_embedding_prompts_and_tokens_decode_side_by_side(switching: Decoder) -> None:
    given = PromptEmbeddings(switching.embed(PROMPT), PROMPT)
    options = {"max_new_tokens": 8, "eos": ()}
    want = switching.generate([PROMPT], **options).tokens[0]
    assert switching.generate([PROMPT, given, PROMPT, given], **options).tokens == [want] * 4


def test_the_patterns_of_prompts_look_back() -> None:
    assert IN_ORDER.looks_back
    assert not CAUSAL.looks_back


def test_checkpoints_have_the_drafter_that_these_tests_need() -> None:
    assert Path(CHECKPOINTS[0], "linear_spec_lora").is_dir()
    assert "drafter" in model_of().adapters
