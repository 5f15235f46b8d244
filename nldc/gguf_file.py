"""Read a GGUF file: its fields as plain values, its tensors dequantised one at a time.

The header is read here, byte by byte and never past the end, so that a truncated or damaged file is
named as such instead of being half understood; the gguf package knows the quantised formats.
"""

from __future__ import annotations

import math
import mmap
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nldc.runtime.errors import CheckpointError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MAGIC = b"GGUF"
VERSIONS = (2, 3)
SCALARS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q",
    12: "<d",
}  # fmt: skip
STRING, ARRAY = 8, 9
AGAIN = "download the file again"
PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)
"""The name of one file of a split model, as llama.cpp writes it."""


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies: shape with the slowest dimension first, GGUF type, first byte in `data`.

    `data` is the file that holds it, of several if the model was split.
    """

    shape: tuple[int, ...]
    type_id: int
    start: int
    data: mmap.mmap


@dataclass(frozen=True)
class GgufFile:
    """An open GGUF file, or all the files of a model that was split."""

    path: Path
    fields: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]

    @staticmethod
    def open(path: Path) -> GgufFile:
        """Open `path` and read its header; of a split model, all its files beside one another.

        Raises:
            CheckpointError: the gguf package is missing, or a file is missing, of another kind,
                truncated or damaged, or not a part of the same model.
        """
        file = GgufFile._open_one(path)
        count = file.fields.get("split.count", 0)
        if count in (0, 1):
            return file
        named = PART.fullmatch(path.name)
        if type(count) is not int or named is None or int(named[3]) != count:
            raise CheckpointError(
                f"{path} is one part of a split model of {count}, and its name does not say which",
                "name the parts MODEL-00001-of-NNNNN.gguf as they were, side by side",
            )
        paths = [
            path.with_name(f"{named[1]}-{number:05}-of-{count:05}.gguf")
            for number in range(1, count + 1)
        ]
        missing = [part.name for part in paths if not part.exists()]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise CheckpointError(
                f"{path} is one part of a split model of {count}: {missing[0]}{more} is missing",
                "put all its parts into one folder",
            )
        return _joined(path, [file if part == path else GgufFile._open_one(part) for part in paths])

    @staticmethod
    def _open_one(path: Path) -> GgufFile:
        """Open `path` and read its header.

        Raises:
            CheckpointError: the gguf package is missing, or the file is missing, of another kind,
                truncated or damaged.
        """
        try:
            import gguf  # noqa: F401
        except ImportError:
            raise CheckpointError(
                "reading GGUF files needs the gguf package", "pip install nldc[gguf]"
            ) from None
        try:
            with path.open("rb") as file:
                if file.read(len(MAGIC)) != MAGIC:
                    raise CheckpointError(
                        f"{path} is no GGUF file", "a GGUF file begins with the letters GGUF"
                    )
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError:
            raise CheckpointError(f"{path} is missing", "give the path of a GGUF file") from None
        except OSError as problem:
            raise CheckpointError(
                f"{path} cannot be read: {problem.strerror}", "give the path of a GGUF file"
            ) from problem
        try:
            fields, tensors = _header(_Reader(data, len(MAGIC)))
        except _DamagedError as problem:
            raise CheckpointError(f"{path} is {problem}", AGAIN) from None
        return GgufFile(path, fields, tensors)

    def format_of(self, name: str) -> str:
        """Return what a tensor's type is called, such as Q4_1."""
        from gguf import GGMLQuantizationType

        type_id = self.tensors[name].type_id
        try:
            return str(GGMLQuantizationType(type_id).name)
        except ValueError:
            return f"type {type_id}"

    def check(self, name: str) -> None:
        """Raise unless a tensor can be read: all its bytes are there, in a known format.

        Raises:
            CheckpointError: what is wrong with it.
        """
        import gguf
        import numpy

        info = self.tensors[name]
        foreign = CheckpointError(
            f"tensor `{name}` is stored as {self.format_of(name)}, which cannot be dequantised",
            "take a file that is quantised in another way, such as Q8_0",
        )
        try:
            kind = gguf.GGMLQuantizationType(info.type_id)
            block, width = gguf.GGML_QUANT_SIZES[kind]
            gguf.dequantize(numpy.zeros((1, width), numpy.uint8), kind)
        except (ValueError, KeyError, NotImplementedError):
            raise foreign from None
        if info.shape[-1] % block:
            raise CheckpointError(f"the rows of tensor `{name}` are no multiple of {block}", AGAIN)
        end = info.start + math.prod(info.shape) // block * width
        if end > len(info.data):
            raise CheckpointError(
                f"the file is truncated: tensor `{name}` ends at byte {end}, "
                f"the file at {len(info.data)}",
                AGAIN,
            )

    def read(self, name: str) -> npt.NDArray[np.float32]:
        """Return a tensor that `check` found readable, in float32, as a copy."""
        import gguf
        import numpy

        info = self.tensors[name]
        kind = gguf.GGMLQuantizationType(info.type_id)
        values = gguf.dequantize(self.read_stored(name), kind)
        return numpy.array(values, dtype=numpy.float32).reshape(info.shape)

    def read_stored(self, name: str) -> npt.NDArray[np.uint8]:
        """Return the bytes of a tensor that `check` found readable, a row of it in each row."""
        import gguf
        import numpy

        info = self.tensors[name]
        block, width = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(info.type_id)]
        length = math.prod(info.shape) // block * width
        raw = numpy.frombuffer(info.data, numpy.uint8, length, info.start)
        return raw.reshape(*info.shape[:-1], -1)


