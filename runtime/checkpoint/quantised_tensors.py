"""The tensors that hold one quantised weight: names and shapes, and how they are read.

Beside `X.weight_packed` (int32 [out, in * bits / 32]) and `X.weight_scale` (floats [out, groups])
lie `X.weight_shape` (two int64) and, if 0 is not the middle number, `X.weight_zero_point` (int32
[out * bits / 32, groups], packed down the rows). Files of `nldc import-gguf` may have, in place of
that, `X.weight_shift` (floats [out, groups]): what the number 0 without sign is worth.

Floats of 8 bits are `X.weight` itself (F8_E4M3 [out, in]) beside `X.weight_scale`, floats [out,
groups], or one for all of the matrix.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from nldc.runtime.checkpoint.quantization import Kind
from nldc.runtime.checkpoint.tensors import AGAIN, FLOAT8, FLOATS, TensorFile
from nldc.runtime.errors import CheckpointError
from nldc.runtime.invariant.quantised import (
    BITS,
    WORD,
    Quantised,
    packed,
    packed_floats,
    unpacked,
)

PACKED, SCALE, ZERO, SHIFT, SHAPE = "_packed", "_scale", "_zero_point", "_shift", "_shape"
"""What follows the name `X.weight` of the weight."""
PARTS = (PACKED, SCALE, ZERO, SHIFT, SHAPE)


@dataclass(frozen=True)
class QuantisedTensors:
    """The tensors of one weight `name` of `shape`, which were found to fit one another.

    `floating`: `name` itself is one of them, floats of 8 bits.
    """

    name: str
    shape: tuple[int, int]
    bits: int
    files: Mapping[str, TensorFile]
    floating: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors that there are of it."""
        if self.floating:
            return self.name, self.name + SCALE
        return tuple(self.name + part for part in PARTS if self.name + part in self.files)

    def read(self, dtype: torch.dtype, device: torch.device) -> Quantised:
        """Return the weight, to be computed with in `dtype`.

        Raises:
            CheckpointError: a tensor cannot be read, or says something else than its header.
        """
        name, files = self.name, self.files
        if self.floating:
            return self._read_floats(dtype, device)
        told = self._read(SHAPE)
        if told is not None and tuple(told.tolist()) != self.shape:
            raise CheckpointError(
                f"{files[name + SHAPE].path}: `{name}{SHAPE}` holds {told.tolist()}, "
                f"not {list(self.shape)}",
                AGAIN,
            )
        words = files[name + PACKED].read_as_stored(name + PACKED)
        scale = self._read_scale()
        shift = self._read(SHIFT)
        zeros = self._read(ZERO)
        if zeros is not None:
            # packed down the rows, so that a group's zeros follow one another
            found = unpacked(zeros.T.contiguous(), self.bits, self.shape[0]).T
            shift = -(found.float() + (1 << (self.bits - 1))) * scale.float()
        return Quantised(
            words.to(device),
            scale.to(device),
            None if shift is None else shift.to(device),
            self.bits,
            self.shape,
            dtype,
        )

    def _read_floats(self, dtype: torch.dtype, device: torch.device) -> Quantised:
        file = self.files[self.name]
        numbers = file.read_as_stored(self.name)
        if bool((numbers.view(torch.uint8) & 0x7F == 0x7F).any()):
            raise CheckpointError(
                f"{file.path}: `{self.name}` holds values that are no numbers", AGAIN
            )
        scale = self._read_scale()
        if scale.numel() == 1:  # a matrix's one scale is that of each of its rows
            scale = scale.reshape(1, 1).repeat(self.shape[0], 1)
        words = packed_floats(numbers)
        own = words.to(device), scale.to(device), None, self.bits, self.shape, dtype
        return Quantised(*own, floating=True)

    def _read_scale(self) -> Tensor:
        name = self.name + SCALE
        scale = self.files[name].read_as_stored(name)
        if not bool(scale.isfinite().all()):
            raise CheckpointError(
                f"{self.files[name].path}: `{name}` holds values that are no numbers", AGAIN
            )
        return scale

    def _read(self, part: str) -> Tensor | None:
        name = self.name + part
        return self.files[name].read_as_stored(name) if name in self.files else None


def is_quantised(name: str, files: Mapping[str, TensorFile]) -> bool:
    """Whether the weight `name` is there in packed numbers or floats of 8 bits."""
    return _is_floats(name, files) or (name not in files and name + PACKED in files)


def _is_floats(name: str, files: Mapping[str, TensorFile]) -> bool:
    return name in files and files[name].entries[name].format == FLOAT8


