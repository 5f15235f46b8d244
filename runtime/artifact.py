"""A generated folder read once and held against its manifest, before any of its code runs.

An artifact belongs to one version of the compiler and is not edited: the strategy file is. It is
code all the same, and whoever can write the folder can write a manifest that fits: load only what
you trust. Imports no torch.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nldc import __version__
from nldc.runtime.abi import ABI_VERSION, FILE_NAME, MANIFEST
from nldc.runtime.errors import ArtifactError
from nldc.runtime.json_file import parse_json

COMPILE = "compile the strategy first: nldc compile STRATEGY.yaml -o FOLDER"
AGAIN = "compile the strategy again: nldc compile STRATEGY.yaml -o FOLDER"
AFRESH = (
    "remove the folder, or compile the strategy again into a new one: "
    "nldc compile STRATEGY.yaml -o NEW_FOLDER"
)
"""The remedy where `nldc compile` would not know the folder for an artifact, and not replace it."""
REMOVE = "nothing of it was run; remove it, or compile into a new folder"

BYTECODE = "__pycache__"
LOG = logging.getLogger("nldc")
LARGEST_FILE = 1 << 26
_OWN_BYTECODE = re.compile(r"__init__\.[\w.-]+\.pyc(\.\d+)?", re.ASCII)
"""What Python leaves behind when an artifact is imported with `import`; `load` never reads it."""


@dataclass(frozen=True)
class Artifact:
    """A folder as it was verified: the manifest, and the bytes of every file that it lists."""

    folder: Path
    manifest: Mapping[str, Any]
    files: Mapping[str, bytes]


def check_artifact(folder: str | Path) -> dict[str, Any]:
    """Return the manifest of the artifact in `folder`; see `read_artifact`."""
    return dict(read_artifact(folder).manifest)


def read_artifact(folder: str | Path) -> Artifact:
    """Read every file of the artifact in `folder` once; what runs later is these bytes.

    Raises:
        ArtifactError: no artifact, one of another compiler version, a file that is missing or not
            as it was generated, or anything in the folder that the manifest does not list: code,
            bytecode, a library, a folder, a link.
    """
    root = Path(folder)
    path = root / MANIFEST
    if root.is_file():
        raise ArtifactError(f"{folder} is a file; an artifact is a folder", COMPILE)
    try:
        text = _read(path)
    except (FileNotFoundError, NotADirectoryError):
        raise ArtifactError(f"{folder} holds no artifact: {MANIFEST} is missing", COMPILE) from None
    except (OSError, ValueError) as problem:
        raise _damaged(path, problem) from problem
    manifest, files = _parsed(path, text)
    compiler, abi = manifest["compiler"], manifest["abi"]
    if compiler != __version__:
        raise ArtifactError(
            f"{folder} was compiled by nldc {compiler}; this is nldc {__version__}", AGAIN
        )
    if abi != ABI_VERSION:
        raise ArtifactError(
            f"{folder} was compiled for runtime interface {abi}; this runtime has {ABI_VERSION}",
            AGAIN,
        )
    try:
        for name, what in _foreign(root, {MANIFEST, *files}):
            raise ArtifactError(f"{root / name} is {what} of {path}", REMOVE)
    except OSError as problem:
        raise ArtifactError(f"{root} cannot be read: {_reason(problem)}", AFRESH) from problem
    found = {n: _verified(root / n, d) for n, d in sorted(files.items())}
    LOG.info("artifact %s: %d files, as they were written", root, len(found))
    return Artifact(root, manifest, found)


def _parsed(path: Path, text: bytes) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the data of a manifest, and the digests that it lists, or raise ArtifactError."""
    try:
        manifest = parse_json(text)
        if not isinstance(manifest, dict):
            raise ValueError("it is no mapping")
        for key in ("compiler", "abi", "files"):
            manifest[key]
        files = manifest["files"]
        missing = sorted({"strategy", "guarantee"} - set(manifest))
        if missing:
            raise ValueError(f"it lacks {', '.join(missing)}")
        if not isinstance(files, dict) or not all(map(FILE_NAME.fullmatch, files)):
            raise ValueError("it lacks names of files")
        if not all(isinstance(digest, str) for digest in files.values()):
            raise ValueError("it lacks digests of files")
        _check_parts(manifest, files)
    except KeyError as problem:
        raise _damaged(path, f"it lacks {problem}") from None
    except ValueError as problem:
        raise _damaged(path, problem) from problem
    return manifest, files


