"""A row's logits are bitwise the same at 1, 2, 7, 32 and 272 rows, in every dtype."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from handwritten import CAUSAL, CHECKPOINTS, Ar, LinearSS
from random_model import random_checkpoint
from test_golden import batch_of
from torch import Tensor

from nldc.runtime.decoder import Decoder
from nldc.runtime.rows.layout import Layout

ROWS, PREFIX = 272, 30
COUNTS = (1, 2, 7, 32)
MODELS: dict[str, dict[str, Any]] = {
    "odd": {  # no width is a multiple of 8, and one is above 1024
        "hidden_size": 100, "intermediate_size": 1100, "num_attention_heads": 5,
        "num_key_value_heads": 1, "head_dim": 18, "vocab_size": 203,
    },
    "shared_keys": {
        "hidden_size": 72, "intermediate_size": 200, "num_attention_heads": 6,
        "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 131,
    },
    "smollm2": {
        "hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9,
        "num_key_value_heads": 3, "head_dim": 64, "vocab_size": 500, "num_hidden_layers": 1,
    },
}  # fmt: skip


@pytest.fixture(params=[1, 2], ids=["one_thread", "two_threads"])
def _threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def logits(
    decoder: Decoder, tokens: Tensor, counts: tuple[int, ...], adapter: str | None = None
) -> list[Tensor]:
    """Return the logits of `tokens` [B, n] in forwards of so many rows, one behind another."""
    batch = batch_of(decoder, len(tokens), 512)
    found, start = [], 0
    with torch.inference_mode():
        for count in counts:
            part = tokens[:, start : start + count]
            seen = batch.forward(part, Layout.causal(count), CAUSAL, adapter=adapter)
            found.append(batch.head(seen).values)
            start += count
    return found


def check_rows_alone_and_together(decoder: Decoder, vocabulary: int) -> None:
    """Hold rows against themselves among others: fewer, one by one, in parts, in a batch."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, vocabulary, (3, PREFIX + ROWS), generator=generator)
    first = tokens[:1]
    _, whole = logits(decoder, first, (PREFIX, ROWS))
    assert torch.isfinite(whole).all()
    for count in COUNTS:
        found = logits(decoder, first, (PREFIX, count))[1]
        assert torch.equal(found, whole[:, :count]), count
    one_by_one = torch.cat(logits(decoder, first, (PREFIX, 34, *[1] * 8))[2:], 1)
    assert torch.equal(one_by_one, whole[:, 34:42])
    in_parts = torch.cat(logits(decoder, first, (7, 25, 64, 2, 204)), 1)
    assert torch.equal(in_parts[:, PREFIX:], whole)
    among_others = logits(decoder, tokens, (PREFIX, 7))[1]
    assert torch.equal(among_others[0], whole[0, :7])


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
@pytest.mark.parametrize("model", MODELS)
def test_a_row_has_the_same_logits_in_any_company(model: str, dtype: str, tmp_path: Path) -> None:
    folder = random_checkpoint(tmp_path / "model", 3, mask_token_id=5, **MODELS[model])
    decoder = Ar.from_checkpoint(folder, dtype=dtype, device="cpu", backend="torch")
    check_rows_alone_and_together(decoder, MODELS[model]["vocab_size"])


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_so_has_a_row_with_an_adapter(dtype: str) -> None:
    decoder = LinearSS.from_checkpoint(CHECKPOINTS[4], dtype=dtype, device="cpu", backend="torch")
    tokens = torch.arange(3, 43).view(1, -1)
    whole = torch.cat(logits(decoder, tokens, (40,), "drafter"), 1)
    for counts in ((1,) * 40, (2, 7, 31)):
        assert torch.equal(torch.cat(logits(decoder, tokens, counts, "drafter"), 1), whole)
    assert not torch.equal(whole, torch.cat(logits(decoder, tokens, (40,)), 1))
