"""Strategies by name: those of the library, and those of installed packages that declare theirs.

A package declares the folder that its YAML files lie in as an entry point of the group
`nldc.strategies`: `acme = "acme.strategies"`. Only what is written about it is read, and the files:
nothing of it is imported, so nothing of it runs.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

GROUP = "nldc.strategies"
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}", re.ASCII)
PACKAGE = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}", re.ASCII)
_FOLDER = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)


@dataclass(frozen=True)
class PackageError(Exception):
    """A package's strategy cannot be found."""

    message: str
    help: str

    def __str__(self) -> str:
        return f"{self.message}; {self.help}"


def library() -> dict[str, Path]:
    """Return the strategies that come with the compiler, by name."""
    return _strategies(Path(str(files("nldc.strategies"))))


def packages() -> dict[str, dict[str, Path]]:
    """Return the strategies of every installed package that can be used, by package and name."""
    found = {}
    for name in sorted({entry.name for entry in _entries() if PACKAGE.fullmatch(entry.name)}):
        try:
            found[name] = _strategies(_folder(name))
        except PackageError:
            continue  # said to who asks for one of its strategies
    return found


def split(text: str) -> tuple[str, str] | None:
    """Split `package:strategy`; None where a text is none."""
    package, colon, name = text.partition(":")
    is_one = colon and PACKAGE.fullmatch(package) and NAME.fullmatch(name)
    return (package, name) if is_one else None


def find(package: str, name: str) -> Path:
    """Return the file of a package's strategy.

    Raises:
        PackageError: no package declares itself by that name, or it has no such strategy.
    """
    known = _strategies(_folder(package))
    if name not in known:
        listed = ", ".join(f"`{package}:{each}`" for each in known) or "none"
        raise PackageError(f"the package `{package}` has no strategy `{name}`", f"it has {listed}")
    return known[name]


def _strategies(folder: Path) -> dict[str, Path]:
    return {
        path.stem: path
        for path in sorted(folder.glob("*.yaml"))
        if NAME.fullmatch(path.stem) and path.is_file()
    }


def _folder(package: str) -> Path:
    entries = [entry for entry in _entries() if entry.name == package]
    if not entries:
        names = sorted({entry.name for entry in _entries()})
        known = ", ".join(f"`{name}`" for name in names) or "none"
        raise PackageError(
            f"no installed package declares strategies as `{package}`",
            f"the entry points of the group `{GROUP}` are: {known}",
        )
    if len({entry.value for entry in entries}) > 1:
        owners = " and ".join(sorted(_owner(entry) for entry in entries))
        raise PackageError(
            f"several packages declare strategies as `{package}`", f"uninstall one of {owners}"
        )
    (entry, *_) = entries
    if not _FOLDER.fullmatch(entry.value):
        raise PackageError(
            f"`{package}` does not name a folder of its package: `{entry.value}`",
            f"it is declared by {_owner(entry)}, as in `{package} = {package}.strategies`",
        )
    for folder in _places(entry):
        if folder.is_dir():
            return folder
    raise PackageError(
        f"the folder of strategies that `{package}` declares is not there: `{entry.value}`",
        f"install {_owner(entry)} again",
    )


def _places(entry: EntryPoint) -> Iterator[Path]:
    """Yield where the folder that an entry point names may be, without importing anything."""
    top, *parts = entry.value.split(".")
    if entry.dist is not None:
        yield Path(str(entry.dist.locate_file("/".join((top, *parts)))))
    try:
        spec = find_spec(top)  # of an editable installation, whose files lie elsewhere
    except ValueError:
        return
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        yield Path(place, *parts)


def _owner(entry: EntryPoint) -> str:
    return "an unknown distribution" if entry.dist is None else str(entry.dist.name)


@cache
def _found(path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    del path
    return tuple(entry_points(group=GROUP))


def _entries() -> tuple[EntryPoint, ...]:
    """Return the entry points that packages declare strategies by; asked once for a `sys.path`."""
    return _found(tuple(sys.path))
