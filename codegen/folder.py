"""Write a folder whole or not at all."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nldc.runtime.abi import FILE_NAME, MANIFEST
from nldc.runtime.errors import ArtifactError
from nldc.runtime.files import put_folder
from nldc.runtime.json_file import read_json

CACHE = "__pycache__"
BYTECODE = re.compile(r"[\w.-]+\.pyc(\.\d+)?", re.ASCII)
NEW = "choose a new folder: -o DIR"
_DIGEST = re.compile(r"[0-9a-f]{64}")


def write_folder(out: Path, files: Mapping[str, str | bytes]) -> Path:
    """Write files by name, or by `folder/name`, into `out`; an artifact that is there is replaced.

    Text is written in UTF-8 as it is.

    Whatever fails or interrupts it, `out` is then the whole old folder or the whole new one.

    Raises:
        ArtifactError: `out` is something else, or cannot be written.
    """

    def fill(folder: Path) -> None:
        for name, content in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            data = content.encode() if isinstance(content, str) else content
            (folder / name).write_bytes(data)

    with _in_words(out):
        generated = _replaceable(out)
        out.parent.mkdir(parents=True, exist_ok=True)
        put_folder(out, fill, generated)
    return out


def check_folder(out: Path) -> None:
    """Check that `out` may be written, before the work for it is done.

    Raises:
        ArtifactError: it is something else than an artifact or an empty folder.
    """
    with _in_words(out):
        _replaceable(out)


@contextmanager
def _in_words(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        reason = problem.strerror or str(problem)
        raise ArtifactError(
            f"cannot write {out}: {reason[:1].lower()}{reason[1:]}",
            "choose a folder that you may write: -o DIR",
        ) from problem
    except ValueError as problem:  # a name with a null byte
        raise ArtifactError(f"cannot write {out}: {problem}", "choose another name") from problem


def _replaceable(out: Path) -> frozenset[str]:
    """Return what lies in `out`, if all of it was generated: the rest would be lost.

    Raises:
        ArtifactError: something was not.
    """
    if out.is_symlink():
        raise ArtifactError(
            f"{out} is a link, which would be replaced", "give the folder itself: -o DIR"
        )
    if out.exists() and not out.is_dir():
        raise ArtifactError(f"{out} is a file", "choose a folder: -o DIR")
    if not out.is_dir() or not any(out.iterdir()):
        return frozenset()
    generated = _generated(out)
    if generated is None:
        raise ArtifactError(f"{out} is not empty and holds no artifact", NEW)
    folders = {name.rpartition("/")[0] for name in generated}
    found = set()
    for name, entry in _entries(out):
        parent, _, last = name.rpartition("/")
        if entry.is_dir(follow_symlinks=False):
            is_own = name in folders or (last == CACHE and parent in folders)
        else:
            place, _, cache = parent.rpartition("/")
            is_bytecode = (
                cache == CACHE and place in folders and BYTECODE.fullmatch(last) is not None
            )
            is_own = entry.is_file(follow_symlinks=False) and (name in generated or is_bytecode)
        if not is_own:
            raise ArtifactError(
                f"{out / name} is no part of the artifact in {out}", f"move it, or {NEW}"
            )
        found.add(name)
    return frozenset(found)


def _generated(out: Path) -> frozenset[str] | None:
    """Return the files that the artifact in `out` lists; None: there is none.

    A manifest of something else is told by its keys, its digests, and that none of them fits.
    """
    try:
        if (out / MANIFEST).is_symlink() or not (out / MANIFEST).is_file():
            return None
        manifest: Any = read_json(out / MANIFEST)
    except (OSError, ValueError):
        return None
    keys = {"abi", "compiler", "strategy", "guarantee", "files"}
    if not isinstance(manifest, dict) or not keys <= set(manifest):
        return None
    files = manifest["files"]
    if not isinstance(files, dict) or not {"__init__.py", "decode.py"} <= set(files):
        return None
    if not all(FILE_NAME.fullmatch(name) for name in files):
        return None
    if not all(isinstance(digest, str) and _DIGEST.fullmatch(digest) for digest in files.values()):
        return None
    if not any(_is_as_generated(out / name, digest) for name, digest in files.items()):
        return None
    return frozenset({MANIFEST, *files})


def _is_as_generated(file: Path, digest: str) -> bool:
    try:
        is_file = file.is_file() and not file.is_symlink()
        return is_file and hashlib.sha256(file.read_bytes()).hexdigest() == digest
    except OSError:
        return False


def _entries(out: Path, below: str = "") -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield everything below `out` by its name, in order, without following a link."""
    for entry in sorted(os.scandir(out / below), key=lambda entry: entry.name):
        name = f"{below}/{entry.name}" if below else entry.name
        yield name, entry
        if entry.is_dir(follow_symlinks=False):
            yield from _entries(out, name)
