"""Write a checkpoint's folder: whole or not at all, its tensors one at a time.

A large model so needs no more memory than its largest tensor. Imports no torch.
"""

from __future__ import annotations

import json
import math
import shutil
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from nldc.runtime.errors import CheckpointError

WIDTHS = {"I64": 8, "F64": 8, "I32": 4, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1}
"""Bytes that a value takes in the formats that are written."""
Described: TypeAlias = tuple[str, tuple[int, ...]]
"""A tensor's format as safetensors names it, and its shape."""


def check_free(out: Path) -> None:
    """Raise unless `out` is a new or an empty folder."""
    if out.exists() and not out.is_dir():
        raise CheckpointError(f"{out} exists and is no folder", "give a new folder")
    if out.is_dir() and any(out.iterdir()):
        raise CheckpointError(f"{out} is not empty", "give a new folder, or empty this one")


def write_folder(out: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a folder that becomes `out` only when it is complete.

    Raises:
        CheckpointError: it cannot be written; nothing is left of it.
    """
    partial = out.parent / f".{out.name}.{uuid.uuid4().hex[:8]}.partial"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
        try:
            write(partial)
            partial.replace(out)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as problem:
        raise CheckpointError(
            f"{out} cannot be written: {problem.strerror or problem}",
            "give a folder on a disk with room, where you may write",
        ) from problem


def write_json(path: Path, data: object) -> None:
    """Write data as a file of JSON, one line a value."""
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_tensors(path: Path, described: Mapping[str, Described], parts: Iterable[Any]) -> None:
    """Write a safetensors file of the tensors described, whose bytes `parts` yields in order."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (form, shape) in described.items():
        start, end = end, end + math.prod(shape) * WIDTHS[form]
        header[name] = {"dtype": form, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for part in parts:
            out.write(part)
