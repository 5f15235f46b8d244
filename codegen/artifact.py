"""A builder of artifacts: files by name, closed by a manifest with the digest of each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from nldc.diagnostics import InternalError
from nldc.runtime.abi import FILE_NAME, MANIFEST


class Builder:
    """Collects the files of one artifact; `seal` closes it."""

    def __init__(self) -> None:
        self._files: dict[str, bytes] = {}
        self._sealed = False

    def add(self, name: str, content: str | bytes) -> None:
        """Add a file, by its name or by `folder/name`; text is written in UTF-8 as it is.

        Raises:
            InternalError: the artifact is sealed, has such a file already (some file systems do not
                tell names apart by case), or cannot have one of this name.
        """
        if self._sealed:
            raise InternalError(f"{name} comes after the artifact was sealed")
        if not FILE_NAME.fullmatch(name) or name == MANIFEST:
            raise InternalError(f"{name} is no name of an artifact's file")
        if name.casefold() in {other.casefold() for other in self._files}:
            raise InternalError(f"there are two files {name} in one artifact")
        self._files[name] = content.encode() if isinstance(content, str) else content

    def add_data(self, name: str, data: Any) -> None:
        """Add plain data as JSON; see `add`."""
        self.add(name, _json(data))

    def seal(self, manifest: Mapping[str, Any]) -> dict[str, bytes]:
        """Return all files, the manifest with every other's digest among them.

        Nothing can be added afterwards.

        Raises:
            InternalError: the artifact is sealed already.
        """
        if self._sealed:
            raise InternalError("an artifact was sealed twice")
        self._sealed = True
        digests = {
            name: hashlib.sha256(content).hexdigest()
            for name, content in sorted(self._files.items())
        }
        return {**self._files, MANIFEST: _json({**manifest, "files": digests}).encode()}


def _json(data: Any) -> str:
    return json.dumps(data, indent=2, ensure_ascii=True) + "\n"
