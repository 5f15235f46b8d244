"""What lies between a strategy file and its artifact, stage by stage, as the artifact has it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from typing import Literal

Stage = Literal["graph", "program", "python", "kernels"]

FILES: Mapping[Stage, tuple[str, ...]] = {
    "graph": ("graph.txt",),
    "program": ("program.txt",),
    "python": ("decode.py", "patterns.py"),
    "kernels": ("kernel_*.py",),
}
"""The files of a stage: names, or what they look like."""


def show_stage(files: Mapping[str, bytes], stage: Stage) -> str:
    """Return a stage of an artifact as text; of several files, each begins with its name."""
    names = list(_names(files, FILES[stage]))
    if stage in ("graph", "program"):
        return "".join(files[name].decode() for name in names)
    return "\n\n".join(f"# {name}\n\n{files[name].decode()}" for name in names)


def _names(files: Iterable[str], patterns: Iterable[str]) -> Iterable[str]:
    for pattern in patterns:
        yield from sorted(name for name in files if fnmatch(name, pattern))
