"""A released checkpoint: config.json beside one model.safetensors or its shards.

`load_weights` returns the weights as the backbone wants them: query, key and value in one matrix.
Exactly the tensors of the config must be there, in its shapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from nldc.runtime.config import CONFIG, ModelConfig
from nldc.runtime.errors import CheckpointError
from nldc.runtime.json_file import read_json
from nldc.runtime.linear import Weight
from nldc.runtime.tensors import AGAIN, TensorFile

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
EMBEDDING = "encoder.embed_tokens.weight"
NORM = "encoder.norm.weight"
HEAD = "diffusion_head.weight"


@dataclass(frozen=True)
class LayerWeights:
    """One layer. `qkv` is [(heads + 2 kv_heads) * head_dim, hidden]."""

    input_norm: Tensor
    qkv: Weight
    output: Weight
    post_norm: Tensor
    gate: Weight
    up: Weight
    down: Weight


@dataclass(frozen=True)
class Weights:
    """The whole model; embedding and head are [vocabulary, hidden]."""

    embedding: Tensor
    layers: tuple[LayerWeights, ...]
    norm: Tensor
    head: Weight


def tensor_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every tensor that a checkpoint of this config holds."""
    hidden, mlp = config.hidden_size, config.intermediate_size
    query, key = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (config.vocab_size, hidden), NORM: (hidden,)}
    for layer in range(config.num_layers):
        for name, shape in (
            ("input_layernorm", (hidden,)),
            ("post_attention_layernorm", (hidden,)),
            ("self_attn.q_proj", (query, hidden)),
            ("self_attn.k_proj", (key, hidden)),
            ("self_attn.v_proj", (key, hidden)),
            ("self_attn.o_proj", (hidden, query)),
            ("mlp.gate_proj", (mlp, hidden)),
            ("mlp.up_proj", (mlp, hidden)),
            ("mlp.down_proj", (hidden, mlp)),
        ):
            shapes[f"encoder.layers.{layer}.{name}.weight"] = shape
    if not config.tied_head:
        shapes[HEAD] = (config.vocab_size, hidden)
    return shapes


def load_weights(
    folder: str | Path, config: ModelConfig, dtype: torch.dtype, device: torch.device
) -> Weights:
    """Read the weights below `folder`, converted to `dtype` on `device`.

    Raises:
        CheckpointError: a file or tensor is missing, damaged, misshapen or not of this config.
    """
    files = open_files(Path(folder))
    # of one layer more than there are tensors, one is missing: no need to list a billion layers
    layers = min(config.num_layers, len(files) + 1)
    shapes = tensor_shapes(replace(config, num_layers=layers))
    for name, shape in shapes.items():
        if name not in files:
            raise CheckpointError(
                f"{folder}: tensor `{name}` is in none of the weight files",
                f"{CONFIG} asks for it in the shape {list(shape)}; the checkpoint is incomplete",
            )
        files[name].expect(
            name, shape, f"its shape follows from {CONFIG}; do the two belong together?"
        )
    extra = sorted(name for name in files if name not in shapes and not _harmless(name, config))
    if extra:
        more = f" and {len(extra) - 1} more" if len(extra) > 1 else ""
        raise CheckpointError(
            f"{files[extra[0]].path}: tensor `{extra[0]}`{more} does not belong to the model",
            f"{CONFIG} describes no such tensor; do the two belong together?",
        )

    def read(name: str) -> Tensor:
        return files[name].read(name).to(device, dtype)

    def layer(index: int) -> LayerWeights:
        def own(name: str) -> Tensor:
            return read(f"encoder.layers.{index}.{name}.weight")

        return LayerWeights(
            input_norm=own("input_layernorm"),
            qkv=torch.cat([own(f"self_attn.{part}_proj") for part in "qkv"]),
            output=own("self_attn.o_proj"),
            post_norm=own("post_attention_layernorm"),
            gate=own("mlp.gate_proj"),
            up=own("mlp.up_proj"),
            down=own("mlp.down_proj"),
        )

    embedding = read(EMBEDDING)
    return Weights(
        embedding=embedding,
        layers=tuple(layer(index) for index in range(config.num_layers)),
        norm=read(NORM),
        head=embedding if config.tied_head else read(HEAD),
    )


def open_files(folder: Path) -> Mapping[str, TensorFile]:
    """Return the file that holds each tensor of the checkpoint in `folder`.

    Raises:
        CheckpointError: there are no weights, a shard is missing or damaged, or the index names a
            tensor that its shard does not hold.
    """
    single, index = folder / SINGLE, folder / INDEX
    if single.exists():
        file = TensorFile.open(single)
        return dict.fromkeys(file.shapes, file)
    if not index.exists():
        pickles = sorted(folder.glob("*.bin")) + sorted(folder.glob("*.pt"))
        if pickles:
            raise CheckpointError(
                f"{pickles[0]} is no safetensors file",
                "convert the weights to model.safetensors first; pickles are never loaded",
            )
        raise CheckpointError(
            f"{folder} holds no {SINGLE}", f"download {SINGLE}, or {INDEX} and its shards"
        )
    try:
        places = read_json(index)["weight_map"]
        if not all(isinstance(name, str) for name in places.values()):
            raise TypeError
        shards = set(places.values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
        raise CheckpointError(f"{index} holds no weight_map", AGAIN) from problem
    for shard in sorted(shards):
        if Path(shard).name != shard or shard in ("", "..") or not shard.isprintable():
            raise CheckpointError(
                f"{index} names a shard that is no file of its folder: {shard!r}",
                "do not use this checkpoint",
            )
    opened = {shard: TensorFile.open(folder / shard) for shard in sorted(shards)}
    files: dict[str, TensorFile] = {}
    for name, shard in places.items():
        if name not in opened[shard].shapes:
            raise CheckpointError(
                f"{folder / shard}: tensor `{name}` is missing",
                f"{INDEX} places it there; download both again",
            )
        files[name] = opened[shard]
    for file in opened.values():
        for name in file.shapes:
            files.setdefault(name, file)
    return files


def _harmless(name: str, config: ModelConfig) -> bool:
    return name.endswith("rotary_emb.inv_freq") or (config.tied_head and name == HEAD)
