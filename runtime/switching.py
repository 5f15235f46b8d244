"""The base class of decoders that hold several strategies over one model and one cache."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import ClassVar

from nldc.runtime.checkpoint.parts import Declared
from nldc.runtime.decoder import Decoder
from nldc.runtime.engine.handover import Handover
from nldc.runtime.engine.strategy import Strategy
from nldc.runtime.step.params import Param


class SwitchingDecoder(Decoder):
    """Several strategies; `generate(..., strategy=...)` says which, for each request and step.

    Generated classes set `PARTS`, the strategies' own decoders by name, and `HANDOVERS`, how each
    leaves a sequence between steps and how it is given one. The first is the default.
    """

    PARTS: ClassVar[Mapping[str, type[Decoder]]] = {}
    HANDOVERS: ClassVar[Mapping[str, Handover]] = {}

    @cached_property
    def parts(self) -> dict[str, Decoder]:
        """The decoder of each strategy, on the same model."""
        model = self.model
        return {
            name: kind(
                model.backbone, adapters=model.parts, backend=self.backend, folder=self.folder
            )
            for name, kind in self.PARTS.items()
        }

    @classmethod
    def declared(cls) -> Declared:
        """Return the adapters that the strategies declare."""
        parts = cls.PARTS.values()
        required = frozenset[str]().union(*(part.REQUIRED_ADAPTERS for part in parts))
        samplers = frozenset[str]().union(*(part.SAMPLERS for part in parts))
        return Declared(cls.STRATEGY, cls.ADAPTERS, required, samplers)

    @classmethod
    def params_by_strategy(cls) -> dict[str, tuple[Param, ...]]:
        """Return the params that requests bring, by the name of the strategy that has them."""
        return {name: part.PARAMS for name, part in cls.PARTS.items()}

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """What is worth knowing of how the strategies and the checkpoint fit, a line each."""
        notes = (note for part in self.parts.values() for note in part.notes)
        return tuple(dict.fromkeys(notes))

    def strategies(self) -> dict[str, Strategy]:
        """Return the strategies by name, with how they hand sequences over."""
        return {name: part.as_strategy(self.HANDOVERS[name]) for name, part in self.parts.items()}
