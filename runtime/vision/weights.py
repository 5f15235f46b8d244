"""The tensors of encoder and projector, under their released names."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from nldc.runtime.checkpoint.config import CONFIG, ModelConfig
from nldc.runtime.checkpoint.weights import is_vision, open_files
from nldc.runtime.errors import CheckpointError, is_out_of_memory
from nldc.runtime.vision.config import VisionConfig

TOWER = "encoder.vision_tower."
PROJECTOR = "encoder.multi_modal_projector."


@dataclass(frozen=True)
class EncoderLayer:
    """One layer; `qkv` is [3 hidden, hidden], `gate_up` [2 intermediate, hidden]."""

    attention_norm: Tensor
    qkv: Tensor
    output: Tensor
    ffn_norm: Tensor
    gate_up: Tensor
    down: Tensor


@dataclass(frozen=True)
class VisionWeights:
    """Encoder and projector. `patches` is [hidden, channels * patch * patch], `merging` [hidden,
    merge * merge * hidden], `linear_1` [text, hidden], `linear_2` [text, text].
    """

    patches: Tensor
    first_norm: Tensor
    layers: tuple[EncoderLayer, ...]
    norm: Tensor
    merging: Tensor
    linear_1: Tensor
    linear_2: Tensor


def vision_shapes(config: VisionConfig) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every tensor of a checkpoint's vision part."""
    hidden, mlp, patch = config.hidden_size, config.intermediate_size, config.patch_size
    shapes: dict[str, tuple[int, ...]] = {
        f"{TOWER}patch_conv.weight": (hidden, 3, patch, patch),
        f"{TOWER}ln_pre.weight": (hidden,),
    }
    for layer in range(config.num_layers):
        for name, shape in (
            ("attention_norm", (hidden,)),
            ("ffn_norm", (hidden,)),
            *((f"attention.{part}_proj", (hidden, hidden)) for part in "qkvo"),
            ("feed_forward.gate_proj", (mlp, hidden)),
            ("feed_forward.up_proj", (mlp, hidden)),
            ("feed_forward.down_proj", (hidden, mlp)),
        ):
            shapes[f"{TOWER}transformer.layers.{layer}.{name}.weight"] = shape
    for name, shape in (
        ("norm", (hidden,)),
        ("patch_merger.merging_layer", (hidden, hidden * config.merge**2)),
        ("linear_1", (config.text_size, hidden)),
        ("linear_2", (config.text_size, config.text_size)),
    ):
        shapes[f"{PROJECTOR}{name}.weight"] = shape
    return shapes


def load_vision(
    folder: Path, config: VisionConfig, text: ModelConfig, dtype: torch.dtype, device: torch.device
) -> VisionWeights:
    """Read the vision part of the checkpoint in `folder`: exactly the tensors of its config.

    Raises:
        CheckpointError: a tensor is missing, misshapen or not of this config, or there is no room.
    """
    files = open_files(folder)
    # of one layer more than there are tensors, one is missing: no need to list a billion
    shapes = vision_shapes(replace(config, num_layers=min(config.num_layers, len(files) + 1)))
    for name, shape in shapes.items():
        if name not in files:
            raise CheckpointError(
                f"{folder}: tensor `{name}` is in none of the weight files",
                f"{CONFIG} asks for it in the shape {list(shape)}: without it, pictures are "
                "not read",
            )
        files[name].expect(name, shape, f"its shape follows from vision_config in {CONFIG}")
    others = [name for name in files if is_vision(name, text) and name not in shapes]
    if others:
        raise CheckpointError(
            f"{files[others[0]].path}: tensor `{min(others)}` does not belong to the vision part",
            f"vision_config in {CONFIG} describes no such tensor; do the two belong together?",
        )

    def read(*names: str) -> Tensor:
        """Read matrices, one below the other."""
        parts = [files[name].read(name, dtype, device) for name in names]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def layer(index: int) -> EncoderLayer:
        own = f"{TOWER}transformer.layers.{index}.{{}}.weight".format
        return EncoderLayer(
            attention_norm=read(own("attention_norm")),
            qkv=read(*(own(f"attention.{part}_proj") for part in "qkv")),
            output=read(own("attention.o_proj")),
            ffn_norm=read(own("ffn_norm")),
            gate_up=read(own("feed_forward.gate_proj"), own("feed_forward.up_proj")),
            down=read(own("feed_forward.down_proj")),
        )

    try:
        return VisionWeights(
            patches=read(f"{TOWER}patch_conv.weight").flatten(1),
            first_norm=read(f"{TOWER}ln_pre.weight"),
            layers=tuple(layer(index) for index in range(config.num_layers)),
            norm=read(f"{PROJECTOR}norm.weight"),
            merging=read(f"{PROJECTOR}patch_merger.merging_layer.weight"),
            linear_1=read(f"{PROJECTOR}linear_1.weight"),
            linear_2=read(f"{PROJECTOR}linear_2.weight"),
        )
    except (RuntimeError, MemoryError) as problem:
        if not is_out_of_memory(problem):
            raise
        raise CheckpointError(
            f"{folder}: there is no room for the vision part on {device}",
            "leave pictures out, or use another device",
        ) from problem
