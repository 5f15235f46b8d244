"""Pictures as commands are given them: files beside a text, and files that prompts name.

A file that stands in a file of prompts is looked for beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nldc.runtime.errors import PromptError

_HINT = 'write {"prompt": "…", "images": ["a.png"]}'

if TYPE_CHECKING:
    from nldc.runtime.vision.picture import PicturePrompt


def with_pictures(text: Any, given: Any, folder: Path = Path()) -> PicturePrompt:
    """Return a text with pictures, files or data URIs, where it says `<image>`, or before it.

    Raises:
        PromptError: one is none, or the text has another number of places.
    """
    from nldc.runtime.vision.picture import Picture, PicturePrompt

    if not isinstance(given, list | tuple) or not all(isinstance(each, str) for each in given):
        raise PromptError("images are no list of files", _HINT)
    if not isinstance(text, str):
        raise PromptError("images go with a prompt of text", _HINT)
    return PicturePrompt.of(text, [Picture.of(_found(each, folder)) for each in given])


def beside(messages: Sequence[Any], folder: Path) -> list[Any]:
    """Return messages whose pictures, where they are files, are those beside a file in `folder`."""
    return [_message(each, folder) for each in messages]


def _message(message: Any, folder: Path) -> Any:
    content = message.get("content") if isinstance(message, Mapping) else None
    if not isinstance(content, list):
        return message
    return {**message, "content": [_part(each, folder) for each in content]}


def _part(part: Any, folder: Path) -> Any:
    if not isinstance(part, Mapping) or part.get("type") != "image":
        return part
    files = {key: part[key] for key in ("image", "path") if isinstance(part.get(key), str)}
    return {**part, **{key: _found(each, folder) for key, each in files.items()}}


def _found(name: str, folder: Path) -> str:
    """Return the place of a file; what is an address stays as it is."""
    from nldc.runtime.vision.picture import is_address

    return name if is_address(name) else str(folder / name)
