"""Files of pictures: every mode and format that is read, and whatever a stranger may send."""

from __future__ import annotations

import os
import random
import struct
import tracemalloc
import warnings
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nldc.runtime.errors import PromptError
from nldc.runtime.vision import picture as module
from nldc.runtime.vision.picture import MOST_PIXELS, Picture, digest_of
from nldc.runtime.vision.pixels import Pixels

Image = pytest.importorskip("PIL.Image")
FORMATS = ("PNG", "JPEG", "WEBP")


def drawn(width: int = 20, height: int = 13) -> Any:
    rng = np.random.default_rng(width)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def saved(image: Any, kind: str = "PNG", **options: Any) -> bytes:
    out = BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def seen(data: bytes) -> Pixels:
    return Picture.of_bytes(data).pixels()


def refusal(data: bytes) -> str:
    with pytest.raises(PromptError) as caught:
        seen(data)
    return caught.value.message


# Modes


@pytest.mark.parametrize("kind", FORMATS)
def test_each_format_is_read_as_pillow_reads_it(kind: str) -> None:
    data = saved(drawn(), kind)
    assert np.array_equal(seen(data), np.asarray(Image.open(BytesIO(data)).convert("RGB")))
    found = Picture.of_bytes(data)
    assert (found.width, found.height) == (20, 13)


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "RGBA", "LA", "I;16"])
def test_each_mode_becomes_three_channels(mode: str) -> None:
    if mode == "I;16":
        array = np.arange(6, dtype=np.uint16).reshape(2, 3) * 10_000
        found = seen(saved(Image.fromarray(array)))
        assert found[..., 0].tolist() == (array >> 8).tolist()
        return
    image = drawn().convert(mode)
    data = saved(image, "JPEG" if mode == "CMYK" else "PNG")
    assert np.array_equal(seen(data), np.asarray(Image.open(BytesIO(data)).convert("RGB")))


def test_what_is_transparent_lies_on_white() -> None:
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, :, 3] = [0, 255, 128]
    found = seen(saved(Image.fromarray(pixels)))
    assert found[0, :2].tolist() == [[255, 255, 255], [0, 0, 0]]
    assert found[0, 2].tolist() == pytest.approx([127, 127, 127], abs=1)
    grey = np.array([[[9, 0], [9, 255]]], np.uint8)
    assert seen(saved(Image.fromarray(grey)))[0, :, 0].tolist() == [255, 9]
    palette = Image.new("P", (2, 1))
    palette.putpixel((1, 0), 1)
    palette.putpalette([10, 20, 30, 40, 50, 60])
    for clear in (0, b"\x00\xff"):  # one colour, and a degree for each
        found = seen(saved(palette, transparency=clear))
        assert found.tolist() == [[[255, 255, 255], [40, 50, 60]]]


def test_a_picture_is_not_turned_as_its_exif_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    found = Picture.of_bytes(saved(drawn(), "JPEG", exif=exif))
    assert (found.width, found.height) == (20, 13)
    assert np.array_equal(found.pixels(), seen(saved(drawn(), "JPEG")))


def test_of_a_moving_picture_the_first_is_seen() -> None:
    frames = [drawn(), Image.new("RGB", (20, 13), "red")]
    for kind in ("PNG", "WEBP"):
        options = {"lossless": True} if kind == "WEBP" else {}
        data = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert np.array_equal(seen(data), np.asarray(frames[0]))


def test_a_digest_names_what_is_shown_and_nothing_else() -> None:
    one, other = drawn(20, 13), drawn(13, 20)
    assert digest_of(seen(saved(one))) == digest_of(seen(saved(one, "WEBP", lossless=True)))
    flat = np.zeros((2, 6, 3), np.uint8)
    assert digest_of(flat) != digest_of(flat.reshape(3, 4, 3))
    assert digest_of(seen(saved(one))) != digest_of(seen(saved(other)))


