"""The trained sampler of a checkpoint: a small network that says which rows are safe to commit.

It reads nothing of the backbone but logits that are there already, so it is a folder of its own
beside the weights, like an adapter: `sampler_config.json` and `sampler.safetensors`. What its
numbers mean is in `runtime/reference/sampler.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from nldc.runtime.checkpoint.tensors import TensorFile
from nldc.runtime.errors import AdapterError
from nldc.runtime.json_file import read_json
from nldc.runtime.whole_numbers import shown

CONFIG = "sampler_config.json"
WEIGHTS = "sampler.safetensors"
KIND = "nldc-sampler-1"
OTHER_FEATURES = 8
"""Features of a row beside the log-probabilities of its likeliest tokens."""
LARGEST = {"width": 1024, "layers": 16, "heads": 16, "rows": 8192, "top": 64}
FOREIGN = "train it with `nldc train sampler`"


@dataclass(frozen=True)
class SamplerShape:
    """The network's sizes: `top` log-probabilities of a row are read, of up to `rows` rows."""

    width: int = 64
    layers: int = 3
    heads: int = 4
    rows: int = 64
    top: int = 8

    @property
    def features(self) -> int:
        """Features of a row."""
        return self.top + OTHER_FEATURES

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Return the name and shape of every tensor."""
        width = self.width
        found: dict[str, tuple[int, ...]] = {
            "input.weight": (width, self.features),
            "places.weight": (self.rows, width),
            "norm.weight": (width,),
            "output.weight": (1, width),
            "output.bias": (1,),
        }
        for layer in range(self.layers):
            found |= {
                f"layers.{layer}.attention_norm.weight": (width,),
                f"layers.{layer}.qkv.weight": (3 * width, width),
                f"layers.{layer}.output.weight": (width, width),
                f"layers.{layer}.mlp_norm.weight": (width,),
                f"layers.{layer}.up.weight": (2 * width, width),
                f"layers.{layer}.down.weight": (width, 2 * width),
            }
        return found


@dataclass(frozen=True, eq=False)
class SamplerWeights:
    """A sampler's shape and its float32 tensors by name."""

    shape: SamplerShape
    tensors: Mapping[str, Tensor]

    @staticmethod
    def load(folder: str | Path, device: torch.device) -> SamplerWeights:
        """Read the sampler in `folder`.

        Raises:
            AdapterError: a file is missing or damaged, or its tensors do not fit its config.
        """
        path = Path(folder)
        shape = read_shape(path / CONFIG)
        file = TensorFile.open(path / WEIGHTS, AdapterError)
        wanted = shape.tensors()
        for name in sorted(set(file.names) - set(wanted)):
            raise AdapterError(f"{file.path}: tensor `{name}` is no part of a sampler", FOREIGN)
        for name, size in wanted.items():
            file.expect(name, size, FOREIGN)
        found = {name: file.read(name, torch.float32, device) for name in wanted}
        for name, tensor in found.items():
            if not bool(tensor.isfinite().all()):
                raise AdapterError(f"{file.path}: tensor `{name}` holds no numbers", FOREIGN)
        return SamplerWeights(shape, found)

    def save(self, folder: Path) -> None:
        """Write both files into a folder that is there."""
        plain = {name: value.detach().cpu().contiguous() for name, value in self.tensors.items()}
        save_file(plain, folder / WEIGHTS, metadata={"format": "pt"})
        text = json.dumps({"kind": KIND, **asdict(self.shape)}, indent=2) + "\n"
        (folder / CONFIG).write_text(text, encoding="utf-8")


def read_shape(path: Path) -> SamplerShape:
    """Return the shape that a sampler's config says it has.

    Raises:
        AdapterError: it is missing or damaged, or its numbers are none of a sampler.
    """
    try:
        settings: Any = read_json(path)
    except FileNotFoundError:
        raise AdapterError(
            f"{path} is missing", f"a sampler's folder holds {CONFIG} and {WEIGHTS}"
        ) from None
    except ValueError as problem:
        raise AdapterError(f"{path} cannot be read: {problem}", FOREIGN) from problem
    if not isinstance(settings, dict) or settings.get("kind") != KIND:
        raise AdapterError(f"{path} describes no sampler", f"`kind` must be {KIND}")
    sizes: dict[str, int] = {}
    for item in fields(SamplerShape):
        value = settings.get(item.name)
        if type(value) is not int or not 1 <= value <= LARGEST[item.name]:
            raise AdapterError(
                f"{path}: {item.name} = {shown(value)}",
                f"give a whole number from 1 to {LARGEST[item.name]}",
            )
        sizes[item.name] = value
    dim = sizes["width"] // sizes["heads"]
    if dim * sizes["heads"] != sizes["width"] or dim & (dim - 1):
        raise AdapterError(
            f"{path}: {sizes['heads']} heads do not share a width of {sizes['width']}",
            "the width of a head must be a power of two",
        )
    return SamplerShape(**sizes)
