"""What lies in loaded artifacts beside their modules, as it was verified, by the package's name."""

from __future__ import annotations

from collections.abc import Mapping

_ATTACHED: dict[str, Mapping[str, bytes]] = {}


def attach(package: str, files: Mapping[str, bytes]) -> None:
    """Keep the files of a package by their names, in place of those that it had."""
    _ATTACHED[package] = dict(files)


def attached(module: str) -> Mapping[str, bytes]:
    """Return the files of the package that a module is or lies in; none if it has none."""
    while module and module not in _ATTACHED:
        module = module.rpartition(".")[0]
    return _ATTACHED.get(module, {})
