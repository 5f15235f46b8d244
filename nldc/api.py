"""The compiler as five visible calls: load, build, check, lower, emit. And loading what it made."""

from __future__ import annotations

import logging
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nldc import __version__, packages
from nldc.check.lossless import (
    Certificate,
    Handover,
    Proof,
    handover_data,
    handover_of,
    proof_of,
)
from nldc.check.lossless.codes import KINDS
from nldc.check.rules import examine
from nldc.diagnostics import Diagnostic, InternalError, StrategyError, nearest, with_ways
from nldc.ir.attributes import NO_PRESET, PRESETS
from nldc.ir.build import build
from nldc.ir.graph import Graph, Guarantee, Setting
from nldc.ir.header import SETTING
from nldc.ir.taper import Profile
from nldc.limits import within_limits
from nldc.reuse import flat, resolve
from nldc.reuse import load as load_source
from nldc.source import CANNOT_READ, Source

if TYPE_CHECKING:
    from nldc.codegen.stages import Stage
    from nldc.runtime.decoder import Decoder

Settings = Mapping[str, Setting]
Limits = Mapping[str, int]
Progress = Callable[[int, int], object]
"""Is told how much of how much is done."""
LOG = logging.getLogger("nldc")


@dataclass(frozen=True)
class Checked:
    """A strategy without mistakes: its source, its graph, and what is worth a warning.

    `proved` is what the check proved of what is promised, if anything is: ask for `proof`.
    """

    source: Source
    graph: Graph
    warnings: tuple[Diagnostic, ...]
    proved: Proof | None = None

    @cached_property
    def proof(self) -> Proof:
        """What is proved of the graph, for whoever asks: found once."""
        return self.proved or proof_of(self.graph)

    @cached_property
    def handover(self) -> Handover:
        """How it hands sequences over to other strategies: found once."""
        return handover_of(self.proof)

    @property
    def certificate(self) -> Certificate:
        """The proof as what is written down of it."""
        return self.proof.certificate

    @property
    def guarantee(self) -> Guarantee:
        """What the file promises."""
        return self.graph.guarantee


def library() -> dict[str, Path]:
    """Return the strategies that come with the compiler, by name."""
    return packages.library()


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
    """Return the file that is meant: a path, or the name of a strategy of the library or a package.

    Raises:
        StrategyError: `package:name` names no strategy of an installed package.
    """
    known = library()
    path, named = Path(file), str(file)
    if named in known and (path.is_dir() or not path.exists()):
        return known[named]
    parts = packages.split(named)
    if parts is None or path.exists():
        return path
    try:
        return packages.find(*parts)
    except packages.PackageError as problem:
        raise StrategyError(
            [Diagnostic(CANNOT_READ, "error", problem.message, (), (problem.help,))]
        ) from None


def check(
    file: str | Path,
    settings: Settings | None = None,
    *,
    others: bool = True,
    limits: Limits | None = None,
) -> Checked:
    """Read and check a strategy file, or one of the library, or `package:name`, by name.

    `FILE@PRESET`, as in `block_diffusion@vllm`, sets the attributes that the file leaves open as
    that engine has them, whatever preset the file names. With `others`, a promise that is not kept
    for other values of the params is among the warnings; to try them takes most of the time.
    `limits` bound what a step may count beside those that the file has, see `nldc.limits`.

    Raises:
        StrategyError: with every mistake in it.
    """
    source, compat = _read(file)
    return check_source(source, settings, compat, others=others, limits=limits)


def look(
    file: str | Path, settings: Settings | None = None, *, others: bool = True
) -> tuple[Checked, tuple[Diagnostic, ...]]:
    """Read a strategy as `check` does; return it with what of its promise is not kept.

    Raises:
        StrategyError: with every mistake in it, if one is of another kind.
    """
    source, compat = _read(file)
    return look_source(source, settings, compat, others=others)