# What is refused


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the picture is empty"),
        (b"hello", "no picture of a kind that is read"),
        (b"GIF89a\x01\x00\x01\x00", "no picture of a kind that is read"),
        (b"BM" + bytes(60), "no picture of a kind that is read"),
        (b"II*\x00" + bytes(60), "no picture of a kind that is read"),
        (b"%!PS-Adobe-3.0 EPSF", "no picture of a kind that is read"),
        (b"RIFF\x00\x00\x00\x00WAVEfmt ", "no picture of a kind that is read"),
        (b"\x89PNG\r\n\x1a\n", "cannot be decoded"),
        (b"\xff\xd8\xff", "cannot be decoded"),
        (b"RIFF\x00\x00\x00\x00WEBP", "cannot be decoded"),
    ],
)
def test_what_is_no_picture_is_refused_in_words(data: bytes, message: str) -> None:
    assert message in refusal(data)


def chunk(name: bytes, data: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(name + data))
    return struct.pack(">I", len(data)) + name + data + check


def bomb(width: int, height: int, packed: bytes) -> bytes:
    """A PNG of so many pixels, all zero if `packed` holds as many."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("width", "height"),
    [(8193, 8193), (MOST_PIXELS + 1, 1), (1, MOST_PIXELS + 1), (60_000, 60_000), (2**31 - 1, 2)],
)
def test_a_bomb_is_refused_by_its_head_without_memory(width: int, height: int) -> None:
    data = bomb(width, height, zlib.compress(bytes(100_000)))
    tracemalloc.start()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert f"{width} by {height} pixels" in refusal(data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def riff(kind: bytes, head: bytes) -> bytes:
    inside = b"WEBP" + kind + struct.pack("<I", len(head)) + head
    return b"RIFF" + struct.pack("<I", len(inside)) + inside


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (riff(b"VP8X", bytes(4) + b"\xff\xff\x00\xff\xff\x00"), "65536 by 65536"),
        (riff(b"VP8X", bytes(4) + b"\xff\xff\xff\x00\x00\x00"), "16777216 by 1 "),
        (riff(b"VP8L", b"\x2f" + struct.pack("<I", 16382 | 16382 << 14) + bytes(8)), "16383 by"),
        (riff(b"VP8 ", b"\0\0\0\x9d\x01\x2a" + struct.pack("<HH", 16383, 9000)), "16383 by 9000"),
        (
            saved(drawn(), "JPEG").replace(struct.pack(">HH", 13, 20), b"\xff\xff\xff\xfe"),
            "65534 by",
        ),
    ],
)
def test_bombs_of_other_formats_are_refused_by_their_heads(data: bytes, size: str) -> None:
    """Of a WebP the size is read here, since pillow takes memory for it when it opens a file."""
    found = refusal(data)
    assert size in found
    assert "a picture may have" in found


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"exif": b"Exif\0\0" + bytes(20)}])
@pytest.mark.parametrize("size", [(1, 1), (300, 7), (16, 1000)])
def test_the_size_in_the_head_of_a_webp_is_that_of_the_picture(
    size: tuple[int, int], options: dict[str, Any]
) -> None:
    data = saved(drawn(*size), "WEBP", **options)
    assert module._size_of_webp(data, "a") == Image.open(BytesIO(data)).size == size


def test_a_jpeg_of_thousands_of_scans_is_refused_before_it_is_decoded() -> None:
    whole = saved(drawn(), "JPEG", progressive=True)
    start = whole.index(b"\xff\xda")
    scan = whole[start : whole.index(b"\xff", start + 14)]
    assert "more than 64 scans" in refusal(whole[:start] + scan * 5000 + whole[start:])
    assert whole.count(b"\xff\xda") < 20


def test_a_file_whose_texts_unpack_to_much_is_refused_without_memory() -> None:
    text = b"Comment\0\0" + zlib.compress(bytes(20 << 20))
    whole = saved(drawn())
    data = whole[:33] + chunk(b"zTXt", text) + whole[33:]
    tracemalloc.start()
    try:
        assert "cannot be decoded" in refusal(data)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_a_file_without_its_pixels_is_refused_and_takes_no_time() -> None:
    assert "cannot be decoded" in refusal(bomb(4000, 4000, zlib.compress(b"\0" * 10)))


def test_files_that_are_too_large_or_no_files_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 100)
    (tmp_path / "a.png").write_bytes(saved(drawn()))
    with pytest.raises(PromptError, match="is larger than"):
        Picture.read(tmp_path / "a.png")
    with pytest.raises(PromptError, match="is larger than"):
        Picture.of_url("data:;base64," + "A" * 400)
    with pytest.raises(PromptError, match="is a directory"):
        Picture.read(tmp_path)
    with pytest.raises(PromptError, match="no such file"):
        Picture.read(tmp_path / "none.png")
    with pytest.raises(PromptError, match="cannot read"):
        Picture.read("a\0b")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(PromptError, match="is no plain file"):
        Picture.read(tmp_path / "pipe.png")


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 2), np.uint8),
        np.zeros((2, 2, 4), np.uint8),
        np.zeros((2, 2, 3), np.float32),
        np.zeros((0, 2, 3), np.uint8),
    ],
)
def test_arrays_that_are_no_pictures_are_refused(array: Any) -> None:
    with pytest.raises(PromptError, match="give uint8"):
        Picture.of_pixels(array)


def test_without_pillow_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise ImportError(name)

    data = saved(drawn())
    monkeypatch.setattr(module, "import_module", absent)
    with pytest.raises(PromptError, match=r"pillow is needed \(install the extra"):
        Picture.of_bytes(data)
    assert "no picture of a kind" in refusal(b"text")


def test_what_cannot_become_an_array_is_refused() -> None:
    class Elsewhere:
        def __array__(self, *_: Any, **__: Any) -> Any:
            raise TypeError("it is on a device")

    with pytest.raises(PromptError, match="it is on a device"):
        Picture.of(Elsewhere())


def test_a_picture_of_an_array_does_not_change_with_it() -> None:
    array = np.zeros((2, 2, 3), np.uint8)
    found = Picture.of_pixels(array)
    array[:] = 9
    assert found.pixels().max() == 0


# Hostile files


def changed(whole: bytes, draw: random.Random) -> bytes:
    """A file cut short, with bytes changed, taken out, doubled, or numbers made extreme."""
    data = bytearray(whole)
    for _ in range(draw.randint(1, 4)):
        place = draw.randrange(len(data))
        kind = draw.randrange(6)
        if kind == 0:
            del data[place:]
        elif kind == 1:
            data[place] = draw.randrange(256)
        elif kind == 2:
            del data[place : place + draw.randint(1, 40)]
        elif kind == 3:
            data[place:place] = data[place : place + draw.randint(1, 40)]
        elif kind == 4:
            data[place : place + 4] = draw.choice([b"\xff" * 4, bytes(4), b"\x7f" + b"\xff" * 3])
        else:
            data[place:place] = draw.randbytes(draw.randint(1, 40))
        if not data:
            break
    return bytes(data)


def files(kind: str) -> Iterator[bytes]:
    options: dict[str, list[dict[str, Any]]] = {
        "PNG": [{}, {"pnginfo": None}, {"optimize": True}],
        "JPEG": [{}, {"progressive": True}, {"quality": 20}],
        "WEBP": [{}, {"lossless": True}, {"save_all": True, "append_images": [drawn()]}],
    }
    for each in options[kind]:
        yield saved(drawn(), kind, **each)
    if kind == "PNG":
        yield saved(drawn().convert("P"), transparency=3)
        yield saved(drawn().convert("RGBA"), save_all=True, append_images=[drawn()])


def fuzzed(kind: str, count: int) -> int:
    """Read so many changed files; return how many were pictures still."""
    draw, whole = random.Random(7), list(files(kind))
    fine = 0
    for number in range(count):
        data = changed(whole[number % len(whole)], draw)
        if kind == "PNG" and draw.random() < 0.5:
            data = with_right_sums(data)
        try:
            found = Picture.of_bytes(data)
            if found.width * found.height > 1 << 20:
                continue
            pixels = found.pixels()
        except PromptError:
            continue
        assert pixels.shape == (found.height, found.width, 3)
        assert pixels.dtype == np.uint8
        fine += 1
    return fine


def with_right_sums(data: bytes) -> bytes:
    """A PNG whose checksums are right, so that what was changed is looked at."""
    out, place = bytearray(data[:8]), 8
    while place + 12 <= len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        name, own = data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
        out += chunk(name, own)
        place += 12 + len(own)
    return bytes(out)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("kind", FORMATS)
def test_changed_files_are_pictures_or_refused_in_words(kind: str) -> None:
    fuzzed(kind, 250)


@pytest.mark.long
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("kind", FORMATS)
def test_very_many_changed_files_are_pictures_or_refused_in_words(kind: str) -> None:
    assert fuzzed(kind, 20_000) > 0
