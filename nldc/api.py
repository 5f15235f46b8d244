"""The compiler as five visible calls: load, build, check, lower, emit. And loading what it made."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nldc import __version__
from nldc.check.lossless import prove
from nldc.check.rules import check_graph
from nldc.diagnostics import Diagnostic, StrategyError, nearest
from nldc.ir.attributes import NO_PRESET, PRESETS
from nldc.ir.build import build
from nldc.ir.graph import Graph, Guarantee
from nldc.source import Source
from nldc.source import load as load_source

if TYPE_CHECKING:
    from nldc.runtime.decoder import Decoder

Settings = Mapping[str, int | float]


@dataclass(frozen=True)
class Checked:
    """A strategy without mistakes: its source, its graph, and what is worth a warning."""

    source: Source
    graph: Graph
    warnings: tuple[Diagnostic, ...]

    @property
    def guarantee(self) -> Guarantee:
        """What the file promises."""
        return self.graph.guarantee


def library() -> dict[str, Path]:
    """Return the strategies that come with the compiler, by name."""
    folder = Path(str(files("nldc.strategies")))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def split_preset(file: str | Path) -> tuple[str | Path, str | None]:
    """Split `FILE@PRESET` into the two; a file whose own name has an @ is taken as it is.

    Raises:
        StrategyError: there is such a file or strategy, and no such preset.
    """
    name, at, preset = str(file).rpartition("@")
    if not at or Path(file).exists() or not find(name).exists():
        return file, None
    if preset not in PRESETS:
        meant = nearest(preset, PRESETS)
        known = ", ".join(f"`{each}`" for each in PRESETS)
        help_text = f"did you mean `{meant}`?" if meant else f"the presets are {known}"
        message = f"`{preset}` is no preset of an engine"
        raise StrategyError([Diagnostic(NO_PRESET, "error", message, (), (help_text,))])
    return name, preset


def find(file: str | Path) -> Path:
    """Return the file that is meant: a path, or the name of a strategy of the library."""
    known = library()
    path = Path(file)
    return known[str(file)] if not path.exists() and str(file) in known else path


def check(file: str | Path, settings: Settings | None = None) -> Checked:
    """Read and check a strategy file, or one of the library by name.

    `FILE@PRESET`, as in `block_diffusion@vllm`, sets the attributes that the file leaves open as
    that engine has them, whatever preset the file names.

    Raises:
        StrategyError: with every mistake in it.
    """
    name, compat = split_preset(file)
    return check_source(load_source(find(name)), settings, compat)


def check_source(
    source: Source, settings: Settings | None = None, compat: str | None = None
) -> Checked:
    """Check a strategy that has been read; `compat` replaces the preset that it names.

    Raises:
        StrategyError: with every mistake in it.
    """
    built = build(source, settings, compat)
    found = list(built.found)
    if built.graph is not None:
        found += check_graph(built.graph, source)
    errors = [d for d in found if d.severity == "error"]
    if errors or built.graph is None:
        raise StrategyError(found)
    return Checked(source, built.graph, tuple(found))


def compile(file: str | Path, out: str | Path, settings: Settings | None = None) -> Path:  # noqa: A001
    """Compile a strategy into a folder that Python imports, and return the folder.

    Nothing is written unless everything is; an artifact that is already there is replaced.

    Raises:
        StrategyError: with every mistake in the file.
        ArtifactError: the folder cannot be written, or holds something else.
    """
    from nldc.codegen.emit_artifact import emit_artifact
    from nldc.codegen.folder import write_folder

    checked = check(file, settings)
    source = checked.source
    certificate = prove(checked.graph).data()
    name = Path(source.name).name
    texts = emit_artifact(checked.graph, name, source.text, __version__, certificate)
    return write_folder(Path(out), texts)


def load(artifact: str | Path) -> type[Decoder]:
    """Import the Decoder of an artifact folder.

    Raises:
        ArtifactError: no artifact, one of another compiler version, or one that was edited.
    """
    from nldc.runtime.artifact import check_artifact

    folder = Path(artifact).resolve()
    manifest: Mapping[str, Any] = check_artifact(folder)
    name = f"nldc_artifact_{manifest['strategy']}_{abs(hash(str(folder))):x}"
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot import {folder}")
    for known in [m for m in sys.modules if m == name or m.startswith(f"{name}.")]:
        del sys.modules[known]
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    decoder: type[Decoder] = module.Decoder
    return decoder
