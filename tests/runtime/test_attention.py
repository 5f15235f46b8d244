"""The torch backend's attention against the definition, over layouts, prefixes and tiles."""

from __future__ import annotations

import pytest
import torch
from handwritten import BIDIRECTIONAL, CAUSAL, QUADRATIC, block_layout, quadratic_layout

from nldc.runtime.attention import Pattern, Plan, RowFacts, TorchAttention
from nldc.runtime.config import ModelConfig, RopeConfig
from nldc.runtime.kv_cache import KEY_TILE, KVCache, Places, untiled
from nldc.runtime.layout import Layout
from nldc.runtime.reference.attention import attention as reference


def _window(q: RowFacts, k: RowFacts) -> torch.Tensor:
    return (k.position <= q.position) & (k.position > q.position - 5) & (q.row != 2)


WINDOW = Pattern("window", _window)


def config(heads: int, kv_heads: int, dim: int) -> ModelConfig:
    return ModelConfig(
        8, 8, 1, heads, kv_heads, dim, 9, 1e-5, 99, RopeConfig("default", 1e4), 0, (), None, None,
        tied_head=False,
    )  # fmt: skip


def write(cache: KVCache, slot: int, keys: torch.Tensor, values: torch.Tensor) -> None:
    """Write keys and values [kv_heads, n, head_dim] as the first n rows of a slot of layer 0."""
    for place in range(keys.shape[1]):
        tile, row = divmod(place, KEY_TILE)
        cache.keys[0][slot, tile, :, row] = keys[:, place]
        cache.values[0][slot, tile, :, row] = values[:, place]


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
    ],
)
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2)])
def test_attention_is_what_its_definition_says(
    layout: Layout, pattern: Pattern, lengths: tuple[int, ...], heads: int, kv_heads: int
) -> None:
    torch.manual_seed(0)
    rows, batch, dim = layout.size, len(lengths), 8
    device = torch.device("cpu")
    cache = KVCache(config(heads, kv_heads, dim), batch + 1, 400, torch.float64, device)
    slots = tuple(range(batch, 0, -1))
    for slot, length in zip(slots, lengths, strict=True):
        cache.claim(slot, cache.capacity)
        cache.data[:, :, slot] = torch.nan
        held = torch.randn(2, kv_heads, length, dim, dtype=torch.float64)
        write(cache, slot, *held)
    places = Places(slots, lengths, torch.tensor(slots), torch.tensor(lengths))
    query, key, value = (
        torch.randn(batch * rows, count, dim).double() for count in (heads, kv_heads, kv_heads)
    )
    factor = torch.rand(batch * rows).double() + 0.1
    plan = Plan.of(layout, pattern, device, torch.float64)
    found = TorchAttention(plan, cache, places)(0, query, key, value, factor.view(-1, 1, 1))
    want = reference(
        query, untiled(cache.keys[0]), untiled(cache.values[0]), places.slot_index, places.start,
        factor, layout, pattern,
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
    cache = KVCache(config(heads, kv_heads, dim), 1, 2048, dtype, device)
    write(cache, 0, key.transpose(0, 1), value.transpose(0, 1))

    def row(place: int, rows: int, before: int) -> torch.Tensor:
        start = place - before
        own = slice(start, start + rows)
        plan = Plan.of(Layout.causal(rows), CAUSAL, device, dtype)
        places = Places((0,), (start,), torch.tensor([0]), torch.tensor([start]))
        attention = TorchAttention(plan, cache, places)
        return attention(0, query[own], key[own], value[own], factor[own])[before]

    for place in (40, 63, 64, 300, 1020):
        alone = row(place, 1, 0)
        for rows, before in ((2, 1), (7, 0), (7, 6), (32, 30), (32, 0), (272, 40), (272, 0)):
            assert torch.equal(row(place, rows, before), alone), (place, rows, before)


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

    clean, used = (KVCache(config(4, 2, 8), 1, 200, dtype, device) for _ in range(2))
    for cache in (clean, used):
        write(cache, 0, *prefix)
    attend(used, 100, torch.nan)
    attend(used, 9, torch.inf)
    for rows in (4, 1, 70):
        assert torch.equal(attend(used, rows), attend(clean, rows))
