"""The backbone without a cache: every row ever computed is computed again, under an explicit mask.

The model that `nldc.interpret` asks for: slow, in the dtype of its weights (float64 in tests), and
plain enough to be believed. Attention is one dense softmax a layer over all rows; what a row sees
is a set of rows, not a prefix.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from nldc.runtime.checkpoint.adapter import Adapter
from nldc.runtime.checkpoint.config import ModelConfig
from nldc.runtime.checkpoint.tensors import dtype_of
from nldc.runtime.checkpoint.weights import load_weights
from nldc.runtime.model.backbone import Backbone
from nldc.runtime.text.endings import find_endings
from nldc.runtime.text.tokenizer import Tokenizer


class Entry(Protocol):
    """A computed row: its token, its absolute position, the rows that it sees, its adapter."""

    @property
    def token(self) -> int:
        """The token id."""
        ...

    @property
    def position(self) -> int:
        """The absolute position."""
        ...

    @property
    def sees(self) -> Sequence[int]:
        """The numbers of the rows that it sees, itself included if it does."""
        ...

    @property
    def adapter(self) -> str | None:
        """The adapter's name, or None."""
        ...


class ReferenceModel:
    """Logits of rows that see sets of rows; `adapters` are those that are loaded, by name.

    `eos` holds the ids that end a sequence, in the order in which the checkpoint's files name them.
    """

    def __init__(
        self,
        backbone: Backbone,
        adapters: Mapping[str, Adapter] | None = None,
        eos: Collection[int] | None = None,
    ) -> None:
        self.backbone = backbone
        self.eos = backbone.config.eos_token_ids if eos is None else eos
        self.adapters = dict(adapters or {})
        self.vocabulary = backbone.config.vocab_size
        self.mask_token_id = backbone.config.mask_token_id

    @staticmethod
    def load(
        folder: str | Path, adapters: Mapping[str, str | Path] | None = None, dtype: str = "float64"
    ) -> ReferenceModel:
        """Load a checkpoint, and adapters from their folders, on the CPU.

        Raises:
            CheckpointError, AdapterError: what is there cannot be loaded.
        """
        config, kind, cpu = ModelConfig.load(folder), dtype_of(dtype), torch.device("cpu")
        loaded = {
            name: Adapter.load(place, config, kind, cpu) for name, place in (adapters or {}).items()
        }
        backbone = Backbone(config, load_weights(Path(folder), config, kind, cpu), kind, cpu)
        place = Path(folder)
        tokenizer = Tokenizer.load(place) if Tokenizer.exists(place) else None
        ends = find_endings(place, config.eos_token_ids, config.vocab_size, tokenizer)
        return ReferenceModel(backbone, loaded, ends.ids)

    def logits(self, entries: Sequence[Entry]) -> list[list[float]]:
        """Return the logits of every entry; entry i sees `entries[i].sees`, no others.

        Raises:
            ValueError: rows of one call have different adapters.
        """
        backbone = self.backbone
        sees = torch.zeros((len(entries), len(entries)), dtype=torch.bool)
        for row, entry in enumerate(entries):
            sees[row, list(entry.sees)] = True
        names = {entry.adapter for entry in entries} - {None}
        if len(names) > 1:
            raise ValueError(f"one adapter at a time, not {sorted(map(str, names))}")
        rows = [row for row, entry in enumerate(entries) if entry.adapter is not None]
        positions = torch.tensor([entry.position for entry in entries])
        backbone.rope.reserve(int(positions.max()) + 1)
        with torch.inference_mode():
            states = backbone.forward(
                backbone.embed(torch.tensor([entry.token for entry in entries])),
                positions,
                _Dense(sees),
                self.adapters[str(names.pop())] if names else None,
                torch.tensor(rows) if rows else None,
            )
            return [list(map(float, line)) for line in backbone.head(states)]


class _Dense:
    """Attention over a matrix of who sees whom, [n, n]."""

    def __init__(self, sees: Tensor) -> None:
        self.sees = sees

    def __call__(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, factor: Tensor
    ) -> Tensor:
        """Return [n, heads * head_dim]; a row that sees nothing gets zeros."""
        del layer
        shared = query.shape[1] // key.shape[1]
        query = (query * factor).transpose(0, 1)
        key = key.transpose(0, 1).repeat_interleave(shared, 0)
        value = value.transpose(0, 1).repeat_interleave(shared, 0)
        scores = (query @ key.transpose(1, 2)).masked_fill(~self.sees, -math.inf)
        found = torch.softmax(scores, -1).nan_to_num(nan=0.0) @ value
        return found.transpose(0, 1).reshape(len(self.sees), -1)
