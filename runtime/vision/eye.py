"""The vision part of one checkpoint: from pictures to rows, read from its files when first needed.

Who asks for text alone has none of it in memory. Rows of the pictures that were seen last are kept:
a conversation shows all of its pictures again with every turn.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nldc.runtime.checkpoint.config import VISION_MODEL_TYPE, ModelConfig
from nldc.runtime.errors import PromptError
from nldc.runtime.vision.config import VisionConfig
from nldc.runtime.vision.encoder import encode, project
from nldc.runtime.vision.picture import Picture, digest_of
from nldc.runtime.vision.pixels import cells_of, prepared
from nldc.runtime.vision.weights import VisionWeights, load_vision

KEPT_BYTES = 256 << 20
"""Of rows that are kept for pictures that come again."""


@dataclass(frozen=True, eq=False)
class Seen:
    """What the model sees of a picture: `rows` [cells, hidden]; `digest` names what it shows."""

    digest: bytes
    rows: Tensor


class Eye:
    """Sees pictures for the model of `folder`, whose rows are of `dtype`; None: there is no folder.

    Any number of threads may ask. One picture is computed at a time, and whoever asks for one that
    is known does not wait for that: the engine's thread is among them.
    """

    def __init__(
        self, folder: Path | None, text: ModelConfig, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._folder = folder
        self._text = text
        self._dtype = dtype
        self._device = device
        self._lock = threading.RLock()
        self._computing = threading.Lock()
        self._config: VisionConfig | None = None
        self._weights: VisionWeights | None = None
        self._kept: OrderedDict[bytes, Seen] = OrderedDict()

    def check(self) -> None:
        """Raise PromptError if the model has no vision part, CheckpointError if its is wrong."""
        _ = self.config

    @property
    def config(self) -> VisionConfig:
        """The numbers of the vision part.

        Raises:
            PromptError: the model has none.
            CheckpointError: its config cannot be used.
        """
        with self._lock:
            if not self._text.vision or self._folder is None:
                raise PromptError(
                    "the model reads text and no pictures",
                    f"use a checkpoint whose model_type is {VISION_MODEL_TYPE}",
                )
            if self._config is None:
                self._config = VisionConfig.load(self._folder, self._text)
            return self._config

    def load(self) -> VisionWeights:
        """Read the vision part, if that is not done.

        Raises:
            PromptError, CheckpointError: the model has none, or it cannot be used.
        """
        with self._lock:
            config = self.config
            if self._weights is None and self._folder is not None:
                wide = torch.promote_types(self._dtype, torch.float32)
                self._weights = load_vision(self._folder, config, self._text, wide, self._device)
            assert self._weights is not None
            return self._weights

    def cells(self, picture: Picture) -> tuple[int, int]:
        """Return of how many cells, across and down, a picture is made; it is not decoded."""
        return cells_of(picture.width, picture.height, self.config.cell)

    def see(self, picture: Picture) -> Seen:
        """Return what the model sees of a picture.

        Raises:
            PromptError: its file is damaged.
            CheckpointError: the vision part cannot be used.
        """
        known = self._known(picture)
        if known is not None:
            return known
        with self._computing:
            seen = self._known(picture)  # by whoever computed before
            return self._keep(picture, self._computed(picture)) if seen is None else seen

    def _known(self, picture: Picture) -> Seen | None:
        with self._lock:
            seen = self._kept.get(picture.key)
            if seen is not None:
                self._kept.move_to_end(picture.key)
            return seen

    def _keep(self, picture: Picture, seen: Seen) -> Seen:
        with self._lock:
            self._kept[picture.key] = seen
            while len(self._kept) > 1 and self._kept_bytes() > KEPT_BYTES:
                self._kept.popitem(last=False)
            return seen

    def _kept_bytes(self) -> int:
        return sum(seen.rows.nbytes for seen in self._kept.values())

    def _computed(self, picture: Picture) -> Seen:
        weights, config = self.load(), self.config
        across, down = self.cells(picture)
        pixels = picture.pixels()
        if pixels.shape[:2] != (picture.height, picture.width):
            raise PromptError(f"{picture.name} is of another size than it says", "save it anew")
        values = prepared(pixels, across * config.cell, down * config.cell)
        given = torch.from_numpy(values).to(self._device, weights.norm.dtype)
        patches = encode(given, weights, config)
        merge = config.merge
        rows = project(patches, down * merge, across * merge, weights, config).to(self._dtype)
        if not bool(torch.isfinite(rows).all()):
            raise PromptError(
                f"what the model sees of {picture.name} are no numbers",
                "the weights are damaged, or too large for this dtype: try bfloat16 or float32",
            )
        return Seen(digest_of(pixels), rows)
