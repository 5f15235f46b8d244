"""A released checkpoint: config.json beside one model.safetensors or its shards.

`load_weights` returns the weights as the backbone wants them: query, key and value in one matrix,
each matrix in the form that products are computed with. Exactly the tensors of the config must be
there, in its shapes; those of a vision part are read in `vision`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from nldc.runtime.checkpoint.config import CONFIG, ModelConfig, left_out
from nldc.runtime.checkpoint.quantised_tensors import QuantisedTensors, find, is_quantised
from nldc.runtime.checkpoint.tensors import AGAIN, TensorFile, dtype_of, stored_dtype
from nldc.runtime.errors import CheckpointError, is_out_of_memory
from nldc.runtime.invariant.linear import Packed, Weight
from nldc.runtime.invariant.quantised import Quantised, joined
from nldc.runtime.invariant.quantised_ways import pack_weight
from nldc.runtime.json_file import read_json

LOG = logging.getLogger("nldc")
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
EMBEDDING = "encoder.embed_tokens.weight"
NORM = "encoder.norm.weight"
HEAD = "diffusion_head.weight"
VISION = re.compile(r"(encoder\.|model\.)?(vision_tower|multi_modal_projector)\.")

Progress: TypeAlias = Callable[[int, int], object]
"""Told, while weights are read, how many bytes of how many have been."""


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

    embedding: Tensor | Quantised
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
    folder: str | Path,
    config: ModelConfig,
    dtype: torch.dtype,
    device: torch.device,
    *,
    form: Callable[[Tensor | Quantised], Weight] = pack_weight,
    progress: Progress | None = None,
) -> Weights:
    """Read the weights below `folder`, in `dtype` on `device`, each matrix brought into its form.

    One matrix at a time is read, converted and formed, so that little more memory is used than the
    weights take. `progress` is told after each how many bytes of how many have been read.

    Raises:
        CheckpointError: a file or tensor is missing, damaged, misshapen or not of this config, or
            there is no room for the weights.
    """
    files = open_files(Path(folder))
    # of one layer more than there are tensors, one is missing: no need to list a billion layers
    layers = min(config.num_layers, len(files) + 1)
    shapes = tensor_shapes(replace(config, num_layers=layers))
    quantised = _check_tensors(folder, files, shapes, config)
    stored = {name: quantised[name].names if name in quantised else (name,) for name in shapes}
    total = sum(_bytes(files, name) for names in stored.values() for name in names)
    done = 0

    def told(name: str) -> None:
        nonlocal done
        done += sum(_bytes(files, each) for each in stored[name])
        if progress is not None:
            progress(done, total)

    def read(name: str, out: Tensor | None = None) -> Tensor:
        if name not in quantised:
            tensor = files[name].read(name, dtype, device, out)
        else:
            tensor = quantised[name].read(dtype, device).to_dense()
            tensor = tensor if out is None else out.copy_(tensor)
        told(name)
        return tensor

    def read_quantised(name: str) -> Quantised:
        found = quantised[name].read(dtype, device)
        told(name)
        return found

    forming = _Forming(form, dtype, device)

    def matrix(*names: str) -> Weight:
        """Read matrices, one below the other, and bring them into form as one."""
        heights = [shapes[name][0] for name in names]
        if all(name in quantised for name in names):
            parts = [read_quantised(name) for name in names]
            whole = joined(parts)
            if whole is not None:
                return form(whole)
            return form(torch.cat([part.to_dense() for part in parts]))
        rows = forming.room(sum(heights), shapes[names[0]][1])
        for name, out in zip(names, torch.split(rows, heights), strict=True):
            read(name, out)
        return forming.formed(rows)

    def layer(index: int) -> LayerWeights:
        own = f"encoder.layers.{index}.{{}}.weight".format
        return LayerWeights(
            input_norm=read(own("input_layernorm")),
            qkv=matrix(*(own(f"self_attn.{part}_proj") for part in "qkv")),
            output=matrix(own("self_attn.o_proj")),
            post_norm=read(own("post_attention_layernorm")),
            gate=matrix(own("mlp.gate_proj")),
            up=matrix(own("mlp.up_proj")),
            down=matrix(own("mlp.down_proj")),
        )

    try:
        # The head comes first: to find its form takes most room, and there is most room now.
        head = None if config.tied_head else matrix(HEAD)
        whole_rows = EMBEDDING in quantised
        embedding = read_quantised(EMBEDDING) if whole_rows else read(EMBEDDING)
        return Weights(
            embedding=embedding,
            layers=tuple(layer(index) for index in range(config.num_layers)),
            norm=read(NORM),
            head=form(embedding) if head is None else head,
        )
    except (RuntimeError, MemoryError) as problem:
        if not is_out_of_memory(problem):
            raise
        wide = sum(prod(shape) for shape in shapes.values()) * dtype.itemsize
        raise CheckpointError(
            f"{folder}: its weights take {wide / 1e9:.1f} GB in {dtype}, "
            f"more than there is room for on {device}",
            "use dtype bfloat16, a smaller checkpoint or another device",
        ) from problem


class _Forming:
    """Brings matrices into their form, one at a time, in room that is used again where it can be.

    Room that is given back and asked for anew for every matrix would end as gaps between those that
    stay, and take half as much again as the weights.
    """

    def __init__(
        self, form: Callable[[Tensor | Quantised], Weight], dtype: torch.dtype, device: torch.device
    ) -> None:
        self._form = form
        self._copied: set[tuple[int, int]] = set()
        self._room = torch.empty(0, dtype=dtype, device=device)

    def room(self, height: int, width: int) -> Tensor:
        """Return a matrix to read into, with any values."""
        if (height, width) not in self._copied:
            return self._room.new_empty((height, width))
        if self._room.numel() < height * width:
            self._room = self._room.new_empty(height * width)
        return self._room[: height * width].view(height, width)

    def formed(self, matrix: Tensor) -> Weight:
        """Return the form of a matrix from `room`; such a matrix is not to be used any more."""
        made = self._form(matrix)
        data = made.data if isinstance(made, Packed) else made
        if not isinstance(data, Tensor) or data.is_mkldnn or data.data_ptr() != matrix.data_ptr():
            self._copied.add((matrix.shape[0], matrix.shape[1]))
        return made


def _check_tensors(
    folder: str | Path,
    files: Mapping[str, TensorFile],
    shapes: Mapping[str, tuple[int, ...]],
    config: ModelConfig,
) -> dict[str, QuantisedTensors]:
    """Return which tensors are stored quantised; raise unless the files hold exactly these, in
    these shapes.
    """
    quantised: dict[str, QuantisedTensors] = {}
    for name, shape in shapes.items():
        if config.quantised and is_quantised(name, files):
            quantised[name] = find(name, shape, files, config.quantised)
            continue
        if name not in files:
            raise CheckpointError(
                f"{folder}: tensor `{name}` is in none of the weight files",
                f"{CONFIG} asks for it in the shape {list(shape)}; the checkpoint is incomplete",
            )
        files[name].expect(
            name,
            shape,
            f"its shape follows from {CONFIG}; do the two belong together?" + left_out(config),
        )
    parts = {part for found in quantised.values() for part in found.names}
    known = parts.union(shapes)
    extra = sorted(
        name
        for name in files
        if name not in known and not _harmless(name, config) and not is_vision(name, config)
    )
    if extra:
        more = f" and {len(extra) - 1} more" if len(extra) > 1 else ""
        raise CheckpointError(
            f"{files[extra[0]].path}: tensor `{extra[0]}`{more} does not belong to the model",
            f"{CONFIG} describes no such tensor; do the two belong together?",
        )
    return quantised


def own_dtype(folder: str | Path, config: ModelConfig) -> torch.dtype:
    """Return what a checkpoint is computed in if nobody says otherwise.

    That is what its config names, else what most of its weights are stored as.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    if config.dtype is not None:
        return dtype_of(config.dtype)
    files = open_files(Path(folder))
    return stored_dtype(files[name].entries[name] for name in files if not is_vision(name, config))


