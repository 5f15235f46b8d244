"""A picture of a prompt: a file's bytes or pixels, of which at first the size alone is read.

PNG, JPEG and WebP are read, as their first bytes say; how large one is stands in its head, and is
looked at before anything is decoded. Imports no torch, and pillow only when a file is opened.
"""

from __future__ import annotations

import base64
import binascii
import os
import stat
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import numpy as np

from nldc.runtime.errors import PromptError, is_out_of_memory
from nldc.runtime.vision.pixels import Pixels

MOST_BYTES = 64 << 20
"""Of a file."""
MOST_PIXELS = 1 << 26
"""Of a picture: decoding takes up to sixteen bytes for each."""
MOST_SIDE = 1 << 20
FORMATS: Mapping[bytes, tuple[str, str]] = {
    b"\x89PNG\r\n\x1a\n": ("PngImagePlugin", "PngImageFile"),
    b"\xff\xd8\xff": ("JpegImagePlugin", "JpegImageFile"),
    b"RIFF": ("WebPImagePlugin", "WebPImageFile"),
}
"""What files begin with, and the class of pillow that reads them."""
MOST_SCANS = 64
"""Of a JPEG: each takes time as all pixels do, and hardly any bytes; cameras write some ten."""
SCAN = b"\xff\xda"
_PIXELS = "give uint8 [height, width, 3]"
FORMAT_HINT = "give a PNG, a JPEG or a WebP"
NEEDS_PILLOW = "install the extra: pip install 'nldc[vision]'"
_DECODING = threading.Lock()
"""One picture is decoded at a time, so that the memory for it is that of one."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture that is `width` pixels wide and `height` high; `name` is what errors call it.

    `source` are the bytes of a file, or its pixels, uint8 [height, width, 3]; `key` is a digest of
    either.
    """

    width: int
    height: int
    source: bytes | Pixels
    name: str
    key: bytes

    @staticmethod
    def read(path: str | Path, name: str | None = None) -> Picture:
        """Return the picture in a file.

        Raises:
            PromptError: it cannot be read, is too large, or is no picture of a kind that is read.
        """
        name = f"`{path}`" if name is None else name
        try:
            with open(path, "rb", opener=_at_once) as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise PromptError(f"{name} is no plain file", FORMAT_HINT)
                data = file.read(MOST_BYTES + 1)
        except (OSError, ValueError) as problem:
            reason = getattr(problem, "strerror", None) or str(problem)
            raise PromptError(f"cannot read {name}: {reason.lower()}", None) from None
        return Picture.of_bytes(data, name)

    @staticmethod
    def of_bytes(data: bytes, name: str = "the picture") -> Picture:
        """Return the picture that the bytes of a file are; see `read`."""
        if len(data) > MOST_BYTES:
            raise PromptError(f"{name} is larger than {MOST_BYTES >> 20} MiB", "make it smaller")
        width, height = _size(data, name)
        check_size(width, height, name)
        return Picture(width, height, data, name, blake2b(data, digest_size=32).digest())

    @staticmethod
    def of_url(url: str, name: str = "the picture") -> Picture:
        """Return the picture in a data URI; nothing is ever fetched.

        Raises:
            PromptError: it is another address, or holds no picture.
        """
        head, comma, text = url.partition(",")
        if head[:5].lower() != "data:" or not comma:
            raise PromptError(
                f"{name} is an address, and nothing is fetched",
                "give the picture itself, as data:image/png;base64,…",
            )
        if len(text) > 2 * MOST_BYTES:
            raise PromptError(f"{name} is larger than {MOST_BYTES >> 20} MiB", "make it smaller")
        try:
            data = unquote_to_bytes(text)
            if head.lower().endswith(";base64"):
                data = base64.b64decode(data, validate=True)
            return Picture.of_bytes(data, name)
        except (binascii.Error, UnicodeEncodeError) as problem:
            raise PromptError(f"{name} is no data URI: {problem}", None) from None

    @staticmethod
    def of_pixels(pixels: Any, name: str = "the picture") -> Picture:
        """Return the picture of an array of whole numbers of 8 bits, [height, width, 3].

        Raises:
            PromptError: it is another array, or too large.
        """
        try:
            array = np.asarray(pixels)
        except Exception as problem:  # of what is on a device, or an array in name only
            raise PromptError(f"{name} is no array: {problem}", _PIXELS) from None
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
            raise PromptError(
                f"{name} is an array {list(array.shape)} of {array.dtype}",
                _PIXELS,
            )
        height, width = array.shape[:2]
        check_size(width, height, name)
        own = np.array(array, order="C")
        return Picture(width, height, own, name, digest_of(own))

    @staticmethod
    def of(given: Any, name: str = "the picture") -> Picture:
        """Return a picture given as one, as a path, the bytes of a file, an image of pillow, or an
        array.

        Raises:
            PromptError: it is none of these, or cannot be used.
        """
        if isinstance(given, Picture):
            return given
        if isinstance(given, str | Path):
            if isinstance(given, str) and is_address(given):
                return Picture.of_url(given, name)
            return Picture.read(given)
        if isinstance(given, bytes | bytearray):
            return Picture.of_bytes(bytes(given), name)
        if hasattr(given, "convert") and hasattr(given, "mode"):
            width, height = given.size
            check_size(width, height, name)
            return Picture.of_pixels(np.asarray(_decoded(given, name)), name)
        if hasattr(given, "__array__"):
            return Picture.of_pixels(given, name)
        raise PromptError(
            f"{name} is of the type {type(given).__name__}",
            "give a path, the bytes of a file, an image of pillow, or an array",
        )

    def pixels(self) -> Pixels:
        """Return the pixels, uint8 [height, width, 3]; what is transparent lies on white.

        Raises:
            PromptError: the file is damaged.
        """
        if not isinstance(self.source, bytes):
            return self.source
        with _DECODING:
            opened = _opened(_maker(self.source, self.name), self.source, self.name)
            return np.asarray(_decoded(opened, self.name))


