"""The torch backend's attention against the definition, over layouts, prefixes and tiles."""

from __future__ import annotations

import weakref
from collections import Counter
from typing import Any

import pytest
import torch
from handwritten import BIDIRECTIONAL, CAUSAL, QUADRATIC, block_layout, quadratic_layout
from tiles import untiled
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nldc.runtime.cache.kv_cache import KVCache, Places
from nldc.runtime.checkpoint.config import ModelConfig, RopeConfig
from nldc.runtime.invariant.line_tiles import KEY_TILE, Cut
from nldc.runtime.model import attention
from nldc.runtime.model.attention import TorchAttention
from nldc.runtime.reference.attention import attention as reference
from nldc.runtime.rows.layout import Layout
from nldc.runtime.rows.pattern import Pattern, RowFacts
from nldc.runtime.rows.plan import Plan


def _window(q: RowFacts, k: RowFacts) -> torch.Tensor:
    return (k.position <= q.position) & (k.position > q.position - 5) & (q.row != 2)


def _promptless(q: RowFacts, k: RowFacts) -> torch.Tensor:
    return (k.prefix & ~k.prompt) | (k.row >= 0) & (k.row <= q.row)


WINDOW = Pattern("window", _window)
PROMPTLESS = Pattern("promptless", _promptless, asks_prompt=True)


def config(heads: int, kv_heads: int, dim: int) -> ModelConfig:
    return ModelConfig(
        8, 8, 1, heads, kv_heads, dim, 9, 1e-5, 99, RopeConfig("default", 1e4), 0, (), None, None,
        tied_head=False,
    )  # fmt: skip


def write(cache: KVCache, slot: int, keys: torch.Tensor, values: torch.Tensor) -> None:
    """Write keys and values [kv_heads, n, head_dim] as the first n rows of a slot of layer 0."""
    pages = cache.pages(slot)
    for place in range(keys.shape[1]):
        tile, row = divmod(place, KEY_TILE)
        cache.keys[0][pages[tile], :, row] = keys[:, place]
        cache.values[0][pages[tile], :, row] = values[:, place]


def cache_of(
    own: ModelConfig, slots: int, rows: int, dtype: torch.dtype, device: torch.device
) -> KVCache:
    """Return a cache whose first slots have room for so many rows."""
    cache = KVCache(own, dtype, device)
    taken = [cache.acquire(rows) for _ in range(slots)]
    assert taken == list(range(slots))
    cache.reserve(taken, [rows] * slots)
    return cache


@pytest.mark.parametrize(
    ("layout", "pattern", "lengths"),
    [
        (Layout.causal(1), CAUSAL, (0, 5, 90)),
        (Layout.causal(9), CAUSAL, (0, 5)),
        (Layout.causal(300), CAUSAL, (0, 7)),  # more rows than a tile of queries
        (Layout.causal(300), WINDOW, (3,)),
        (block_layout(7), BIDIRECTIONAL, (4, 0)),
        (quadratic_layout(3), QUADRATIC, (6, 1)),
        (Layout.causal(6), WINDOW, (0, 11)),  # row 2 sees nothing
        (Layout.causal(6), PROMPTLESS, (9, 9, 90)),
        (Layout.causal(300), PROMPTLESS, (70, 3)),
    ],
)
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2)])
@pytest.mark.parametrize("place", ["cpu", "gpu"])
def test_attention_is_what_its_definition_says(
    layout: Layout,
    pattern: Pattern,
    lengths: tuple[int, ...],
    heads: int,
    kv_heads: int,
    place: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    if place == "gpu":  # the way that is taken there is as right here
        monkeypatch.setattr(
            attention, "line_cut", lambda kv_heads, *_: Cut((64,), 2 * kv_heads, trees=True)
        )
    rows, batch, dim = layout.size, len(lengths), 8
    device = torch.device("cpu")
    cache = cache_of(config(heads, kv_heads, dim), batch + 1, 400, torch.float64, device)
    slots = tuple(range(batch, 0, -1))
    for slot, length in zip(slots, lengths, strict=True):
        cache.claim(slot, 400)
        cache.data[:, :, list(cache.pages(slot))] = torch.nan
        held = torch.randn(2, kv_heads, length, dim, dtype=torch.float64)
        write(cache, slot, *held)
    prompts = (4, 9, 100)[:batch]
    places = Places(slots, lengths, torch.tensor(slots), torch.tensor(lengths), prompts)
    query, key, value = (
        torch.randn(batch * rows, count, dim).double() for count in (heads, kv_heads, kv_heads)
    )
    factor = torch.rand(batch * rows).double() + 0.1
    plan = Plan.of(layout, pattern, device, torch.float64)
    found = TorchAttention(plan, cache, places)(0, query, key, value, factor.view(-1, 1, 1))
    want = reference(
        query, untiled(cache.keys[0][cache.table]), untiled(cache.values[0][cache.table]),
        places.slot_index, places.start, factor, layout, pattern, prompts,
    )  # fmt: skip
    torch.testing.assert_close(found, want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(9, 3, 64), (4, 1, 16), (2, 2, 8)])