def is_vision(name: str, config: ModelConfig) -> bool:
    """Whether a tensor is of the vision part of a model that has one."""
    return config.vision and VISION.match(name) is not None


def _bytes(files: Mapping[str, TensorFile], name: str) -> int:
    entry = files[name].entries[name]
    return entry.stop - entry.start


def open_files(folder: Path) -> Mapping[str, TensorFile]:
    """Return the file that holds each tensor of the checkpoint in `folder`.

    Raises:
        CheckpointError: there are no weights, a shard is missing or damaged, or the index names a
            tensor that its shard does not hold.
    """
    single, index = folder / SINGLE, folder / INDEX
    if single.exists():
        file = TensorFile.open(single)
        LOG.info("weights %s: %d tensors", single, len(file.names))
        return dict.fromkeys(file.names, file)
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
        shards = set(places.values())
        if not shards or not all(isinstance(name, str) for name in shards):
            raise ValueError("it names no files")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
        raise CheckpointError(f"{index} holds no weight_map", AGAIN) from problem
    for shard in sorted(shards):
        if Path(shard).name != shard or shard in ("", "..") or not shard.isprintable():
            raise CheckpointError(
                f"{index} names a shard that is no file of its folder: {shard!r}",
                "do not use this checkpoint",
            )
    opened = {shard: TensorFile.open(folder / shard) for shard in sorted(shards)}
    for shard, file in opened.items():
        LOG.info("weights %s: %d tensors", folder / shard, len(file.names))
    files: dict[str, TensorFile] = {}
    for name, shard in places.items():
        if name not in opened[shard].entries:
            raise CheckpointError(
                f"{folder / shard}: tensor `{name}` is missing",
                f"{INDEX} places it there; download both again",
            )
        files[name] = opened[shard]
    for file in opened.values():
        for name in file.names:
            files.setdefault(name, file)
    return files


def _harmless(name: str, config: ModelConfig) -> bool:
    return name.endswith("rotary_emb.inv_freq") or (config.tied_head and name == HEAD)
