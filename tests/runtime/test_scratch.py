"""What attention keeps between forwards: the same bits as without, and no more than is said."""

from __future__ import annotations

import gc
import threading

import pytest
import torch
from handwritten import BIDIRECTIONAL, CAUSAL, block_layout

from nldc.runtime.cache.kv_cache import KVCache, Places
from nldc.runtime.checkpoint.config import ModelConfig, RopeConfig
from nldc.runtime.invariant.line_tiles import KEY_TILE, Cut
from nldc.runtime.model import scratch as module
from nldc.runtime.model.attention import TorchAttention, scratch_of
from nldc.runtime.model.scratch import Heads, Scratch
from nldc.runtime.rows.layout import Layout
from nldc.runtime.rows.pattern import Pattern
from nldc.runtime.rows.plan import Plan

CPU = torch.device("cpu")
SMALL = ModelConfig(
    8, 8, 1, 6, 2, 8, 9, 1e-5, 99, RopeConfig("default", 1e4), 0, (), None, None, tied_head=False
)
HOW = Cut((32, 16))


def plan_of(layout: Layout, pattern: Pattern) -> Plan:
    return Plan.of(layout, pattern, CPU, torch.float32)


def fresh() -> Scratch:
    return scratch_of(SMALL, torch.float32, CPU)


@pytest.mark.parametrize(
    ("layout", "pattern"),
    [(Layout.causal(1), CAUSAL), (Layout.causal(9), CAUSAL), (block_layout(7), BIDIRECTIONAL)],
)
def test_steps_that_share_a_scratch_have_the_bits_of_steps_that_do_not(
    layout: Layout, pattern: Pattern
) -> None:
    torch.manual_seed(0)
    kept, rows = fresh(), layout.size
    plan = plan_of(layout, pattern)
    caches = [KVCache(SMALL, torch.float32, CPU) for _ in range(2)]
    moves = set()
    for cache in caches:
        assert [cache.acquire(900) for _ in range(2)] == [0, 1]
    for step in range(40):
        # Both grow over the ends of pages, so that the pool is moved, and one of them is sometimes
        # as long as the other.
        lengths = (17 * step, 17 * step if step % 3 == 0 else 5 * step)
        given = [torch.randn(2 * rows, count, 8) for count in (6, 2, 2)]
        factor = torch.rand(2 * rows, 1, 1) + 0.1
        found = []
        for cache, scratch in zip(caches, (kept, None), strict=True):
            cache.reserve([0, 1], [length + rows for length in lengths])
            places = Places((0, 1), lengths, torch.tensor([0, 1]), torch.tensor(lengths))
            found.append(TorchAttention(plan, cache, places, scratch)(0, *given, factor))
        moves.add(caches[0].data.data_ptr())
        assert torch.equal(*found), step
        assert torch.equal(caches[0].data[:, :, 0], caches[1].data[:, :, 0])
    assert len(moves) > 2


@pytest.mark.parametrize("rows", [1, 5])
def test_a_kept_mask_is_right_behind_every_prefix(rows: int) -> None:
    plan, kept = plan_of(Layout.causal(rows), CAUSAL), fresh()
    lines, shared = 16, 3
    for length in (1, 63, 64, 300, 511, 512, 513, 1200, 2, 700):
        tiles = -(-(length + rows) // KEY_TILE)
        bias = kept.bias(plan, lines, length, tiles)
        assert bias is not None
        assert bias.shape == (lines, tiles * KEY_TILE)
        key = torch.arange(tiles * KEY_TILE)
        for line in range(rows * shared):
            sees = key <= length + line // shared
            assert torch.equal(bias[line] == 0, sees)
            assert bool(bias[line][~sees].isneginf().all())
        assert not bias[rows * shared :].any()  # lines of no row


def test_a_mask_goes_with_its_plan() -> None:
    plan, kept = plan_of(Layout.causal(2), CAUSAL), fresh()
    assert kept.bias(plan, 16, 10, 1) is not None
    assert len(kept._masks) == 1
    del plan
    gc.collect()
    assert not kept._masks


def test_what_is_large_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, plan = fresh(), plan_of(Layout.causal(2), CAUSAL)
    assert kept.room(2, 3, HOW) is kept.room(2, 3, HOW)
    monkeypatch.setattr(module, "KEPT_BYTES", 1000)
    assert kept.room(2, 4, HOW) is not kept.room(2, 4, HOW)
    assert kept.bias(plan, 16, 10, 1) is None


def test_only_so_many_rooms_are_kept() -> None:
    kept = fresh()
    first = kept.room(1, 1, HOW)
    for tiles in range(2, module.KEPT_ROOMS + 2):
        kept.room(1, tiles, HOW)
    assert len(kept._rooms) == module.KEPT_ROOMS
    assert kept.room(1, 1, HOW) is not first


def test_each_thread_has_a_room_of_its_own() -> None:
    kept = Scratch(Heads(2, 3, 8, torch.float32, CPU))
    rooms = [kept.room(1, 1, HOW)]
    thread = threading.Thread(target=lambda: rooms.append(kept.room(1, 1, HOW)))
    thread.start()
    thread.join()
    assert rooms[0] is not rooms[1]
    assert rooms[0] is kept.room(1, 1, HOW)
