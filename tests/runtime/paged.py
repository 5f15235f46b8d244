"""Caches whose pages lie anywhere, and forwards whose rows are counted."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from nldc.runtime.cache import holdings
from nldc.runtime.cache.kv_cache import KVCache
from nldc.runtime.cache.pages import Need, Pages
from nldc.runtime.invariant.line_tiles import Cut
from nldc.runtime.model import attention
from nldc.runtime.model.torch_backend import TorchBackend
from nldc.runtime.rows.layout import Layout
from nldc.runtime.rows.pattern import Pattern, RowFacts
from nldc.runtime.rows.table import Table
from nldc.runtime.step.batch import Batch, Model
from nldc.runtime.step.member import Member


def _causal(q: RowFacts, k: RowFacts) -> Tensor:
    return k.position <= q.position


IN_ORDER = Pattern("in_order", _causal, sees_prefix=True, looks_back=True)


def scatter_pages(monkeypatch: pytest.MonkeyPatch, seed: int = 0) -> None:
    """Let every page lie anywhere."""
    drawn = random.Random(seed)

    def scattered(self: Pages, number: int) -> list[int]:
        return drawn.sample([page for page, users in enumerate(self.users) if not users], number)

    def arrangement(needs: Iterable[Need], others: Iterable[int], count: int) -> dict[int, int]:
        held = sorted({page for need in needs for page in need.table} | set(others))
        return dict(zip(held, drawn.sample(range(count), len(held)), strict=True))

    monkeypatch.setattr(Pages, "place", lambda *_, **__: None)
    monkeypatch.setattr(Pages, "free_from", lambda *_: 0)
    monkeypatch.setattr(Pages, "scattered", scattered)
    monkeypatch.setattr(holdings, "arrangement", arrangement)


def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let attention be computed as on a GPU: in batches of one size, over trees."""
    monkeypatch.setattr(
        attention, "line_cut", lambda kv_heads, *_: Cut((64,), 4 * kv_heads, trees=True)
    )


class Counted:
    """The rows that pass the backbone, one number a call."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: list[int] = []
        layer = TorchBackend.layer

        def counting(backend: TorchBackend, number: int, states: Tensor, rows: Any) -> Tensor:
            if number == 0:
                self.rows.append(len(states))
            return layer(backend, number, states, rows)

        monkeypatch.setattr(TorchBackend, "layer", counting)


def cache_for(model: Model, **options: Any) -> KVCache:
    backbone = model.backbone
    return KVCache(backbone.config, backbone.dtype, backbone.device, **options)


@torch.inference_mode()
def forward(
    model: Model,
    cache: KVCache,
    slots: Sequence[int],
    tokens: Sequence[Sequence[int]],
    *,
    pattern: Pattern = IN_ORDER,
    states: slice | None = None,
    adapter: str | None = None,
    adapter_rows: Sequence[bool] | Table | None = None,
    embeddings: Tensor | None = None,
) -> Tensor:
    """Append rows to sequences and return the logits, [B, n, vocabulary]."""
    own = Batch(model, cache, [Member(slot, slot, embeddings=embeddings) for slot in slots])
    if embeddings is None:
        ids = torch.tensor([list(line) for line in tokens])
    else:
        ids = own.prompt(tokens[0])
    hidden = own.forward(
        ids,
        Layout.causal(ids.shape[1]),
        pattern,
        states=states,
        adapter=adapter,
        adapter_rows=adapter_rows,
    )
    assert own.forwards().tolist() == [1] * len(slots)
    for slot in slots:
        cache.keep(slot, None)
    assert hidden.positions.shape == hidden.states.shape[:2]
    return own.head(hidden).values
