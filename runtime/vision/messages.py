"""Conversations with pictures: what of them the chat template is told, and the pictures in order.

The template writes one start for each part that is a picture; the tokens between are put there when
the text has become tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nldc.runtime.errors import PromptError
from nldc.runtime.json_file import texts_of
from nldc.runtime.vision.picture import Picture, is_address
from nldc.runtime.vision.rows import MARKS

Message = Mapping[str, Any]
KINDS = ("image", "image_url")
PART = {"type": "image"}
"""What a template is told of a picture."""
_HINT = 'write {"type": "image", "image": …}, or {"type": "image_url", "image_url": {"url": …}}'


def _parts(message: Any) -> Sequence[Any]:
    content = message.get("content") if isinstance(message, Mapping) else None
    if not isinstance(content, Sequence) or isinstance(content, str | bytes):
        return ()
    return content


def _is_picture(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") in KINDS


def taken_out(messages: Sequence[Message], name: str) -> tuple[list[Message], list[Picture]]:
    """Return messages whose parts no longer hold pictures, and the pictures, in order.

    `name` is what errors call the prompt.

    Raises:
        PromptError: a part holds none that can be used.
    """
    found: list[Picture] = []
    plain: list[Message] = []
    for number, message in enumerate(messages):
        parts = _parts(message)
        if not any(map(_is_picture, parts)):
            plain.append(message)
            continue
        if isinstance(message, Mapping) and message.get("role") == "system":
            raise PromptError(f"{name} has a picture in a system message", "give it to the user")
        content: list[Any] = []
        for part in parts:
            if not _is_picture(part):
                content.append(part)
                continue
            place = f"picture {len(found)} of {name}"
            found.append(Picture.of(_source(part, f"messages[{number}]", place), place))
            content.append(PART)
        plain.append({**message, "content": content})
    return plain, found


def _source(part: Mapping[str, Any], where: str, place: str) -> Any:
    """Return what a part of a message gives as its picture."""
    given = [key for key in ("image", "image_url", "path", "url") if part.get(key) is not None]
    if len(given) != 1:
        raise PromptError(f"{where}: {place} is not there, or there twice", _HINT)
    value = part[given[0]]
    if given[0] == "image_url" and isinstance(value, Mapping):
        value = value.get("url")
    has_address = given[0] in ("image_url", "url")
    if value is None or (has_address and not isinstance(value, str)):
        raise PromptError(f"{where}: {place} has no address", _HINT)
    if has_address and not is_address(value):
        raise PromptError(f"{where}: {place} has an address that is none", _HINT)
    return value


def check_no_marks(value: Any, name: str) -> None:
    """Raise PromptError if a text spells a token that stands for part of a picture."""
    for text in texts_of(value):
        found = next((mark for mark in MARKS if mark in text), None)
        if found is not None:
            raise PromptError(
                f"{name} spells `{found}`, which stands for part of a picture",
                "leave it out: the pictures are put where they belong",
            )