def find(
    name: str,
    shape: tuple[int, ...],
    files: Mapping[str, TensorFile],
    kinds: Collection[Kind],
) -> QuantisedTensors:
    """Return the tensors of a weight of this shape that `is_quantised`; `kinds` are the config's.

    Raises:
        CheckpointError: one is missing, or does not fit the shape or any of the kinds.
    """
    floating = _is_floats(name, files)
    if len(shape) != 2:
        path = files[name if floating else name + PACKED].path
        raise CheckpointError(f"{path}: `{name}` is no matrix, and quantised", AGAIN)
    out, width = shape
    if floating:
        return _find_floats(name, (out, width), files, kinds)
    words = _entry(name + PACKED, files, ("I32",))
    fitting = [bits for bits in BITS if words == (out, -(-width * bits // WORD))]
    if not fitting:
        raise CheckpointError(
            f"{files[name + PACKED].path}: tensor `{name}{PACKED}` has the shape {list(words)}, "
            f"which is none of {list(shape)} in {' or '.join(map(str, BITS))} bits",
            "does it belong to the model? " + AGAIN,
        )
    bits = fitting[0]
    scales = _entry(name + SCALE, files, tuple(FLOATS))
    _check_scales(name, scales, (out, width), files)
    for part, formats, want in (
        (ZERO, ("I32",), (-(-out * bits // WORD), scales[1])),
        (SHIFT, tuple(FLOATS), scales),
        (SHAPE, ("I64", "I32"), (2,)),
    ):
        if name + part in files and _entry(name + part, files, formats) != want:
            raise CheckpointError(
                f"{files[name + part].path}: tensor `{name}{part}` is not of the shape "
                f"{list(want)}",
                AGAIN,
            )
    _check_kind(name, bits, files, kinds)
    return QuantisedTensors(name, (out, width), bits, files)


def _find_floats(
    name: str, shape: tuple[int, int], files: Mapping[str, TensorFile], kinds: Collection[Kind]
) -> QuantisedTensors:
    path = files[name].path
    if not any(kind.floating for kind in kinds):
        raise CheckpointError(
            f"{path}: `{name}` holds {FLOAT8}, and config.json describes no weights of type float",
            "do the two belong together? " + AGAIN,
        )
    found = files[name].entries[name].shape
    if found != shape:
        raise CheckpointError(
            f"{path}: tensor `{name}` has the shape {list(found)}, not {list(shape)}",
            "does it belong to the model? " + AGAIN,
        )
    scales = _entry(name + SCALE, files, tuple(FLOATS))
    if prod(scales) != 1:
        _check_scales(name, scales, shape, files)
    return QuantisedTensors(name, shape, 8, files, floating=True)


def _check_scales(
    name: str, scales: tuple[int, ...], shape: tuple[int, int], files: Mapping[str, TensorFile]
) -> None:
    if len(scales) != 2 or scales[0] != shape[0] or not scales[1] or shape[1] % scales[1]:
        raise CheckpointError(
            f"{files[name + SCALE].path}: tensor `{name}{SCALE}` has the shape {list(scales)}, "
            f"which does not divide {list(shape)} into groups",
            AGAIN,
        )


def _check_kind(
    name: str, bits: int, files: Mapping[str, TensorFile], kinds: Collection[Kind]
) -> None:
    """Refuse zeros that are not there, or that the config denies: all numbers would be off."""
    described = {kind.symmetric for kind in kinds if kind.bits == bits and not kind.floating}
    zeros = [name + part for part in (ZERO, SHIFT) if name + part in files]
    where = f"{files[name + PACKED].path}: `{name}` "
    if not described:
        problem = f"has {bits} bits, and config.json describes no weights of so many"
    elif described == {False} and not zeros:
        problem = f"lacks its tensor `{name}{ZERO}`; config.json has symmetric false"
    elif described == {True} and zeros:
        problem = f"has the tensor `{zeros[0]}`, and config.json has symmetric true"
    elif len(zeros) > 1:
        problem = f"has both `{zeros[0]}` and `{zeros[1]}`, which contradict each other"
    else:
        return
    raise CheckpointError(where + problem, "do the two belong together? " + AGAIN)


def _entry(name: str, files: Mapping[str, TensorFile], formats: tuple[str, ...]) -> tuple[int, ...]:
    if name not in files:
        raise CheckpointError(f"tensor `{name}` is in none of the weight files", AGAIN)
    entry = files[name].entries[name]
    if entry.format not in formats:
        raise CheckpointError(
            f"{files[name].path}: tensor `{name}` holds {entry.format}, not {formats[0]}", AGAIN
        )
    return entry.shape


def tensors_of(
    name: str, numbers: Tensor, bits: int, scale: Tensor, zero: Tensor | None
) -> dict[str, Tensor]:
    """Return the tensors to store of a weight: numbers [out, in], zeros int8 [out, groups].

    Numbers are int8, or floats of 8 bits.
    """
    if numbers.is_floating_point():
        return {name: numbers, name + SCALE: scale.contiguous()}
    found = {
        name + PACKED: packed(numbers, bits),
        name + SCALE: scale.contiguous(),
        name + SHAPE: torch.tensor(numbers.shape, dtype=torch.int64),
    }
    if zero is not None:
        found[name + ZERO] = packed(zero.T.contiguous(), bits).T.contiguous()
    return found