def _check_parts(manifest: Mapping[str, Any], files: Mapping[str, str]) -> None:
    """Raise ValueError unless what commands read of a manifest has the shape that they expect."""
    if not isinstance(manifest["strategy"], str) or not isinstance(manifest["guarantee"], dict):
        raise ValueError("its strategy or guarantee is of another kind")
    parts = manifest.get("strategies", {})
    if not isinstance(parts, dict) or not all(
        isinstance(part, dict)
        and f"{part.get('folder')}/{MANIFEST}" in files
        and isinstance(part.get("guarantee"), dict)
        for part in parts.values()
    ):
        raise ValueError("its strategies are of another kind")


def _foreign(root: Path, listed: set[str]) -> Iterator[tuple[str, str]]:
    """Yield what lies in the folder without being listed, by its name below `root`, and what it is.

    The traces of a plain `import` do not count: nothing reads them here.
    """
    folders = {name.rpartition("/")[0] for name in listed if "/" in name}
    for base in ("", *sorted(folders)):
        try:
            entries = sorted(os.scandir(root / base), key=lambda entry: entry.name)
        except FileNotFoundError:
            continue  # then files that are listed are missing, which is said of the files
        for entry in entries:
            name = f"{base}/{entry.name}" if base else entry.name
            if entry.is_symlink():
                yield name, "a link, and not among the files"
            elif entry.is_dir():
                if entry.name == BYTECODE:
                    yield from _foreign_bytecode(root, name)
                elif name not in folders:
                    yield name, "a folder, and not among the files"
            elif name not in listed:
                yield name, "not among the files"


def _foreign_bytecode(root: Path, folder: str) -> Iterator[tuple[str, str]]:
    for entry in sorted(os.scandir(root / folder), key=lambda entry: entry.name):
        is_file = entry.is_file(follow_symlinks=False)
        if not is_file or not _OWN_BYTECODE.fullmatch(entry.name):
            yield f"{folder}/{entry.name}", "not among the files"


def _verified(file: Path, digest: str) -> bytes:
    try:
        data = _read(file)
    except FileNotFoundError:
        raise ArtifactError(f"{file} is missing", AGAIN) from None
    except (OSError, ValueError) as problem:
        raise ArtifactError(f"{file} cannot be read: {_reason(problem)}", AGAIN) from problem
    if hashlib.sha256(data).hexdigest() != digest:
        raise ArtifactError(
            f"{file} was edited by hand after it was generated",
            "change the strategy file and compile again; generated code is overwritten",
        )
    return data


def _read(path: Path) -> bytes:
    """Return the bytes of a plain file, neither through a link nor from a pipe.

    Raises:
        OSError, ValueError: it cannot be read, or is something else.
    """
    if path.is_symlink():
        raise ValueError("it is a link")
    flags = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with open(os.open(path, os.O_RDONLY | flags), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is no plain file")
        if status.st_size > LARGEST_FILE:
            raise ValueError(f"it has more than {LARGEST_FILE} bytes")
        return file.read(LARGEST_FILE + 1)


def _reason(problem: Exception) -> str:
    return str(getattr(problem, "strerror", None) or problem).lower()


def _damaged(path: Path, reason: object) -> ArtifactError:
    said = _reason(reason) if isinstance(reason, OSError) else reason
    return ArtifactError(f"{path} is damaged: {said}", AFRESH)
