"""The pictures of a conversation as requests give them: data URIs, and files if those are allowed.

Nothing is fetched from a network, and no file is read that does not lie below the operator's
folder, links followed. What is said of a file that is not read is the same whether or not it is
there.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from nldc.runtime.vision.picture import Picture
from nldc.serve.errors import ApiError, refused
from nldc.serve.protocol import ImagePart
from nldc.serve.settings import Settings

CODE = "unsupported_image_url"


def picture_of(part: ImagePart, place: str, settings: Settings) -> Picture:
    """Return the picture of a part; `place` is where its address stands in the body.

    Raises:
        ApiError: it may not be read.
        PromptError: it is none.
    """
    url = part.image_url.url
    if url[:5].lower() == "file:":
        return Picture.read(_file(url, place, settings), f"`{place}`")
    if url[:5].lower() != "data:":
        raise refused(
            f"`{place}` is an address, and nothing is fetched: give the picture itself, as "
            "data:image/png;base64,…",
            place,
            CODE,
        )
    return Picture.of_url(url, f"`{place}`")


def _file(url: str, place: str, settings: Settings) -> Path:
    if settings.picture_folder is None:
        raise refused(f"`{place}` is a file, and this server reads none", place, CODE)
    root = Path(settings.picture_folder).resolve()
    wrong: ApiError = refused(f"`{place}` is no file that this server reads", place, CODE)
    try:
        parts = urlsplit(url)
        path = (root / unquote(parts.path, errors="strict")).resolve()
        is_there = path.is_relative_to(root) and path.is_file()
    except (OSError, ValueError, RuntimeError):  # of names that are none, and links in a circle
        raise wrong from None
    if parts.netloc not in ("", "localhost") or not is_there:
        raise wrong
    return path