def test_a_row_has_the_same_bits_whatever_rows_and_keys_surround_it(
    heads: int, kv_heads: int, dim: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    device, size = torch.device("cpu"), 1300
    query = torch.randn(size, heads, dim).to(dtype)
    key, value = (torch.randn(size, kv_heads, dim).to(dtype) for _ in range(2))
    factor = torch.full((size, 1, 1), dim**-0.5, dtype=dtype)
    cache = cache_of(config(heads, kv_heads, dim), 1, 2048, dtype, device)
    write(cache, 0, key.transpose(0, 1), value.transpose(0, 1))

    def row(place: int, rows: int, before: int) -> torch.Tensor:
        start = place - before
        own = slice(start, start + rows)
        plan = Plan.of(Layout.causal(rows), CAUSAL, device, dtype)
        places = Places((0,), (start,), torch.tensor([0]), torch.tensor([start]))
        attend = TorchAttention(plan, cache, places)
        return attend(0, query[own], key[own], value[own], factor[own])[before]

    for place in (40, 63, 64, 300, 1020):
        alone = row(place, 1, 0)
        for rows, before in ((2, 1), (7, 0), (7, 6), (32, 30), (32, 0), (272, 40), (272, 0)):
            assert torch.equal(row(place, rows, before), alone), (place, rows, before)


class Peak(TorchDispatchMode):
    """Counts the bytes of the tensors that were made meanwhile and are still there; `most` of them.

    A tensor's memory counts once, while any tensor that looks at it lives.
    """

    def __init__(self) -> None:
        super().__init__()
        self.users: Counter[int] = Counter()
        self.taken = self.most = 0

    def __torch_dispatch__(
        self, call: Any, types: Any, given: Any = (), named: Any = None
    ) -> object:
        made = call(*given, **(named or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().nbytes():
                storage = tensor.untyped_storage()
                place, size = storage.data_ptr(), storage.nbytes()
                self.taken += 0 if self.users[place] else size
                self.users[place] += 1
                weakref.finalize(tensor, self.forget, place, size)
        self.most = max(self.most, self.taken)
        return made

    def forget(self, place: int, size: int) -> None:
        self.users[place] -= 1
        self.taken -= 0 if self.users[place] else size


@pytest.mark.parametrize("place", ["cpu", "gpu"])
def test_a_long_prompt_takes_memory_with_its_length_and_not_with_its_square(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, dtype, dim = torch.device("cpu"), torch.float32, 8
    monkeypatch.setattr(attention, "MASK_ROOM", 1 << 16)
    monkeypatch.setattr(attention, "QUERY_TILE", 64)
    if place == "gpu":
        monkeypatch.setattr(
            attention, "line_cut", lambda kv_heads, *_: Cut((64,), 8 * kv_heads, trees=True)
        )

    def prefill(rows: int) -> int:
        cache = cache_of(config(2, 1, dim), 1, rows, dtype, device)
        query, key, value = (torch.randn(rows, n, dim) for n in (2, 1, 1))
        factor = torch.ones(rows, 1, 1)
        places = Places((0,), (0,), torch.tensor([0]), torch.tensor([0]))

        with Peak() as seen:
            plan = Plan.of(Layout.causal(rows), CAUSAL, device, dtype)
            attend = TorchAttention(plan, cache, places)
            for _ in range(2):
                attend(0, query, key, value, factor)
        assert seen.most > 64 * rows * dtype.itemsize  # a piece's bias, at the least
        return seen.most

    prefill(100)
    short, long = prefill(320), prefill(1280)
    assert long < 4.5 * short


def test_masks_that_have_no_room_to_be_kept_change_no_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    device, dtype, rows = torch.device("cpu"), torch.float32, 700
    query, key, value = (torch.randn(rows, n, 8) for n in (4, 2, 2))
    places = Places((0,), (90,), torch.tensor([0]), torch.tensor([90]))
    found = []
    for pattern in (CAUSAL, WINDOW, BIDIRECTIONAL):
        for room in (1 << 26, 1 << 18, 0):
            monkeypatch.setattr(attention, "MASK_ROOM", room)
            cache = cache_of(config(4, 2, 8), 1, 800, dtype, device)
            plan = Plan.of(Layout.causal(rows), pattern, device, dtype)
            attend = TorchAttention(plan, cache, places)
            kept = len(attend.sequences[0].masks)
            found.append((kept, attend(0, query, key, value, torch.ones(rows, 1, 1))))
        assert [kept for kept, _ in found[-3:]] == [3, 1, 0]
        assert torch.equal(found[-1][1], found[-3][1])
        assert torch.equal(found[-2][1], found[-3][1])


@pytest.mark.parametrize("length", [0, 3, 60, 64])
def test_rows_that_were_given_up_leave_nothing_behind(length: int) -> None:
    torch.manual_seed(0)
    device, dtype = torch.device("cpu"), torch.float32
    prefix = torch.randn(2, 2, length, 8)

    def attend(cache: KVCache, rows: int, value: float | None = None) -> torch.Tensor:
        plan = Plan.of(Layout.causal(rows), CAUSAL, device, dtype)
        places = Places((0,), (length,), torch.tensor([0]), torch.tensor([length]))
        generator = torch.Generator().manual_seed(1)
        heads = [torch.randn(rows, n, 8, generator=generator) for n in (4, 2, 2)]
        query, key, held = heads if value is None else (h.fill_(value) for h in heads)
        factor = torch.ones(rows, 1, 1)
        return TorchAttention(plan, cache, places)(0, query, key, held, factor)

    clean, used = (cache_of(config(4, 2, 8), 1, 200, dtype, device) for _ in range(2))
    for cache in (clean, used):
        write(cache, 0, *prefix)
    attend(used, 100, torch.nan)
    attend(used, 9, torch.inf)
    for rows in (4, 1, 70):
        assert torch.equal(attend(used, rows), attend(clean, rows))
