"""What the kernels that an artifact carries are for: the manifest of what was compiled ahead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch

from nldc.runtime.checkpoint.sampler import SamplerShape
from nldc.runtime.errors import ArtifactError
from nldc.runtime.json_file import parse_json
from nldc.runtime.kernels.forward import Looks, LowRank, Sizes

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
VERSION = 3
Scored = Literal["chosen", "given"]


@dataclass(frozen=True)
class Forward:
    """One forward of a strategy: its pattern, by the constant's name, and rows of a sequence.

    `rows` is a number, or the least and the most (None: any) where they follow the prompt's length.
    `batched`: it is of all sequences, not of one. `adapted`: the adapter is on for some rows.
    """

    pattern: str
    rows: int | tuple[int, int | None]
    batched: bool
    adapted: bool


@dataclass(frozen=True)
class Head:
    """The head behind a forward: `rows` and `batched` as there.

    `scored`: it is asked for scores beside tokens, and which tokens' logits go with them.
    """

    rows: int | tuple[int, int | None]
    batched: bool
    scored: Scored | None = None


@dataclass(frozen=True)
class Uses:
    """What one strategy runs, and what it does with logits that are there already: see `Looks`."""

    forwards: tuple[Forward, ...]
    heads: tuple[Head, ...]
    candidates: tuple[int, ...] = ()
    mixes: tuple[int, ...] = ()
    scores: bool = False
    blocks: tuple[int, ...] = ()

    @property
    def looks(self) -> Looks:
        """What it does with logits."""
        return Looks(
            frozenset(self.candidates),
            frozenset(self.mixes),
            frozenset(self.blocks),
            self.scores,
        )


@dataclass(frozen=True)
class Kernel:
    """What a kernel takes on its device: registers a thread, bytes of spills a thread and of shared
    memory a block, and which share of the warps that fit a processor are there at once. None: not
    known.
    """

    name: str
    registers: int | None
    spills: int | None
    shared: int
    occupancy: float | None


@dataclass(frozen=True)
class Geometry:
    """The sizes of the model, of the adapter's modules beside each of its products, and of trained
    samplers.
    """

    name: str
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    adapter: Mapping[str, LowRank] = field(default_factory=dict)
    samplers: tuple[SamplerShape, ...] = ()

    def sizes(self, dtype: torch.dtype) -> Sizes:
        """Return the shapes that kernels are made for."""
        heads = (self.heads, self.kv_heads, self.head_dim)
        return Sizes.of(
            self.hidden,
            self.intermediate,
            heads,
            self.vocabulary,
            dtype,
            self.adapter,
            self.samplers,
        )


@dataclass(frozen=True)
class Coverage:
    """What was compiled: for up to `batch` sequences, by the triton of that version.

    `strategies` are what is run, by name; `kernels` what it takes, by target and the kernel's key.
    """

    triton: str
    dtype: str
    batch: int
    geometry: Geometry
    strategies: Mapping[str, Uses]
    kernels: Mapping[str, Mapping[str, Kernel]] = field(default_factory=dict)

    def data(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "kernels_ahead": VERSION,
            "triton": self.triton,
            "targets": sorted(self.kernels),
            "dtypes": [self.dtype],
            "batch": self.batch,
            "geometry": asdict(self.geometry),
            "strategies": {name: asdict(uses) for name, uses in self.strategies.items()},
            "kernels": {
                target: {key: asdict(kernel) for key, kernel in sorted(kernels.items())}
                for target, kernels in sorted(self.kernels.items())
            },
        }

    @staticmethod
    def read(text: bytes) -> Coverage:
        """Return the coverage that a file of an artifact holds.

        Raises:
            ArtifactError: it holds none.
        """
        try:
            data: Any = parse_json(text)
            geometry = dict(data["geometry"])
            low = {name: LowRank(**each) for name, each in geometry.pop("adapter").items()}
            samplers = tuple(SamplerShape(**each) for each in geometry.pop("samplers"))
            (dtype,) = data["dtypes"]
            if data["kernels_ahead"] != VERSION or dtype not in DTYPES:
                raise ValueError("it is of another version")
            return Coverage(
                triton=data["triton"],
                dtype=dtype,
                batch=data["batch"],
                geometry=Geometry(**geometry, adapter=low, samplers=samplers),
                strategies={
                    name: Uses(
                        tuple(
                            Forward(**{**each, "rows": _rows(each["rows"])})
                            for each in uses["forwards"]
                        ),
                        tuple(
                            Head(**{**each, "rows": _rows(each["rows"])}) for each in uses["heads"]
                        ),
                        tuple(uses["candidates"]),
                        tuple(uses["mixes"]),
                        bool(uses["scores"]),
                        tuple(uses["blocks"]),
                    )
                    for name, uses in data["strategies"].items()
                },
                kernels={
                    target: {key: Kernel(**each) for key, each in kernels.items()}
                    for target, kernels in data["kernels"].items()
                },
            )
        except (ValueError, KeyError, TypeError, AttributeError) as problem:
            raise ArtifactError(
                f"what says which kernels were compiled ahead is damaged: {problem}",
                "compile the strategy again: nldc compile STRATEGY.yaml -o FOLDER",
            ) from problem


def _rows(rows: Any) -> int | tuple[int, int | None]:
    return rows if isinstance(rows, int) else (rows[0], rows[1])
