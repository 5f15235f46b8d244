"""The sizes of a checkpoint that costs follow from: those of the released ones, or of a folder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from nldc.runtime.abi import ADAPTER_FOLDER
from nldc.runtime.checkpoint.config import ModelConfig
from nldc.runtime.errors import AdapterError, CheckpointError
from nldc.runtime.json_file import read_json


@dataclass(frozen=True)
class Geometry:
    """Sizes of the backbone and of its drafter.

    `adapter` are the widths of each layer's low-rank products, (in, rank, out), `modules` the names
    of what they stand beside; none without one.
    """

    name: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    adapter: tuple[tuple[int, int, int], ...] = ()
    modules: tuple[str, ...] = ()

    @property
    def products(self) -> tuple[tuple[int, int], ...]:
        """Return each layer's products as (in, out): q with k and v, o, gate with up, down."""
        width, kv = self.heads * self.head_dim, 2 * self.kv_heads * self.head_dim
        return (
            (self.hidden, width + kv),
            (width, self.hidden),
            (self.hidden, 2 * self.intermediate),
            (self.intermediate, self.hidden),
        )

    @property
    def streamed(self) -> int:
        """The weights that every forward reads: all layers' products, without the head."""
        return self.layers * sum(math.prod(product) for product in self.products)

    @property
    def head(self) -> int:
        """The weights of the head."""
        return self.hidden * self.vocabulary


def _released(name: str, hidden: int, intermediate: int, layers: int) -> Geometry:
    """Return a released geometry; its drafter is a LoRA of rank 128 on o_proj."""
    low = (32 * 128, 128, hidden)
    return Geometry(name, hidden, intermediate, layers, 32, 8, 128, 131072, (low,), ("o_proj",))


RELEASED: Mapping[str, Geometry] = {
    each.name: each
    for each in (
        _released("3b", 3072, 9216, 26),
        _released("8b", 4096, 14336, 34),
        _released("14b", 5120, 16384, 40),
    )
}
"""The released checkpoints, by name."""


def load_geometry(name: str | Path) -> Geometry:
    """Return the geometry that is meant: 3b, 8b, 14b, or that of a checkpoint's folder.

    Raises:
        CheckpointError: there is no such name and no such folder, or its config cannot be read.
        AdapterError: the folder's drafter has a config that cannot be read.
    """
    if str(name) in RELEASED:
        return RELEASED[str(name)]
    folder = Path(name)
    if not folder.is_dir():
        known = ", ".join(RELEASED)
        raise CheckpointError(
            f"there is no geometry `{name}`", f"give one of {known}, or a checkpoint's folder"
        )
    config = ModelConfig.load(folder)
    bare = Geometry(
        name=folder.name,
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        layers=config.num_layers,
        heads=config.num_heads,
        kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        vocabulary=config.vocab_size,
    )
    return with_adapter(bare, folder / ADAPTER_FOLDER / "adapter_config.json")


def with_adapter(bare: Geometry, path: Path) -> Geometry:
    """Return the geometry with the drafter whose config is in `path`, if there is one.

    Raises:
        AdapterError: the config cannot be read, or names no known products.
    """
    try:
        data = read_json(path)
        rank, targets = data["r"], data["target_modules"]
        is_fine = isinstance(rank, int) and isinstance(targets, list) and 0 < rank < 2**20
        if not is_fine:
            raise ValueError("no r, or no list of target_modules")
        widths = _widths(bare)
        adapter = tuple((widths[name][0], rank, widths[name][1]) for name in targets)
    except FileNotFoundError:
        return bare
    except (ValueError, KeyError, TypeError) as problem:
        raise AdapterError(
            f"{path} cannot be read: {problem}", "it needs `r`, and `target_modules` as a list"
        ) from None
    return replace(bare, adapter=adapter, modules=tuple(targets))


def _widths(geometry: Geometry) -> dict[str, tuple[int, int]]:
    width, kv = geometry.heads * geometry.head_dim, geometry.kv_heads * geometry.head_dim
    hidden, inner = geometry.hidden, geometry.intermediate
    return {
        "q_proj": (hidden, width), "k_proj": (hidden, kv), "v_proj": (hidden, kv),
        "o_proj": (width, hidden), "gate_proj": (hidden, inner), "up_proj": (hidden, inner),
        "down_proj": (inner, hidden),
    }  # fmt: skip
