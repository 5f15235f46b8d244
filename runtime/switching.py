"""The base class of decoders that hold several strategies over one model and one cache."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from nldc.runtime.adapter import Adapter
from nldc.runtime.backbone import Backbone
from nldc.runtime.decoder import Backend, Decoder
from nldc.runtime.handover import Handover
from nldc.runtime.session import Strategy


class SwitchingDecoder(Decoder):
    """Several strategies; `generate(..., strategy=...)` says which, for each request and step.

    Generated classes set `PARTS`, the strategies' own decoders by name, and `HANDOVERS`, how each
    leaves a sequence between steps and how it is given one. The first is the default.
    """

    PARTS: ClassVar[Mapping[str, type[Decoder]]] = {}
    HANDOVERS: ClassVar[Mapping[str, Handover]] = {}

    def __init__(
        self,
        backbone: Backbone,
        *,
        adapters: Mapping[str, Adapter] | None = None,
        backend: Backend = "torch",
        folder: Path | None = None,
    ) -> None:
        super().__init__(backbone, adapters=adapters, backend=backend, folder=folder)
        self.parts: dict[str, Decoder] = {
            name: kind(backbone, adapters=adapters, backend=backend, folder=folder)
            for name, kind in self.PARTS.items()
        }

    def strategies(self) -> dict[str, Strategy]:
        """Return the strategies by name, with how they hand sequences over."""
        return {
            name: Strategy(part.prefill, part.step, self.HANDOVERS[name])
            for name, part in self.parts.items()
        }
