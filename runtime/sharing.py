"""Weights that another library has loaded, used where they lie.

Products are computed from plain matrices, in the last of the ways that are tried: no library packs
a copy. On a CPU nothing is moved: query, key and value are multiplied one by one, and a matrix may
begin within a cache line, as in a file that is mapped into memory. Kernels on a device read query,
key and value as one matrix that begins at a line: there, what lies otherwise is moved, a layer at a
time, and the tensors that were given are made to lie where it went. So the library that loaded them
goes on computing with the same values, and nothing is held twice but what is listed.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from nldc.runtime.checkpoint.config import ModelConfig
from nldc.runtime.checkpoint.weights import EMBEDDING, HEAD, NORM, LayerWeights, Weights
from nldc.runtime.invariant.linear import (
    LINE,
    Packed,
    Stacked,
    Way,
    Weight,
    cancelling,
    formed,
    holds,
    ways,
)


@dataclass(frozen=True)
class Shared:
    """The weights, and the names of those that had to be copied.

    A matrix is copied if its rows are no whole cache lines: rows must lie alike to have the same
    bits in any company.
    """

    weights: Weights
    copied: tuple[str, ...]


def share_weights(tensors: Mapping[str, Tensor], config: ModelConfig) -> Shared:
    """Return weights that lie where `tensors` do, which have the names of a released checkpoint.

    All are in one dtype on one device, in the shapes of `tensor_shapes`. Of those that have to be
    moved, `data` is replaced: they keep their values, and nobody else may move them.
    """
    copied: list[str] = []

    def matrix(name: str) -> Packed:
        tensor = tensors[name]
        if tensor.device.type != "cpu":
            _at_a_line(tensor)
        made = _in_place(tensor.detach())
        if made.data.data_ptr() != tensor.data_ptr():
            copied.append(name)
        return made

    def matrices(*names: str) -> Weight:
        """Return matrices, one below the other, as one or as its parts."""
        parts = [tensors[name] for name in names]
        if parts[0].device.type == "cpu":
            return Stacked(tuple(map(matrix, names)))
        whole = _one_below_the_other(parts)
        made = _in_place(whole)
        if made.data.data_ptr() != whole.data_ptr():
            copied.extend(names)
        return made

    def vector(name: str) -> Tensor:
        return tensors[name].detach()

    def layer(index: int) -> LayerWeights:
        own = f"encoder.layers.{index}.{{}}.weight".format
        return LayerWeights(
            input_norm=vector(own("input_layernorm")),
            qkv=matrices(*(own(f"self_attn.{part}_proj") for part in "qkv")),
            output=matrix(own("self_attn.o_proj")),
            post_norm=vector(own("post_attention_layernorm")),
            gate=matrix(own("mlp.gate_proj")),
            up=matrix(own("mlp.up_proj")),
            down=matrix(own("mlp.down_proj")),
        )

    head = matrix(EMBEDDING if config.tied_head else HEAD)
    weights = Weights(
        embedding=vector(EMBEDDING),
        layers=tuple(layer(index) for index in range(config.num_layers)),
        norm=vector(NORM),
        head=head,
    )
    return Shared(weights, tuple(copied))


def _in_place(matrix: Tensor) -> Packed:
    """Return a matrix [out, in] in a form that multiplies it where it lies, or else a copy."""
    out, width = matrix.shape
    fits = matrix.is_contiguous() and width * matrix.element_size() % LINE == 0
    behind = matrix.data_ptr() % LINE // matrix.element_size() if fits else 0
    threads = torch.get_num_threads()
    way = _plain(out, width, matrix.dtype, matrix.device, behind, threads)
    return _as_it_lies(matrix, way) if fits else formed(matrix, way)


def _as_it_lies(matrix: Tensor, way: Way) -> Packed:
    return Packed(matrix, matrix.new_empty(1).expand(matrix.shape), way)


def _at_a_line(matrix: Tensor) -> None:
    """Move a matrix unless it begins at a whole cache line."""
    if not matrix.is_contiguous() or matrix.data_ptr() % LINE:
        matrix.data = matrix.detach().clone(memory_format=torch.contiguous_format)


def _one_below_the_other(parts: Sequence[Tensor]) -> Tensor:
    """Return matrices of one width as one; unless they lie so, they are moved."""
    heights, first = [len(part) for part in parts], parts[0].detach()
    width, place = first.shape[1], first.data_ptr()
    storage = first.untyped_storage().data_ptr()
    lies_so = place % LINE == 0
    for part in parts:
        beside = part.untyped_storage().data_ptr() == storage and part.data_ptr() == place
        lies_so = lies_so and beside and part.is_contiguous()
        place += part.numel() * part.element_size()
    if lies_so:
        return first.as_strided((sum(heights), width), (width, 1))
    whole = first.new_empty((sum(heights), width))
    for part, own in zip(parts, torch.split(whole, heights), strict=True):
        own.copy_(part.detach())
        part.data = own
    return whole


@cache
def _plain(
    out: int, width: int, dtype: torch.dtype, device: torch.device, behind: int, threads: int
) -> Way:
    """Return the way that takes a matrix as it lies, so many values behind a line.

    Says so if rows are not their own in it, which is true of so many `threads`.
    """
    del threads
    *_, way = ways(dtype, device)
    weight, rows = cancelling(out, width, dtype, device)
    if behind:
        room = weight.new_empty(weight.numel() + behind)
        tried = _as_it_lies(room[behind:].view(weight.shape).copy_(weight), way)
    else:
        tried = formed(weight, way)
    if not holds(tried, rows):
        warnings.warn(
            f"plain products of {dtype} rows with a weight [{out}, {width}] on {device} depend on "
            "the rows beside them: self-speculation may differ from AR",
            stacklevel=4,
        )
    return way
