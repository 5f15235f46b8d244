"""Kernels compiled elsewhere, found where Triton looks for those that it compiled itself.

Triton asks a cache manager for a kernel by the key that the launch has. Ours answers for the keys
that it was given, from files of its own that go with the process, and leaves the others to whoever
was asked before: nothing is written where the user's cache lies.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from triton import knobs
from triton._C.libtriton import get_cache_invalidating_env_vars
from triton.backends.compiler import GPUTarget
from triton.compiler import make_backend
from triton.runtime import cache as triton_cache
from triton.runtime.cache import CacheManager, FileCacheManager

from nldc.runtime.kernels.ahead import source_of
from nldc.runtime.kernels.launchable import Launchable

LINES = "TRITON_DISABLE_LINE_INFO"
"""Leaves out of a kernel which line an instruction came from, and changes no instruction."""
Files = Callable[[], Mapping[str, bytes]]
"""Gives the files of a kernel by name."""

_SERVED: dict[str, Files] = {}
_BELOW: list[Callable[..., CacheManager]] = []
_FOLDERS: list[str] = []


def key_of(kernel: Launchable, target: GPUTarget) -> str:
    """Return the key by which Triton looks for a kernel that is launched on such a device."""
    backend = make_backend(target)
    options = backend.parse_options(dict(kernel.options))
    changed = get_cache_invalidating_env_vars()
    key = triton_cache.get_cache_key(source_of(kernel, target), backend, options, env_vars=changed)
    digest = hashlib.sha256(key.encode("utf-8")).hexdigest()
    return str(triton_cache._base32(digest))


def changed() -> tuple[str, ...]:
    """Return the variables of the environment that make Triton compile otherwise than usual."""
    return tuple(sorted(set(get_cache_invalidating_env_vars()) - {LINES}))


def serve(kernels: Mapping[str, Files]) -> None:
    """Let Triton find kernels by their keys."""
    _SERVED.update(kernels)
    if knobs.cache.manager_class is not ServedCache:
        _BELOW[:] = [knobs.cache.manager_class or FileCacheManager]
        knobs.cache.manager_class = ServedCache


class ServedCache(CacheManager):  # type: ignore[misc]
    """A kernel's place in the cache: its own files if it is served, else what was there before."""

    def __init__(self, key: str, override: bool = False, dump: bool = False) -> None:
        self._key = key
        self._kind = {"override": override, "dump": dump}
        self._files = None if override or dump else _SERVED.get(key)
        self._known: CacheManager | None = None

    @property
    def _below(self) -> CacheManager:
        """Who is asked otherwise; made late, since that may make folders."""
        if self._known is None:
            kind = {name: True for name, value in self._kind.items() if value}
            self._known = _BELOW[0](self._key, **kind)
        return self._known

    def get_file(self, filename: str) -> str | None:
        """Return the path of a file."""
        if self._files is None:
            return self._below.get_file(filename)  # type: ignore[no-any-return]
        return self._placed().get(filename)

    def get_group(self, filename: str) -> dict[str, str] | None:
        """Return the paths of all files of a kernel."""
        if self._files is None:
            return self._below.get_group(filename)  # type: ignore[no-any-return]
        return self._placed()

    def put(self, data: Any, filename: str, binary: bool = True) -> str:
        """Keep a file that was compiled here."""
        return self._below.put(data, filename, binary)  # type: ignore[no-any-return]

    def put_group(self, filename: str, group: dict[str, str]) -> Any:
        """Keep what belongs together."""
        return self._below.put_group(filename, group)

    def _placed(self) -> dict[str, str]:
        assert self._files is not None
        folder = Path(_folder()) / self._key
        folder.mkdir(exist_ok=True)
        found = {}
        for name, data in self._files().items():
            path = folder / name
            if not path.exists():
                whole = folder / f"{name}.{os.getpid()}.{id(self)}"
                whole.write_bytes(data)
                whole.replace(path)
            found[name] = str(path)
        return found


def _folder() -> str:
    """Return a folder that nobody else reads or writes, and that goes with the process."""
    if not _FOLDERS:
        _FOLDERS.append(tempfile.mkdtemp(prefix="nldc-kernels-"))
        atexit.register(_remove, _FOLDERS[0], os.getpid())
    return _FOLDERS[0]


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # not in a child that was forked
        shutil.rmtree(folder, ignore_errors=True)
