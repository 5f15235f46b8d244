"""Outputs that are written whole or not at all, and that never cost what was there before.

What is new is made beside its place and moved in when it is complete. What it replaces is moved
aside first, and moved back whatever happens in between: an error, a full disk, an interrupt. Only
what the caller names is ever removed. Imports no torch.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

Fill = Callable[[Path], object]
"""Writes files into the empty folder that it is given."""


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file at a place of its own, which then takes that of `path`.

    Raises:
        OSError: it cannot be written, or is there and no plain file, such as a link or a device;
            `path` is as it was.
    """
    _refuse_special(path)
    # A name may be as long as names may be; that of what holds it for a while is longer.
    held = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name[:32]}-"))
    fresh = held / path.name
    try:
        write(fresh)
        fresh.replace(path)
    finally:
        shutil.rmtree(held, ignore_errors=True)


def put_folder(out: Path, fill: Fill, listed: Collection[str]) -> None:
    """Let `fill` make a folder that takes the place of `out`, of whose files `listed` go.

    Raises:
        OSError: it cannot be written, and `out` is as it was. Or there was more in it than
            `listed`: that is moved aside, and the message says where.
    """
    held = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-"))
    fresh, old = held / "new", held / "old"
    try:
        fresh.mkdir()
        fill(fresh)
        try:
            if os.path.lexists(out):
                out.rename(old)
            fresh.rename(out)
        except BaseException:
            if os.path.lexists(old) and not os.path.lexists(out):
                _back(old, out)
            raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        if os.path.lexists(old) and os.path.lexists(out):
            _discard(old, listed)
        with suppress(OSError):
            held.rmdir()


def put_files(folder: Path, fill: Fill, stale: Collection[str] = ()) -> None:
    """Let `fill` make files that go into `folder` in place of those of their names; `stale` go.

    All of them, or none. What else is in the folder stays.

    Raises:
        OSError: something cannot be written, and the folder is as it was.
    """
    held = Path(tempfile.mkdtemp(dir=folder, prefix=".new-"))
    fresh, old = held / "new", held / "old"
    done = False
    try:
        fresh.mkdir()
        old.mkdir()
        fill(fresh)
        names = sorted(path.name for path in fresh.iterdir())
        for name in {*names, *stale}:
            _refuse_special(folder / name)
        try:
            for name in {*names, *stale}:
                if (folder / name).exists():
                    (folder / name).rename(old / name)
            for name in names:
                (fresh / name).rename(folder / name)
            done = True
        except BaseException:
            for name in names:
                if not (fresh / name).exists() and (folder / name).exists():
                    (folder / name).rename(fresh / name)
            for path in sorted(old.iterdir()):
                _back(path, folder / path.name)
            raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        if done:
            shutil.rmtree(old, ignore_errors=True)
        for path in (old, held):
            with suppress(OSError):
                path.rmdir()


def _refuse_special(path: Path) -> None:
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise FileExistsError(errno.EEXIST, "it is no plain file", str(path))


def _back(old: Path, place: Path) -> None:
    try:
        old.rename(place)
    except OSError as problem:
        reason = f"{problem.strerror}; what was there lies in {old}"
        raise OSError(problem.errno, reason, str(place)) from problem


def _discard(old: Path, listed: Collection[str]) -> None:
    """Remove the listed files and folders of a folder, and the folders of its files."""
    folders = {old}
    for name in listed:
        path = old / name
        folders |= {old / parent for parent in Path(name).parents}
        if path.is_dir() and not path.is_symlink():
            folders.add(path)
        else:
            path.unlink(missing_ok=True)
    try:
        for folder in sorted(folders, key=lambda path: len(path.parts), reverse=True):
            folder.rmdir()
    except OSError as problem:
        reason = f"it was replaced, but something new was in it, which now lies in {old}"
        raise OSError(problem.errno, reason, str(old)) from problem
