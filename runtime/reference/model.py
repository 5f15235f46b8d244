"""The plain backbone over sets of rows: all are computed again at every call, under a dense mask.

The model that `nldc.interpret` asks for: slow, in the dtype of its weights (float64 in tests), and
plain enough to be believed. What a row sees is a set of rows, not a prefix.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch

from nldc.runtime.checkpoint.adapter import Adapter
from nldc.runtime.checkpoint.tensors import dtype_of
from nldc.runtime.reference.attention import over
from nldc.runtime.reference.backbone import PlainBackbone, plain
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
        backbone: PlainBackbone,
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
        backbone = PlainBackbone.load(folder, dtype_of(dtype))
        config, cpu = backbone.config, torch.device("cpu")
        loaded = {
            name: Adapter.load(source, config, backbone.dtype, cpu, form=plain)
            for name, source in (adapters or {}).items()
        }
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
        tokens = torch.tensor([entry.token for entry in entries])
        with torch.inference_mode():
            states = backbone.forward(
                backbone.embed(tokens),
                torch.tensor([entry.position for entry in entries]),
                over(sees, backbone.dtype),
                self.adapters[str(names.pop())] if names else None,
                torch.tensor([entry.adapter is not None for entry in entries]),
            )
            return [list(map(float, line)) for line in backbone.head(states)]
