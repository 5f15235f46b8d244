"""The training text: the standard library's own source, and a split by paths alone.

Every machine with the same Python release sees the same files, in the same order, on the same side
of the split. A held-out file is seen by neither the tokenizer's training nor the model's.
"""

import hashlib
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

EXCLUDED_FOLDERS = frozenset(
    {
        "site-packages",
        "dist-packages",
        "__pycache__",
        "lib2to3",
        "idlelib",
        "pydoc_data",
        "encodings",
    }
)
"""Third-party code, generated tables and text that is not the style of the rest."""

HELD_OUT_SHARE = 32
"""One file in this many is held out."""

LARGEST_FILE = 400_000
"""Longer files, in bytes, are tables of test data rather than programs."""


@dataclass(frozen=True)
class SourceFile:
    """One Python file: its path relative to the corpus root, with forward slashes, and its text."""

    path: str
    text: str


def stdlib_root() -> Path:
    """Return the folder of the running interpreter's standard library."""
    return Path(sysconfig.get_path("stdlib"))


def is_held_out(path: str) -> bool:
    """Tell by a hash of its relative path alone whether a file is held out."""
    digest = hashlib.sha256(path.encode("utf-8")).digest()
    return int.from_bytes(digest[:8], "big") % HELD_OUT_SHARE == 0


def read_files(root: Path, *, held_out: bool) -> Iterator[SourceFile]:
    """Yield one side of the split in the order of the relative paths.

    Files that are not UTF-8, are empty, or are larger than `LARGEST_FILE` bytes are left out. A
    file whose text also occurs under a training path is not held out: a copy of it would be seen.

    Raises:
        FileNotFoundError: if `root` is no folder.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"no corpus folder at {root}")
    files = list(_all_files(root))
    seen = {file.text for file in files if not is_held_out(file.path)}
    for file in files:
        if is_held_out(file.path):
            if held_out and file.text not in seen:
                yield file
        elif not held_out:
            yield file


def _all_files(root: Path) -> Iterator[SourceFile]:
    paths = {path.relative_to(root).as_posix(): path for path in root.rglob("*.py")}
    for relative in sorted(paths):
        if EXCLUDED_FOLDERS.intersection(relative.split("/")):
            continue
        raw = paths[relative].read_bytes()
        if not raw.strip() or len(raw) > LARGEST_FILE:
            continue
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            continue
        yield SourceFile(relative, text)
