"""Modules of an artifact from the bytes that were verified, and from nothing else.

No file is read a second time, no bytecode is read or written, and a name below an artifact that its
manifest does not list is not looked for anywhere. Imports no torch.
"""

from __future__ import annotations

import ast
import hashlib
import linecache
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from itertools import count
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from nldc.runtime.abi import COVERAGE, KERNELS, MANIFEST
from nldc.runtime.artifact import AGAIN, Artifact, read_artifact
from nldc.runtime.attached import attach
from nldc.runtime.errors import ArtifactError, NldcRuntimeError

PACKAGE = "__init__.py"
SUFFIX = ".py"


@dataclass(frozen=True)
class Instrument:
    """What is added to the modules of an artifact once they are verified, to watch them run.

    `change` makes the code of a module of its text and the name of its file; `names` are the
    globals of which that code asks.
    """

    change: Callable[[str, str], ast.Module]
    names: Mapping[str, Any]


@dataclass(frozen=True)
class _Source:
    """One module: where its file lay, what was verified of it, and what is added to that."""

    path: str
    data: bytes
    is_package: bool
    instrument: Instrument | None = None


class _Loader(InspectLoader):
    def __init__(self, source: _Source) -> None:
        self.source = source

    def get_source(self, fullname: str) -> str:  # noqa: ARG002 (the protocol's)
        """Return the text of the module."""
        return self.source.data.decode("utf-8")

    def is_package(self, fullname: str) -> bool:  # noqa: ARG002 (the protocol's)
        """Whether it is the artifact itself, or a part of it."""
        return self.source.is_package

    def get_code(self, fullname: str) -> CodeType:
        """Compile the text, or what it was changed to."""
        code: bytes | ast.Module = self.source.data
        if self.source.instrument is not None:
            text = self.get_source(fullname)
            code = self.source.instrument.change(text, self.source.path)
        return compile(code, self.source.path, "exec", dont_inherit=True)

    def exec_module(self, module: ModuleType) -> None:
        """Run the text; whoever asks for its lines, as Triton does, gets these and not the disk's.

        An entry without a time is never compared with the file.
        """
        text = self.get_source(module.__name__)
        path = self.source.path
        linecache.cache[path] = (len(text), None, text.splitlines(keepends=True), path)
        if self.source.instrument is not None:
            module.__dict__.update(self.source.instrument.names)
        exec(self.get_code(module.__name__), module.__dict__)


class _Finder(MetaPathFinder):
    """Finds the modules of the packages that were registered; of those it alone decides."""

    def __init__(self) -> None:
        self.packages: dict[str, Mapping[str, _Source]] = {}

    def owner(self, name: str) -> str | None:
        """Return the registered package that a module is or lies in."""
        while name and name not in self.packages:
            name = name.rpartition(".")[0]
        return name or None

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        """Return the spec of a verified module."""
        owner = self.owner(fullname)
        if owner is None:
            return None
        source = self.packages[owner].get(fullname[len(owner) + 1 :])
        if source is None:
            if fullname == owner:
                return None  # imported by Python itself, which found it where it found it before
            raise ModuleNotFoundError(f"{fullname} is no module of the artifact", name=fullname)
        spec = ModuleSpec(
            fullname, _Loader(source), origin=source.path, is_package=source.is_package
        )
        spec.has_location = True
        return spec


_FINDER = _Finder()
_INSTRUMENTED = count()


def _register(
    name: str, artifact: Artifact, *, with_root: bool, instrument: Instrument | None = None
) -> None:
    sources = {}
    for file, data in artifact.files.items():
        if not file.endswith(SUFFIX):
            continue
        is_package = file == PACKAGE or file.endswith(f"/{PACKAGE}")
        module = file.removesuffix(PACKAGE if is_package else SUFFIX).strip("/").replace("/", ".")
        if module or with_root:
            sources[module] = _Source(str(artifact.folder / file), data, is_package, instrument)
    for known in [each for each in sys.modules if each.startswith(f"{name}.")]:
        del sys.modules[known]
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)
    _FINDER.packages[name] = sources
    files = artifact.files.items()
    attach(
        name, {file: data for file, data in files if file == COVERAGE or KERNELS.fullmatch(file)}
    )


def serve(name: str, folder: str | Path) -> None:
    """Verify the artifact in `folder` and let the modules of package `name` be what was verified.

    The first line of a generated package, for who imports it with `import`. Python has then read
    `__init__` itself; nothing else is read from the folder again.

    Raises:
        ArtifactError: see `read_artifact`.
    """
    owner = _FINDER.owner(name)
    module = sys.modules.get(name)
    loader = getattr(getattr(module, "__spec__", None), "loader", None)
    if owner is not None and isinstance(loader, _Loader):
        return  # its bytes are those of an artifact that was verified as a whole
    _register(name, read_artifact(folder), with_root=False)


def load_artifact(folder: str | Path, instrument: Instrument | None = None) -> type[Any]:
    """Return the `Decoder` class of an artifact, which runs from the bytes that are verified here.

    With an instrument, it is a class of its own, beside all others of the artifact.

    Raises:
        ArtifactError: see `read_artifact`; or its code does not run.
    """
    artifact = read_artifact(Path(folder).resolve())
    if PACKAGE not in artifact.files:
        raise ArtifactError(f"{artifact.folder / MANIFEST} lists no {PACKAGE}", AGAIN)
    digest = hashlib.sha256(str(artifact.folder).encode("utf-8", "surrogateescape"))
    for file, data in artifact.files.items():
        digest.update(f"\0{file}\0".encode() + data)
    name = f"nldc_artifact_{digest.hexdigest()[:24]}"
    if instrument is not None:
        name = f"{name}_{next(_INSTRUMENTED)}"
    _register(name, artifact, with_root=True, instrument=instrument)
    sys.modules.pop(name, None)
    try:
        decoder = import_module(name).Decoder
    except NldcRuntimeError:
        raise
    except Exception as problem:
        raise ArtifactError(
            f"the code of {artifact.folder} does not run: {type(problem).__name__}: {problem}",
            AGAIN,
        ) from problem
    if not isinstance(decoder, type):
        raise ArtifactError(f"the code of {artifact.folder} defines no Decoder", AGAIN)
    return decoder