def _joined(path: Path, parts: Sequence[GgufFile]) -> GgufFile:
    """Return the files of a split model as one; the first holds the fields of the model."""
    tensors: dict[str, TensorInfo] = {}
    for number, part in enumerate(parts):
        fields = part.fields
        if fields.get("split.count") != len(parts) or fields.get("split.no") != number:
            raise CheckpointError(
                f"{part.path} says that it is part {fields.get('split.no')!r} of "
                f"{fields.get('split.count')!r}, counted from 0, not {number} of {len(parts)}",
                "the files belong to several models; " + AGAIN,
            )
        for name, info in part.tensors.items():
            if name in tensors:
                raise CheckpointError(f"{part.path} holds tensor `{name}` again", AGAIN)
            tensors[name] = info
    fields = parts[0].fields
    said = fields.get("split.tensors.count", len(tensors))
    if said != len(tensors):
        raise CheckpointError(
            f"{path}: the parts hold {len(tensors)} tensors, not {said!r} as the first says", AGAIN
        )
    return GgufFile(path, fields, tensors)


class _DamagedError(Exception):
    """The header cannot be understood; says what the file is."""


@dataclass
class _Reader:
    data: mmap.mmap
    place: int

    def take(self, length: int) -> bytes:
        end = self.place + length
        if end > len(self.data):
            raise _DamagedError(f"truncated inside its header, at byte {len(self.data)}")
        taken = self.data[self.place : end]
        self.place = end
        return taken

    def scalar(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def text(self) -> str:
        try:
            return self.take(self.scalar("<Q")).decode()
        except UnicodeDecodeError:
            raise _DamagedError("damaged: a text in its header is not UTF-8") from None

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.text()
        if kind == ARRAY:
            item, count = self.scalar("<I"), self.scalar("<Q")
            form = SCALARS.get(item)
            if form is not None:
                raw = self.take(count * struct.calcsize(form))
                return list(struct.unpack(f"<{count}{form[1]}", raw))
            if item == STRING:
                return [self.text() for _ in range(count)]
            kind = item
        if kind not in SCALARS:
            raise _DamagedError(f"damaged: its header names a field of the type {kind}")
        return self.scalar(SCALARS[kind])


def _header(reader: _Reader) -> tuple[dict[str, Any], dict[str, TensorInfo]]:
    version = reader.scalar("<I")
    if version not in VERSIONS:
        raise _DamagedError(f"of GGUF version {version}; versions 2 and 3 can be read")
    tensor_count, field_count = reader.scalar("<Q"), reader.scalar("<Q")
    fields: dict[str, Any] = {}
    for _ in range(field_count):
        name = reader.text()
        fields[name] = reader.value(reader.scalar("<I"))
    found: dict[str, tuple[tuple[int, ...], int, int]] = {}
    for _ in range(tensor_count):
        name = reader.text()
        dimensions = reader.scalar("<I")
        if not 1 <= dimensions <= 4 or name in found:
            raise _DamagedError(f"damaged: tensor `{name}` is described wrongly")
        shape = tuple(reader.scalar("<Q") for _ in range(dimensions))[::-1]
        found[name] = (shape, reader.scalar("<I"), reader.scalar("<Q"))
    alignment = fields.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment <= 0:
        raise _DamagedError(f"damaged: its alignment is {alignment!r}")
    data = reader.place + -reader.place % alignment
    return fields, {
        name: TensorInfo(shape, type_id, data + offset, reader.data)
        for name, (shape, type_id, offset) in found.items()
    }
