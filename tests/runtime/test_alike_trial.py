"""The trial that `make gpu-report` makes of a model's rows: it passes here, and can fail."""

from __future__ import annotations

import pytest
import torch
from handwritten import CAUSAL, CHECKPOINTS, Ar

from nldc.runtime.alike import PARTS, ROWS, Alike, alike, companies
from nldc.runtime.invariant import linear
from nldc.runtime.invariant.line_tiles import AT_ONCE, ON_A_DEVICE, Cut
from nldc.runtime.model import attention
from nldc.runtime.model.attention import _Piece


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rows_of_a_model_are_alike_behind_every_prefix(dtype: str) -> None:
    decoder = Ar.from_checkpoint(CHECKPOINTS[0], dtype=dtype, device="cpu", backend="torch")
    found = alike(decoder.model, CAUSAL, (0, 60, 500), rows=70, alone=5)
    assert [one.prefix for one in found] == [0, 60, 500]
    assert all(one.checked > 200 for one in found)
    assert [one.where for one in found] == [()] * 3


def test_every_row_is_computed_in_parts() -> None:
    parts = [company for company in companies(ROWS) if company.kind == "in parts"]
    assert sorted(company.rows for company in parts) == sorted(PARTS)
    assert sum(company.rows for company in parts) == ROWS


def test_a_product_that_counts_its_rows_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def product(x: torch.Tensor, weight: linear.Packed) -> torch.Tensor:
        found = plain(x, weight)
        return found * (1 + 1e-6) if len(x) == 7 else found

    plain = linear.linear
    decoder = Ar.from_checkpoint(CHECKPOINTS[0], device="cpu", backend="torch")
    monkeypatch.setattr("nldc.runtime.model.torch_backend.linear", product)
    (found,) = alike(decoder.model, CAUSAL, (3,), rows=40, alone=2)
    assert found.differing >= 7
    assert "fewer: rows 0 to 6, 7 differ" in found.where
    assert isinstance(found, Alike)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_gpu_s_cut_of_attention_keeps_rows_alike_too(
    dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way that is taken on a GPU, on the CPU, where a softmax over trees is as right."""
    decoder = Ar.from_checkpoint(CHECKPOINTS[0], dtype=dtype, device="cpu", backend="torch")
    plain = alike(decoder.model, CAUSAL, (60,), rows=70, alone=2)
    pieces = []

    def cut(kv_heads: int, *_: object) -> Cut:
        return Cut((ON_A_DEVICE,), AT_ONCE * kv_heads, trees=True)

    def by_trees(self: _Piece, *given: torch.Tensor) -> torch.Tensor:
        pieces.append(self.room.sizes)
        return own(self, *given)

    own = _Piece._tile_by_trees
    monkeypatch.setattr(attention, "line_cut", cut)
    monkeypatch.setattr(_Piece, "_tile_by_trees", by_trees)
    found = alike(decoder.model, CAUSAL, (0, 60, 1000, 1100), rows=70, alone=5)
    assert [one.where for one in (*plain, *found)] == [()] * 5
    assert {size for sizes in pieces for size in sizes} == {ON_A_DEVICE}