def _read(file: str | Path) -> tuple[Source, str | None]:
    """Read the file that is meant; return it with the preset that its name asks for."""
    name, compat = split_preset(file)
    path = find(name)
    meant = nearest(str(name), library())
    is_name = str(name).isidentifier()  # a path would say where, and of what kind
    if (meant is not None or is_name) and not path.exists():
        message = f"there is no file `{name}`, and no such strategy in the library"
        help_text = "`nldc strategies` lists them"
        if meant is not None:
            help_text = f"did you mean `{meant}`? {help_text}"
        raise StrategyError([Diagnostic(CANNOT_READ, "error", message, (), (help_text,))])
    return load_source(path), compat


def check_source(
    source: Source,
    settings: Settings | None = None,
    compat: str | None = None,
    *,
    others: bool = True,
    limits: Limits | None = None,
) -> Checked:
    """Check a strategy that has been read; `compat` replaces the preset that it names.

    `others` and `limits` are those of `check`.

    Raises:
        StrategyError: with every mistake in it.
    """
    checked, mistakes = look_source(source, settings, compat, others=others, limits=limits)
    if mistakes:
        raise StrategyError([*checked.warnings, *mistakes])
    return checked


def look_source(
    source: Source,
    settings: Settings | None = None,
    compat: str | None = None,
    *,
    others: bool = True,
    limits: Limits | None = None,
) -> tuple[Checked, tuple[Diagnostic, ...]]:
    """Check a strategy that has been read; return it with what of its promise is not kept.

    The arguments are those of `check_source`.

    Raises:
        StrategyError: with every mistake in it, if one is of another kind.
    """
    began = time.perf_counter()
    source = resolve(source)
    built = build(source, settings, compat)
    made = time.perf_counter()
    found, proof = list(built.found), None
    if built.graph is not None:
        examined = examine(built.graph, source, others=others)
        found, proof = [*found, *examined.diagnostics], examined.proof
        if not any(d.severity == "error" for d in found):
            found += within_limits(built.graph, source, limits or {})
    found = [with_ways(diagnostic) for diagnostic in found]
    mistakes = tuple(d for d in found if d.severity == "error")
    if built.graph is None or not all(d.code in KINDS for d in mistakes):
        raise StrategyError(found)
    times = made - began, time.perf_counter() - made
    LOG.info("checked %s: graph in %.2f s, proof in %.2f s", built.graph.name, *times)
    warnings = tuple(d for d in found if d.severity != "error")
    return Checked(source, built.graph, warnings, proof), mistakes


def follow(file: str | Path, settings: Settings | None, model: str | Path) -> Settings:
    """Return the settings, with those of a file's params that follow a checkpoint as `model` has
    them; what is set already stays.

    Raises:
        CheckpointError: the checkpoint has no config that can be read.
        StrategyError: the checkpoint's value is outside the bounds of a param.
    """
    from nldc.runtime.checkpoint.config import ModelConfig

    given, config = dict(settings or {}), ModelConfig.load(model)
    for name, declared in declared_params(file).items():
        key = declared.get("checkpoint") if isinstance(declared, Mapping) else None
        if not isinstance(key, str) or name in given:
            continue
        value = getattr(config, key, None)
        if value is None:
            continue
        low, high = declared.get("min"), declared.get("max")
        if isinstance(low, int) and isinstance(high, int) and not low <= value <= high:
            message = f"the checkpoint's {key} {value} is not between {low} and {high}"
            help_text = f"these are the bounds of `{name}` in {file}; choose with --set {name}=…"
            raise StrategyError([Diagnostic(SETTING, "error", message, (), (help_text,))])
        given[name] = value
    return given


