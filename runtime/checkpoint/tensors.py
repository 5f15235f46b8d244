"""Tensor files: safetensors, checked before a tensor is believed, and read by copying.

A file's header is read and checked here, so that whatever is wrong with it is said by name. Tensors
are read, not mapped: a file that is replaced, rewritten or cut afterwards changes no weight, and
what a model takes is what its weights take. One that changes between two reads is an error.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from nldc.runtime.errors import CheckpointError, NldcRuntimeError
from nldc.runtime.json_file import parse_json

LARGEST_HEADER = 100_000_000
CHUNK = 1 << 22
"""Values that are converted at a time; more would only take memory."""
FLOATS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
FLOAT8 = "F8_E4M3"
STORED = {"I64": torch.int64, "I32": torch.int32, FLOAT8: torch.float8_e4m3fn}
"""What else is read as it is stored: whole numbers, and floats that mean nothing by themselves."""
WIDTHS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("I8", "U8", "BOOL", FLOAT8, "F8_E5M2", "F8_E8M0"), 1),
}
"""Bytes a value takes; what a format that is not listed takes is not checked."""
AGAIN = "download the file again"
POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class Entry:
    """One tensor of a file: its format there, its shape, and its first byte and the one behind."""

    format: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class TensorFile:
    """One safetensors file: what every tensor is, and the tensors on demand.

    `state` tells whether the file is still the one whose header was read.
    """

    path: Path
    entries: Mapping[str, Entry]
    error: type[NldcRuntimeError]
    state: tuple[int, ...]

    @staticmethod
    def open(path: Path, error: type[NldcRuntimeError] = CheckpointError) -> TensorFile:
        """Read the header of `path` and check it.

        Raises:
            NldcRuntimeError: of the type `error`: missing, truncated, damaged, or no safetensors
                file.
        """
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                raise error(f"{path} is no file", "give the folder of a complete checkpoint")
            with path.open("rb") as file:
                state = _state(file)
                return TensorFile(path, _entries(file, path, state[0], error), error, state)
        except FileNotFoundError:
            raise error(f"{path} is missing", "give the folder of a complete checkpoint") from None
        except OSError as problem:
            raise error(
                f"{path} cannot be read: {(problem.strerror or str(problem)).lower()}", AGAIN
            ) from problem

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors of the file, in its order."""
        return tuple(self.entries)

    def read(
        self, name: str, dtype: torch.dtype, device: torch.device, out: Tensor | None = None
    ) -> Tensor:
        """Return a copy of a tensor in that dtype on that device, written into `out` if given.

        `out` is contiguous, of the tensor's size, in the dtype and on the device.

        Raises:
            NldcRuntimeError: the tensor is not of floats, or the file was changed meanwhile.
        """
        entry = self._floats(name)
        if out is None:
            out = torch.empty(entry.shape, dtype=dtype, device=device)
        self._read(name, entry, FLOATS[entry.format], out)
        return out

    def read_as_stored(self, name: str) -> Tensor:
        """Return a copy of a tensor of `FLOATS` or `STORED` as it is in the file, on the CPU.

        Raises:
            NldcRuntimeError: the tensor is of another format, or the file was changed meanwhile.
        """
        entry = self.entries[name]
        kind = STORED.get(entry.format) or FLOATS[self._floats(name).format]
        out = torch.empty(entry.shape, dtype=kind)
        self._read(name, entry, kind, out)
        return out

    def _read(self, name: str, entry: Entry, kind: torch.dtype, out: Tensor) -> None:
        values = out.view(-1)
        try:
            with self.path.open("rb", buffering=0) as file:
                if _state(file) != self.state:
                    raise self._changed()
                file.seek(entry.start)
                if out.device.type == "cpu" and out.dtype == kind:
                    self._fill(file, values)
                else:
                    room = torch.empty(min(CHUNK, len(values)), dtype=kind)
                    for start in range(0, len(values), CHUNK):
                        part = values[start : start + CHUNK]
                        self._fill(file, room[: len(part)])
                        part.copy_(room[: len(part)])
        except OSError as problem:
            raise self.error(
                f"{self.path}: tensor `{name}` cannot be read: {problem.strerror}", AGAIN
            ) from problem

    def expect(self, name: str, shape: tuple[int, ...], hint: str) -> None:
        """Raise, with `hint` where the shape differs, unless `name` is there, floats of a shape."""
        if name not in self.entries:
            raise self.error(f"{self.path}: tensor `{name}` is missing", hint)
        if self._floats(name).shape != shape:
            raise self.error(
                f"{self.path}: tensor `{name}` has the shape {list(self.entries[name].shape)}, "
                f"not {list(shape)}",
                hint,
            )

    def _floats(self, name: str) -> Entry:
        entry = self.entries[name]
        if entry.format not in FLOATS:
            raise self.error(
                f"{self.path}: tensor `{name}` holds {entry.format}",
                "use the unquantised checkpoint, in one of " + ", ".join(FLOATS),
            )
        return entry

    def _fill(self, file: Any, values: Tensor) -> None:
        """Read as many bytes as `values` take on the CPU, straight into their memory."""
        if not len(values):
            return
        room: Any = memoryview(values.view(torch.uint8).numpy())  # type: ignore[arg-type]
        while len(room):
            count = file.readinto(room)
            if not count:
                raise self._changed()
            room = room[count:]

    def _changed(self) -> NldcRuntimeError:
        return self.error(
            f"{self.path} was changed while it was read", "load it when it is complete"
        )