def is_address(text: str) -> bool:
    """Whether a text is an address, of whatever kind, and not the name of a file."""
    return text[:5].lower() == "data:" or "://" in text[:16]


def _at_once(path: str, flags: int) -> int:
    """Open a file without waiting for whoever is at the other end, if it is a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def digest_of(pixels: Pixels) -> bytes:
    """Return what names a picture by what it shows: its size and its pixels."""
    found = blake2b(repr(pixels.shape).encode(), digest_size=32)
    found.update(np.ascontiguousarray(pixels).data)
    return found.digest()


def check_size(width: int, height: int, name: str) -> None:
    """Raise PromptError if a picture has no pixels, or more than are decoded."""
    if width < 1 or height < 1:
        raise PromptError(f"{name} has no pixels", FORMAT_HINT)
    if width * height > MOST_PIXELS or max(width, height) > MOST_SIDE:
        raise PromptError(
            f"{name} is {width} by {height} pixels; a picture may have {MOST_PIXELS}, and "
            f"{MOST_SIDE} on a side",
            "make it smaller: of more than 1400 on a side, nothing is seen",
        )


def _size(data: bytes, name: str) -> tuple[int, int]:
    """Return the width and height of the picture in a file, as its head has them."""
    maker = _maker(data, name)
    if data.startswith(b"RIFF"):
        return _size_of_webp(data, name)  # to open one takes the memory of its pixels
    if data.startswith(b"\xff\xd8") and data.count(SCAN) > MOST_SCANS:
        raise PromptError(f"{name} comes in more than {MOST_SCANS} scans", "save it anew")
    width, height = _opened(maker, data, name).size
    return width, height


def _maker(data: bytes, name: str) -> Any:
    """Return the class of pillow that reads a file, of one of the formats."""
    kind = next((each for start, each in FORMATS.items() if data.startswith(start)), None)
    if kind is None or (data.startswith(b"RIFF") and data[8:12] != b"WEBP"):
        what = "empty" if not data else "no picture of a kind that is read"
        raise PromptError(f"{name} is {what}", FORMAT_HINT)
    try:
        return getattr(import_module(f"PIL.{kind[0]}"), kind[1])
    except ImportError:
        raise PromptError("to read pictures, pillow is needed", NEEDS_PILLOW) from None


def _opened(maker: Any, data: bytes, name: str) -> Any:
    """Return an image of pillow whose head was read."""
    try:
        return maker(BytesIO(data))
    except Exception as problem:  # whatever a decoder meets in a stranger's file
        raise _damaged(problem, name) from None


def _size_of_webp(data: bytes, name: str) -> tuple[int, int]:
    """Return the width and height that stand in the head of a WebP, of each of its three kinds."""

    def number(first: int, count: int) -> int:
        return int.from_bytes(data[first : first + count], "little")

    kind, bits = data[12:16], number(21, 4)
    if kind == b"VP8X" and len(data) >= 30:
        return number(24, 3) + 1, number(27, 3) + 1
    if kind == b"VP8L" and data[20:21] == b"\x2f" and len(data) >= 25:
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a" and len(data) >= 30:
        return number(26, 2) & 0x3FFF, number(28, 2) & 0x3FFF
    raise PromptError(f"{name} cannot be decoded: it is no WebP", "save it anew")


def _decoded(image: Any, name: str) -> Any:
    """Return an image of pillow in RGB, over white where it is transparent, not turned by EXIF."""
    try:
        if image.mode == "RGB":
            image.load()
            return image
        if image.mode.startswith("I"):  # of 16 bits a pixel, the upper ones
            high = np.asarray(image).astype(np.int64) >> 8
            image = import_module("PIL.Image").fromarray(high.clip(0, 255).astype(np.uint8))
        whole = image if image.mode == "RGBA" else image.convert("RGBA")
        white = import_module("PIL.Image").new("RGBA", whole.size, "WHITE")
        white.paste(whole, (0, 0), whole)
        return white.convert("RGB")
    except Exception as problem:  # whatever a decoder meets in a stranger's file
        raise _damaged(problem, name) from None


def _damaged(problem: Exception, name: str) -> PromptError:
    if is_out_of_memory(problem):
        return PromptError(f"there is no memory to decode {name}", "make it smaller")
    said = " ".join(str(problem).split())[:200] or type(problem).__name__
    return PromptError(f"{name} cannot be decoded: {said}", "save it anew")


PLACE = "<image>"
"""Stands in a text where a picture goes."""


@dataclass(frozen=True)
class PicturePrompt:
    """A prompt of texts and pictures, in their order."""

    parts: tuple[str | Picture, ...]

    @staticmethod
    def of(text: str, pictures: Sequence[Picture]) -> PicturePrompt:
        """Return a prompt whose pictures stand where its text says `<image>`, or before it.

        Raises:
            PromptError: the text has another number of places.
        """
        pieces = text.split(PLACE)
        if len(pieces) == 1:
            return PicturePrompt((*pictures, *([text] if text else [])))
        if len(pieces) - 1 != len(pictures):
            raise PromptError(
                f"places {PLACE} in the prompt: {len(pieces) - 1}; pictures: {len(pictures)}",
                f"write {PLACE} once for each, or not at all: pictures then come first",
            )
        parts: list[str | Picture] = []
        for piece, picture in zip(pieces, [*pictures, None], strict=True):
            parts += [piece] if piece else []
            parts += [] if picture is None else [picture]
        return PicturePrompt(tuple(parts))

    def check(self, name: str) -> None:
        """Raise PromptError, naming the prompt, unless every part is a text or a picture."""
        for part in self.parts:
            if not isinstance(part, str | Picture):
                raise PromptError(
                    f"{name} has a part of the type {type(part).__name__}",
                    "a part is text, or a Picture",
                )

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """The pictures, in order."""
        return tuple(each for each in self.parts if isinstance(each, Picture))

    def message(self) -> dict[str, Any]:
        """Return the user's message that has these parts."""
        return {"role": "user", "content": [_part(each) for each in self.parts]}


def _part(part: str | Picture) -> dict[str, Any]:
    if isinstance(part, Picture):
        return {"type": "image", "image": part}
    return {"type": "text", "text": part}