def check_together(
    files: Sequence[str | Path],
    settings: Settings | None = None,
    model: str | Path | None = None,
    *,
    others: bool = True,
    limits: Limits | None = None,
) -> tuple[Checked, ...]:
    """Check files that go into one artifact; a setting goes to every file that has such a param.

    Params that follow a checkpoint are as `model` has them. `others` and `limits` are those of
    `check`.

    Raises:
        StrategyError: with every mistake in every file.
        ArtifactError: two of them have the same name.
    """
    from nldc.runtime.errors import ArtifactError

    given = dict(settings or {})
    found: list[Diagnostic] = []
    checked: list[Checked] = []
    known = {str(file): params_of(file) for file in files}
    shared = set[str]().union(*known.values())
    for file in files:
        own = {n: v for n, v in given.items() if n in known[str(file)] or n not in shared}
        try:
            settings_ = own if model is None else follow(file, own, model)
            checked.append(check(file, settings_, others=others, limits=limits))
        except StrategyError as error:
            found += error.diagnostics
    if found:
        raise StrategyError(found)
    names = [each.graph.name for each in checked]
    for name in names:
        if names.count(name) > 1:
            raise ArtifactError(
                f"two of the strategies are named `{name}`", "rename one in its file: name: NAME"
            )
    return tuple(checked)


def by_profile(files: Sequence[str | Path], profile: Profile) -> Settings:
    """Return the settings that give an acceptance profile to every param of that type.

    Raises:
        StrategyError: none of the files has one.
    """
    names = [name for file in files for name in profiles_of(file)]
    if not names:
        message = "no strategy here has a param of the type profile"
        help_text = "quadratic_ss_tapered has one"
        raise StrategyError([Diagnostic(SETTING, "error", message, (), (help_text,))])
    return dict.fromkeys(names, profile)


def profiles_of(file: str | Path) -> frozenset[str]:
    """Return the params that a file declares as acceptance profiles, as `params_of` does."""
    return frozenset(
        name
        for name, declared in declared_params(file).items()
        if isinstance(declared, Mapping) and declared.get("type") == "profile"
    )


def params_of(file: str | Path) -> frozenset[str]:
    """Return the params that a file declares, whatever else is wrong with it."""
    return frozenset(declared_params(file))


def declared_params(file: str | Path) -> Mapping[str, Any]:
    """Return what a file says of its params, whatever else is wrong with it."""
    try:
        data = load_source(find(split_preset(file)[0])).data
    except StrategyError:
        return {}
    declared = data.get("params") if isinstance(data, Mapping) else None
    return declared if isinstance(declared, Mapping) else {}


def compile(  # noqa: A001
    file: str | Path | Sequence[str | Path],
    out: str | Path,
    settings: Settings | None = None,
    model: str | Path | None = None,
    *,
    certify: bool = True,
) -> Path:
    """Compile a strategy into a folder that Python imports, and return the folder.

    Params that are not set and that follow a checkpoint, as `block_length` follows its block_size,
    are as the checkpoint `model` has them; without one they have their default.

    Several files become one artifact that holds them all, the first as its default, and that may
    switch between them for each request and between steps. Nothing is written unless everything
    is; an artifact that is already there is replaced. `certify` runs the artifact's own code
    before it is written, against AR if it promises to be; see `nldc.certify`.

    Raises:
        StrategyError: with every mistake in the files.
        ArtifactError: the folder cannot be written, or holds something else; or what promises
            nothing emits masks, nothing at all, or cannot run.
        InternalError: what was generated is not what was proved, which is a bug in the compiler.
    """
    files = [file] if isinstance(file, str | Path) else list(file)
    checked = check_together(files, settings, model, others=False)  # nobody hears warnings here
    return write(checked, out, certify=certify)


