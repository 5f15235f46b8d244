"""The paged cache against a simple model of it: who holds which page, and what is in it."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import torch

from nldc.runtime.cache.holdings import FIRST_PAGES
from nldc.runtime.cache.kv_cache import KVCache
from nldc.runtime.cache.pages import Need, arrangement, coalesced, runs_of
from nldc.runtime.cache.prefix import names_of
from nldc.runtime.checkpoint.config import ModelConfig, RopeConfig
from nldc.runtime.errors import OutOfMemoryError
from nldc.runtime.invariant.line_tiles import KEY_TILE

CPU = torch.device("cpu")
SMALL = ModelConfig(
    8, 8, 1, 1, 1, 2, 9, 1e-5, 99, RopeConfig("default", 1e4), 0, (), None, None, tied_head=False
)
PAGE_BYTES = 2 * KEY_TILE * 2 * 4


def cache_of(pages: int, keep: int = 0) -> KVCache:
    """Return a cache that may take so many pages, and keep so many that nobody uses."""
    return KVCache(SMALL, torch.float32, CPU, pages * PAGE_BYTES, keep_prefixes=keep * PAGE_BYTES)


def write(cache: KVCache, slot: int, start: int, values: list[float]) -> None:
    """Write rows as a forward does: room, what was left there, the rows."""
    end = start + len(values)
    cache.reserve([slot], [end])
    cache.claim(slot, end)
    pages = cache.pages(slot)
    for row, value in enumerate(values, start):
        cache.data[:, :, pages[row // KEY_TILE], :, row % KEY_TILE] = value


def read(cache: KVCache, slot: int, rows: int) -> list[float]:
    """Return the first rows of a slot; keys and values, and all features, are the same here."""
    held = cache.data[:, 0, list(cache.pages(slot)), 0].permute(1, 2, 0, 3).flatten(0, 1).flatten(1)
    assert bool((held[:rows] == held[:rows, :1]).all())
    return held[:rows, 0].tolist()


class Model:
    """What the cache should hold: rows of each slot, committed and speculative."""

    def __init__(self, cache: KVCache, seed: int) -> None:
        self.cache = cache
        self.random = random.Random(seed)
        self.texts = [[self.random.randrange(9) for _ in range(5 * KEY_TILE)] for _ in range(2)]
        self.rows: dict[int, list[float]] = {}
        self.most: dict[int, int] = {}
        self.next_value = 1.0
        self.shared = 0

    def fresh(self, count: int) -> list[float]:
        self.next_value += count
        return [self.next_value - count + number for number in range(count)]

    def join(self) -> None:
        prompt = self.random.randrange(1, 5 * KEY_TILE)
        most = prompt + self.random.choice((10, 70, 400))
        if not self.cache.has_room(most):
            with pytest.raises(OutOfMemoryError):
                self.cache.acquire(most)
            return
        slot = self.cache.acquire(most)
        assert slot not in self.rows
        number = self.random.randrange(len(self.texts))
        text = self.texts[number][:prompt]
        if self.random.random() < 0.3:  # goes another way after a while
            place = self.random.randrange(prompt)
            text = [*text[:place], *((each + 1) % 9 for each in text[place:])]
        names = names_of(text)
        there = self.cache.adopt(slot, names, prompt - 1)
        assert there % KEY_TILE == 0
        self.shared += there
        values = [float(hash((*text[: row + 1],)) % 2**20) for row in range(prompt)]
        assert read(self.cache, slot, there) == values[:there]
        write(self.cache, slot, there, values[there:])
        self.cache.enter(slot, names)
        self.cache.append(slot, prompt - there)
        self.cache.keep(slot, None)
        self.rows[slot], self.most[slot] = values, most

    def step(self, slot: int) -> None:
        rows = self.rows[slot]
        room = self.most[slot] - len(rows)
        if not room:
            self.leave(slot)
            return
        values = self.fresh(self.random.randrange(1, min(room, 90) + 1))
        write(self.cache, slot, len(rows), values)
        stay = self.random.randrange(len(values) + 1)
        self.cache.append(slot, stay)
        kept = self.random.randrange(stay + 1)
        self.cache.keep(slot, kept)
        rows += values[:kept]

    def forget(self, slot: int) -> None:
        gone = self.random.randrange(len(self.rows[slot]))
        self.cache.forget(slot, gone)
        del self.rows[slot][len(self.rows[slot]) - gone :]

    def leave(self, slot: int) -> None:
        self.cache.release(slot)
        del self.rows[slot], self.most[slot]

    def check(self) -> None:
        cache = self.cache
        holders: Counter[int] = Counter()
        for slot, rows in self.rows.items():
            pages = cache.pages(slot)
            assert len(set(pages)) == len(pages)
            assert cache.length(slot) == len(rows)
            assert read(cache, slot, len(rows)) == rows
            holders.update(pages)
            runs = cache.runs(slot, len(pages))
            assert [page for first, count in runs for page in range(first, first + count)] == list(
                pages
            )
            assert cache.table[slot, : len(pages)].tolist() == list(pages)
        holders.update(cache.prefixes.idle)
        assert cache.used == len(holders)
        assert cache.used <= cache.data.shape[2] <= cache.most_pages
        users = cache._pool.pages.users
        assert {page: count for page, count in enumerate(users) if count} == holders


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("pages", "keep"), [(24, 0), (24, 5), (60, 12)])
def test_pages_are_held_once_come_back_and_hold_what_was_written(
    seed: int, pages: int, keep: int
) -> None:
    model = Model(cache_of(pages, keep), seed)
    for _ in range(150):
        model.check()
        live = list(model.rows)
        if not live or model.random.random() < 0.2:
            model.join()
        else:
            act = model.random.choices((model.step, model.forget, model.leave), (8, 2, 1))[0]
            act(model.random.choice(live))
    assert model.shared > 0
    for slot in list(model.rows):
        model.leave(slot)
    model.check()
    assert model.cache.used == len(model.cache.prefixes) <= keep
    assert model.cache.data.shape[2] <= max(3 * keep, FIRST_PAGES)
    if not keep:
        assert model.cache.data.numel() == 0


def test_a_lone_sequence_lies_in_one_run_however_long_it_grows() -> None:
    cache = cache_of(10**6)
    slot = cache.acquire(10**6)
    for rows in range(1, 40 * KEY_TILE, 50):
        cache.reserve([slot], [rows])
        assert len(cache.runs(slot, len(cache.pages(slot)))) == 1


def test_sequences_that_grow_together_lie_in_a_run_each() -> None:
    cache = cache_of(10**6)
    slots = [cache.acquire(30 * KEY_TILE) for _ in range(5)]
    for rows in range(1, 30 * KEY_TILE, 50):
        cache.reserve(slots, [rows] * 5)
        assert [len(cache.runs(slot, len(cache.pages(slot)))) for slot in slots] == [1] * 5


def test_memory_follows_what_is_in_use() -> None:
    cache = cache_of(1000)
    slots = [cache.acquire(100 * KEY_TILE) for _ in range(8)]
    assert cache.data.numel() == 0
    cache.reserve(slots, [60 * KEY_TILE] * 8)
    assert 480 <= cache.data.shape[2] <= 720
    for slot in slots[1:]:
        cache.release(slot)
    assert cache.data.shape[2] <= 3 * 60
    assert len(cache.runs(slots[0], 60)) == 1
    cache.release(slots[0])
    assert cache.data.numel() == 0


def test_the_table_on_the_device_is_written_when_pages_change_and_only_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = []
    write_table = KVCache._write_table

    def watched(cache: KVCache) -> None:
        written.append(sorted(cache._table.stale))
        write_table(cache)

    monkeypatch.setattr(KVCache, "_write_table", watched)
    cache = cache_of(100)
    slots = [cache.acquire(20 * KEY_TILE) for _ in range(2)]
    cache.reserve(slots, [3 * KEY_TILE] * 2)
    before = cache.table
    for rows in range(1, 3 * KEY_TILE, 7):
        cache.reserve(slots, [rows] * 2)
        cache.claim(slots[0], rows)
        assert cache.table is before
    assert written == [[0, 1]]
    cache.reserve(slots, [3 * KEY_TILE, 3 * KEY_TILE + 1])
    assert cache.table[1, :4].tolist() == list(cache.pages(1))
    assert len(written) == 2


def test_a_pool_is_never_larger_than_its_budget() -> None:
    cache = cache_of(100)
    slots = [cache.acquire(25 * KEY_TILE) for _ in range(4)]
    assert not cache.has_room(1)
    for rows in range(1, 25 * KEY_TILE + 1, 63):
        cache.reserve(slots, [rows] * 4)
    cache.reserve(slots, [25 * KEY_TILE] * 4)
    assert cache.data.shape[2] == cache.used == 100


def test_what_can_never_fit_is_refused_with_the_bytes_and_a_remedy() -> None:
    cache = cache_of(10)
    for refused in (cache.check, cache.acquire):
        with pytest.raises(OutOfMemoryError) as caught:
            refused(11 * KEY_TILE)
        assert f"{11 * PAGE_BYTES} bytes" in caught.value.message
        assert f"{10 * PAGE_BYTES} bytes" in caught.value.message
        assert caught.value.hint is not None
        assert "--kv-memory" in caught.value.hint
    slot = cache.acquire(8 * KEY_TILE)
    cache.check(10 * KEY_TILE)
    with pytest.raises(OutOfMemoryError, match=f"may take {2 * PAGE_BYTES} bytes"):
        cache.acquire(3 * KEY_TILE)
    cache.release(slot)
    cache.acquire(10 * KEY_TILE)


def test_more_rows_than_a_sequence_was_let_in_for_are_refused() -> None:
    cache = cache_of(10)
    slot = cache.acquire(2 * KEY_TILE)
    cache.reserve([slot], [2 * KEY_TILE])
    with pytest.raises(ValueError, match="SCRATCH_ROWS"):
        cache.reserve([slot], [2 * KEY_TILE + 1])


def test_slots_are_the_smallest_numbers_that_are_free() -> None:
    cache = cache_of(100)
    assert [cache.acquire(5) for _ in range(4)] == [0, 1, 2, 3]
    for slot in (2, 0):
        cache.release(slot)
    assert [cache.acquire(5) for _ in range(3)] == [0, 2, 4]
    with pytest.raises(KeyError):
        cache.release(9)


def test_kept_pages_are_those_used_last_and_make_way_when_pages_are_needed() -> None:
    cache = cache_of(8, keep=4)
    texts = [[token] * 2 * KEY_TILE for token in range(3)]
    for text in texts:
        slot = cache.acquire(len(text))
        write(cache, slot, 0, [float(text[0])] * len(text))
        cache.enter(slot, names_of(text))
        cache.release(slot)
    assert cache.used == 4

    def known(text: list[int]) -> int:
        return len(list(cache.prefixes.find(names_of(text))))

    assert [known(text) for text in texts] == [0, 2, 2]
    slot = cache.acquire(7 * KEY_TILE)
    assert cache.adopt(slot, names_of(texts[1]), 2 * KEY_TILE) == 2 * KEY_TILE
    cache.reserve([slot], [7 * KEY_TILE])
    assert read(cache, slot, 2 * KEY_TILE) == [1.0] * 2 * KEY_TILE
    assert [known(text) for text in texts] == [0, 2, 1]
    cache.release(slot)
    assert [known(text) for text in texts] == [0, 2, 1]


def test_a_page_is_named_by_all_tokens_before_it_and_their_adapters() -> None:
    text = [number % 7 for number in range(3 * KEY_TILE + 5)]
    names = names_of(text)
    assert len(names) == 3
    assert names_of(text[: 2 * KEY_TILE]) == names[:2]
    other = list(text)
    other[KEY_TILE] += 1
    assert [a == b for a, b in zip(names, names_of(other), strict=True)] == [True, False, False]
    marks = [0] * len(text)
    assert names_of(text, marks) == names
    marks[2 * KEY_TILE] = 1
    assert [a == b for a, b in zip(names, names_of(text, marks), strict=True)] == [
        True,
        True,
        False,
    ]
    assert names_of(text, [1] * len(text)) != names_of(text, [2] * len(text))
    assert names_of([1, 2] * 32) != names_of([2, 1] * 32)


def test_an_arrangement_moves_every_page_once_and_puts_sequences_in_rows() -> None:
    needs = [Need([], 2, 4), Need([9, 3, 4], 2, 10), Need([9, 7], 1, 3)]
    moved = arrangement(needs, [1], 16)
    assert sorted(moved) == [1, 3, 4, 7, 9]
    assert len(set(moved.values())) == 5
    assert max(moved.values()) < 16
    assert len(runs_of([moved[page] for page in (9, 3, 4)])) == 1
    places = sorted([*moved.values(), 99])
    behind = {page: places[places.index(moved[page]) + 1] - moved[page] - 1 for page in (4, 7)}
    assert behind[4] >= 2
    assert behind[7] >= 1
    assert places[0] >= 2  # for the sequence that has none yet
    back = {old + step: new + step for old, new, count in coalesced(moved) for step in range(count)}
    assert back == moved


def test_what_is_remembered_of_pages_is_forgotten_when_they_are_others_or_elsewhere() -> None:
    cache = cache_of(64)
    slots = [cache.acquire(20 * KEY_TILE) for _ in range(2)]
    cache.reserve(slots, [KEY_TILE, KEY_TILE])
    memory = cache.data.data_ptr()
    for slot in slots:
        cache.remembered(slot)[1] = "views"
    cache.reserve([slots[0]], [2 * KEY_TILE])
    assert cache.data.data_ptr() == memory
    assert not cache.remembered(slots[0])
    assert cache.remembered(slots[1]) == {1: "views"}
    cache.reserve([slots[0]], [9 * KEY_TILE])
    assert cache.data.data_ptr() != memory
    assert not cache.remembered(slots[1])
