"""Write a folder whole or not at all."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from nldc.runtime.abi import MANIFEST
from nldc.runtime.errors import ArtifactError


def write_folder(out: Path, texts: Mapping[str, str]) -> Path:
    """Write files by name, or by `folder/name`, into `out`; an artifact that is there is replaced.

    Raises:
        ArtifactError: `out` is something else, or cannot be written.
    """
    if out.exists() and not out.is_dir():
        raise ArtifactError(f"{out} is a file", "choose a folder: -o DIR")
    if out.is_dir() and any(out.iterdir()) and not (out / MANIFEST).exists():
        raise ArtifactError(
            f"{out} is not empty and holds no artifact", "choose a new folder: -o DIR"
        )
    try:
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