def _state(file: BinaryIO | Any) -> tuple[int, ...]:
    found = os.fstat(file.fileno())
    return found.st_size, found.st_mtime_ns, found.st_ino, found.st_dev


def _entries(
    file: BinaryIO, path: Path, size: int, error: type[NldcRuntimeError]
) -> dict[str, Entry]:
    """Return what the header says of every tensor, or raise what is wrong with it."""
    foreign = error(
        f"{path} is no safetensors file", "give weights in safetensors format, not a pickle"
    )
    length = int.from_bytes(file.read(8), "little")
    if size < 8:
        raise error(f"{path} is truncated: {size} bytes", AGAIN)
    if length > LARGEST_HEADER:
        file.seek(0)
        if file.read(len(POINTER)) == POINTER:
            raise error(
                f"{path} is no safetensors file but a pointer of Git LFS", "run git lfs pull"
            )
        raise foreign
    text = file.read(length)
    if not text.startswith(b"{"):
        raise foreign
    if len(text) < length:
        raise error(f"{path} is truncated inside its header", AGAIN)
    try:
        header = parse_json(text)
    except ValueError as problem:
        raise error(f"{path} is damaged: its header is no JSON: {problem}", AGAIN) from problem
    first, entries = 8 + length, {}
    for name, described in header.items():
        if name == "__metadata__":
            continue
        entry = _entry(described, first)
        if entry is None:
            raise error(
                f"{path} is damaged: its header describes the tensor `{name}` wrongly", AGAIN
            )
        entries[name] = entry
    last = max(entries, key=lambda name: entries[name].stop, default=None)
    if last is not None and entries[last].stop > size:
        raise error(
            f"{path} is truncated: tensor `{last}` ends at byte {entries[last].stop}, "
            f"the file at {size}",
            AGAIN,
        )
    _check_tiling(entries, path, first, size, error)
    return entries


def _entry(described: Any, first: int) -> Entry | None:
    """Return what the header says of one tensor, or None where that is nonsense."""
    if not isinstance(described, Mapping):
        return None
    form: Any = described.get("dtype")
    shape: Any = described.get("shape")
    offsets: Any = described.get("data_offsets")
    if not isinstance(form, str) or not _is_whole(shape) or not _is_whole(offsets):
        return None
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        return None
    if form in WIDTHS and offsets[1] - offsets[0] != prod(shape) * WIDTHS[form]:
        return None
    return Entry(form, tuple(shape), first + offsets[0], first + offsets[1])


def _is_whole(values: Any) -> bool:
    return isinstance(values, list) and all(
        type(value) is int and 0 <= value < 2**63 for value in values
    )


def _check_tiling(
    entries: Mapping[str, Entry], path: Path, first: int, size: int, error: type[NldcRuntimeError]
) -> None:
    """Raise unless the tensors fill the file, each byte belonging to one of them."""
    place = first
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)):
        if entry.start != place:
            what = "overlaps another" if entry.start < place else "does not follow the one before"
            raise error(f"{path} is damaged: tensor `{name}` {what}", AGAIN)
        place = entry.stop
    if place != size:
        raise error(f"{path} is damaged: {size - place} bytes at its end are no tensor's", AGAIN)


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


def stored_dtype(entries: Iterator[Entry]) -> torch.dtype:
    """Return the dtype of the most bytes among tensors of floats; float32 where there are none."""
    bytes_of: dict[str, int] = {}
    for entry in entries:
        if entry.format in FLOATS:
            bytes_of[entry.format] = bytes_of.get(entry.format, 0) + entry.stop - entry.start
    most = max(bytes_of, key=lambda form: bytes_of[form], default="F32")
    return FLOATS[most]
