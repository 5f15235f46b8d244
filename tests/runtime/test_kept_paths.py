"""Rows of a branch that stay: where they lie afterwards, in pages of their own and shared ones."""

from __future__ import annotations

import pytest
import torch
from handwritten import CHECKPOINTS, LAST, LinearSS
from paged import cache_for, forward, scatter_pages
from torch import Tensor

from nldc.runtime.cache.kv_cache import KVCache, Places
from nldc.runtime.invariant.line_tiles import KEY_TILE
from nldc.runtime.step.batch import Model
from nldc.runtime.step.sight import TextTable


@pytest.fixture(scope="module")
def model() -> Model:
    return LinearSS.from_checkpoint(
        CHECKPOINTS[0], dtype="float32", device="cpu", backend="torch"
    ).model


def rows_of(cache: KVCache, slot: int, rows: int) -> Tensor:
    """Return the first rows of a slot, [2, layers, rows, kv_heads, head_dim]."""
    pages = cache.data[:, :, list(cache.pages(slot))]
    return pages.transpose(3, 4).flatten(2, 3)[:, :, :rows].clone()


def places(slots: list[int], lengths: list[int]) -> Places:
    return Places(tuple(slots), tuple(lengths), torch.tensor(slots), torch.tensor(lengths))


@pytest.mark.parametrize("scattered", [False, True])
def test_a_batch_keeps_a_path_of_each_sequence_across_pages(
    model: Model, monkeypatch: pytest.MonkeyPatch, scattered: bool
) -> None:
    if scattered:
        scatter_pages(monkeypatch)
    cache = cache_for(model)
    slots = [cache.acquire(3 * KEY_TILE) for _ in range(3)]
    lengths = [KEY_TILE - 2, 5, 2 * KEY_TILE - 1]
    for slot, length in zip(slots, lengths, strict=True):
        forward(model, cache, [slot], [[slot + 1] * (length + 12)])
    before = [
        rows_of(cache, slot, length + 12) for slot, length in zip(slots, lengths, strict=True)
    ]
    path = torch.tensor([[0, 4, 5], [0, 1, 2], [3, 8, 11]])
    keep = torch.tensor([3, 2, 2])
    model.backend.move(cache, places(slots, lengths), path, keep)
    for number, (slot, length) in enumerate(zip(slots, lengths, strict=True)):
        expected = before[number].clone()
        for to, row in enumerate(path[number, : keep[number]].tolist()):
            expected[:, :, length + to] = before[number][:, :, length + row]
        assert torch.equal(rows_of(cache, slot, length + 12), expected)


def test_pages_that_another_sequence_shares_are_not_written(model: Model) -> None:
    cache = cache_for(model, keep_prefixes=1 << 30)
    prompt = list(range(1, 9)) * (KEY_TILE // 8)
    first, second = (cache.acquire(3 * KEY_TILE) for _ in range(2))
    forward(model, cache, [first], [[*prompt, 4, 5]], states=LAST)
    forward(model, cache, [second], [[*prompt, *[3] * 9]], states=LAST)
    shared = rows_of(cache, first, KEY_TILE)
    model.backend.move(
        cache, places([second], [KEY_TILE]), torch.tensor([[0, 5, 6]]), torch.tensor([3])
    )
    assert cache.pages(first)[0] == cache.pages(second)[0]
    assert cache.pages(first)[1] != cache.pages(second)[1]
    assert torch.equal(rows_of(cache, first, KEY_TILE), shared)


def test_the_ids_behind_the_rows_move_with_them() -> None:
    table = TextTable(50, 0, torch.device("cpu"))
    where = places([0, 1], [2, 4])
    table.write(torch.tensor([[11, 12, 13, 14, 15], [21, 22, 23, 24, 25]]), where)
    table.move(where, torch.tensor([[0, 3, 4], [0, 1, 2]]), torch.tensor([3, 3]))
    assert table.ids[0, 2:7].tolist() == [11, 14, 15, 14, 15]
    assert table.ids[1, 4:9].tolist() == [21, 22, 23, 24, 25]