def write(
    checked: Sequence[Checked],
    out: str | Path,
    *,
    certify: bool = True,
    attached: Mapping[str, bytes] | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write the artifact of strategies that have been checked, and return the folder.

    `attached` are files that go with it, such as those of `nldc.ahead`. `progress` is that of
    `nldc.certify`.

    Raises:
        ArtifactError, InternalError: as `compile` says.
    """
    from nldc.codegen.folder import check_folder, write_folder

    check_folder(Path(out))
    began = time.perf_counter()
    files = generate(checked, attached)
    LOG.info("generated %d files in %.2f s", len(files), time.perf_counter() - began)
    if certify:
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as scratch:
            _certify(write_folder(Path(scratch) / "artifact", files), progress)
        LOG.info("ran what was generated, in %.2f s", time.perf_counter() - began)
    folder = write_folder(Path(out), files)
    LOG.info("wrote %s, %d bytes", folder, sum(map(len, files.values())))
    return folder


def generate(
    checked: Sequence[Checked], attached: Mapping[str, bytes] | None = None
) -> dict[str, bytes]:
    """Return the files of the artifact of strategies that have been checked, by name.

    `attached` are those of `write`.
    """
    from nldc.codegen.emit_artifact import Part, emit_artifact, emit_switching

    parts: dict[str, Part] = {}
    more = dict(attached or {})
    for each in checked:
        source, graph = each.source, each.graph
        certificate = each.certificate.data()
        name = Path(source.name).name
        own = more if len(checked) == 1 else {}
        texts = texts_of(source)
        whole = flat(source)
        files = emit_artifact(graph, name, whole, __version__, certificate, own, texts)
        parts[graph.name] = Part(graph, files, str(certificate["proved"]))
    if len(parts) == 1:
        (part,) = parts.values()
        return dict(part.files)
    return emit_switching(parts, switching(checked), __version__, more)


def texts_of(source: Source) -> dict[str, str]:
    """Return the texts of the files that a strategy was put together of, by name; of one, none."""
    texts: dict[str, str] = {}
    for file in source.files:  # two of them may have one name, in different places
        number = sum(known.split(" ")[0] == file.shown for known in texts)
        texts[f"{file.shown} ({number + 1})" if number else file.shown] = file.text
    return texts


def emit(checked: Checked, stage: Stage) -> str:
    """Return a stage on the way to the artifact of a strategy as text; nothing is written.

    `graph`: what the passes over the graph left; `program`: what was decided before anything is
    printed, and what each method costs; `python` and `kernels`: the modules for torch, and those
    for Triton.
    """
    from nldc.codegen.stages import show_stage

    return show_stage(generate([checked]), stage)


def _certify(folder: Path, progress: Progress | None) -> None:
    """Raise unless the artifact in a folder that does not stay keeps its promise when it is run."""
    from nldc.certify import QUICK, certify
    from nldc.runtime.errors import ArtifactError

    before = set(sys.modules)
    try:
        report = certify(folder, QUICK, quick=True, progress=progress)
    finally:
        for name in set(sys.modules) - before:
            if name.startswith("nldc_artifact_"):
                del sys.modules[name]
    broken = report.broken
    if broken is None:
        return
    if broken.fault is not None and not broken.crashed:
        raise ArtifactError(
            f"`{broken.strategy}` cannot be used as it is: {broken.fault}; nothing was written",
            "it promises nothing, but every strategy must do this much: look at what it emits and "
            "keeps. If the file is right, report it as a bug in nldc, with the file",
        )
    raise InternalError(
        f"the code generated for `{broken.strategy}` does not do what was proved of it, and was "
        f"not written. When it was run: {broken.fault or broken.difference}"
    )


def switching(checked: Sequence[Checked]) -> dict[str, dict[str, Any]]:
    """Return, of each strategy, how it hands sequences over and to which of the others it may."""
    return handover_data({each.graph.name: each.handover for each in checked})


def load(artifact: str | Path) -> type[Decoder]:
    """Import the Decoder of an artifact folder.

    An artifact is code, and loading it runs it: load only what you trust. What runs are the bytes
    that were held against the manifest, and nothing else that lies in the folder. That tells a
    damaged or edited artifact; it cannot tell who made it.

    Raises:
        ArtifactError: no artifact, one of another compiler version, one that was edited, or one
            with anything in it that its manifest does not list.
    """
    from nldc.runtime.artifact_import import load_artifact

    return load_artifact(artifact)
