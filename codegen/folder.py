"""Write a folder whole or not at all."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

from nldc.runtime.abi import MANIFEST
from nldc.runtime.errors import ArtifactError

CACHE = "__pycache__"


def write_folder(out: Path, texts: Mapping[str, str]) -> Path:
    """Write files by name, or by `folder/name`, into `out`; an artifact that is there is replaced.

    Raises:
        ArtifactError: `out` is something else, or cannot be written.
    """
    try:
        _check_replaceable(out)
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as held:
            fresh = Path(held) / "new"
            fresh.mkdir()
            for name, text in texts.items():
                (fresh / name).parent.mkdir(exist_ok=True)
                (fresh / name).write_text(text, encoding="utf-8", newline="\n")
            if out.exists():
                out.rename(Path(held) / "old")
            fresh.rename(out)
    except OSError as problem:
        reason = problem.strerror or str(problem)
        raise ArtifactError(
            f"cannot write {out}: {reason.lower()}", "choose a folder that you may write: -o DIR"
        ) from problem
    return out


def _check_replaceable(out: Path) -> None:
    """Raise ArtifactError unless all that is in `out` was generated: the rest would be lost."""
    if out.exists() and not out.is_dir():
        raise ArtifactError(f"{out} is a file", "choose a folder: -o DIR")
    if not out.is_dir() or not any(out.iterdir()):
        return
    new = "choose a new folder: -o DIR"
    try:
        manifest = json.loads((out / MANIFEST).read_bytes())
        generated = {MANIFEST, *manifest["files"]} if "compiler" in manifest else None
    except (ValueError, KeyError, TypeError, RecursionError, FileNotFoundError):
        generated = None
    if generated is None:
        raise ArtifactError(f"{out} is not empty and holds no artifact", new)
    for file in sorted(out.rglob("*")):
        name = file.relative_to(out)
        if not file.is_dir() and name.as_posix() not in generated and CACHE not in name.parts:
            raise ArtifactError(f"{file} is no part of the artifact in {out}", "move it, or " + new)
