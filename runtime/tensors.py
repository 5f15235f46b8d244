"""Tensor files: safetensors opened memory-mapped, and checked before a tensor is believed.

A file's header is read here first, so that a truncated download is told from a file of another
kind, by name, whatever the safetensors library says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from nldc.runtime.errors import CheckpointError, NldcRuntimeError
from nldc.runtime.json_file import parse_json

LARGEST_HEADER = 100_000_000
FLOATS = ("F64", "F32", "F16", "BF16")
AGAIN = "download the file again"


@dataclass(frozen=True)
class TensorFile:
    """One safetensors file: the shape of every tensor, and the tensors on demand."""

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    error: type[NldcRuntimeError]
    _handle: Any

    @staticmethod
    def open(path: Path, error: type[NldcRuntimeError] = CheckpointError) -> TensorFile:
        """Open `path` and check its header.

        Raises:
            NldcRuntimeError: of the type `error`: missing, truncated, no safetensors file, or a
                tensor that is not of floats.
        """
        header = _header(path, error)
        shapes: dict[str, tuple[int, ...]] = {}
        for name, entry in header.items():
            if entry["dtype"] not in FLOATS:
                raise error(
                    f"{path}: tensor `{name}` holds {entry['dtype']}",
                    "use the unquantised checkpoint, in one of " + ", ".join(FLOATS),
                )
            shapes[name] = tuple(entry["shape"])
        try:
            handle = safe_open(path, framework="pt")
        except (OSError, SafetensorError) as problem:
            raise error(f"{path} is damaged: {problem}", AGAIN) from problem
        return TensorFile(path, shapes, error, handle)

    def read(self, name: str) -> Tensor:
        """Return a tensor as the file holds it; on the CPU its memory is the file's."""
        try:
            tensor: Tensor = self._handle.get_tensor(name)
        except SafetensorError as problem:
            raise self.error(
                f"{self.path}: tensor `{name}` is damaged: {problem}", AGAIN
            ) from problem
        return tensor

    def expect(self, name: str, shape: tuple[int, ...], hint: str) -> None:
        """Raise, with `hint`, unless the file holds `name` in that shape."""
        if name not in self.shapes:
            raise self.error(f"{self.path}: tensor `{name}` is missing", hint)
        if self.shapes[name] != shape:
            raise self.error(
                f"{self.path}: tensor `{name}` has the shape {list(self.shapes[name])}, "
                f"not {list(shape)}",
                hint,
            )


def _header(path: Path, error: type[NldcRuntimeError]) -> Mapping[str, Any]:
    foreign = error(
        f"{path} is no safetensors file", "give weights in safetensors format, not a pickle"
    )
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8:
                raise error(f"{path} is truncated: {size} bytes", AGAIN)
            if length > LARGEST_HEADER:
                raise foreign
            text = file.read(length)
    except FileNotFoundError:
        raise error(f"{path} is missing", "give the folder of a complete checkpoint") from None
    except OSError as problem:
        raise error(
            f"{path} cannot be read: {(problem.strerror or str(problem)).lower()}", AGAIN
        ) from problem
    if not text.startswith(b"{"):
        raise foreign
    if len(text) < length:
        raise error(f"{path} is truncated inside its header", AGAIN)
    try:
        header = dict(parse_json(text))
    except (ValueError, TypeError):
        raise foreign from None
    header.pop("__metadata__", None)
    for name, entry in header.items():
        if not _is_entry(entry):
            raise error(f"{path} is damaged: its header describes tensor {name!r} wrongly", AGAIN)
    ends = {name: entry["data_offsets"][1] for name, entry in header.items()}
    last = max(ends, key=lambda name: ends[name], default=None)
    if last is not None and 8 + length + ends[last] > size:
        raise error(
            f"{path} is truncated: tensor `{last}` ends at byte {8 + length + ends[last]}, "
            f"the file at {size}",
            AGAIN,
        )
    return header


def _is_entry(entry: object) -> bool:
    """Whether this is what a header says of a tensor: a dtype, a shape, and two places."""
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
        return False
    return all(
        isinstance(numbers, list)
        and all(type(number) is int and 0 <= number < 2**63 for number in numbers)
        and len(numbers) in lengths
        for numbers, lengths in (
            (entry.get("shape"), range(9)),
            (entry.get("data_offsets"), (2,)),
        )
    )


DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


def dtype_of(name: str | torch.dtype) -> torch.dtype:
    """Return the dtype of that name.

    Raises:
        CheckpointError: no dtype that the backbone computes in.
    """
    if name in DTYPES.values() and isinstance(name, torch.dtype):
        return name
    if isinstance(name, str) and name in DTYPES:
        return DTYPES[name]
    raise CheckpointError(f"dtype {name!r} is not supported", "use " + ", ".join(DTYPES))
