"""The torch backend's attention against the definition, over layouts, prefixes and tiles."""

from __future__ import annotations

import pytest
import torch
from handwritten import BIDIRECTIONAL, CAUSAL, QUADRATIC, block_layout, quadratic_layout

from nldc.runtime.attention import Pattern, Plan, RowFacts, TorchAttention
from nldc.runtime.config import ModelConfig, RopeConfig
from nldc.runtime.kv_cache import KVCache, Places
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
    cache.keys[0].fill_(torch.nan)
    cache.values[0].fill_(torch.nan)
    slots = tuple(range(batch, 0, -1))
    for slot, length in zip(slots, lengths, strict=True):
        cache.keys[0][slot, :, :length] = torch.randn(kv_heads, length, dim).double()
        cache.values[0][slot, :, :length] = torch.randn(kv_heads, length, dim).double()
    places = Places(slots, lengths, torch.tensor(slots), torch.tensor(lengths))
    query, key, value = (
        torch.randn(batch * rows, count, dim).double() for count in (heads, kv_heads, kv_heads)
    )
    factor = torch.rand(batch * rows).double() + 0.1
    plan = Plan.of(layout, pattern, device, torch.float64)
    found = TorchAttention(plan, cache, places)(0, query, key, value, factor.view(-1, 1, 1))
    want = reference(
        query, cache.keys[0], cache.values[0], places.slot_index, places.start, factor, layout,
        pattern,
    )  # fmt: skip
    torch.testing.assert_close(found, want)
