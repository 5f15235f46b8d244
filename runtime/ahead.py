"""Kernels that an artifact carries: which of them a model needs, and putting them to use.

At load every kernel that the decoder's forwards may launch is asked for by its shapes, so that what
is not there is known by name before the first request.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, cast

import torch
import triton
from triton.backends.compiler import GPUTarget

from nldc.runtime.abi import COVERAGE
from nldc.runtime.attached import attached
from nldc.runtime.errors import BackendError
from nldc.runtime.kernels.ahead import digest_of, kernel_target
from nldc.runtime.kernels.between import launchable
from nldc.runtime.kernels.coverage import DTYPES, Coverage
from nldc.runtime.kernels.forward import HeadRows, Looks, Rows, Sizes, any_length, kernels
from nldc.runtime.kernels.launchable import Launchable
from nldc.runtime.kernels.served import changed, key_of, serve
from nldc.runtime.model.triton_backend import TritonBackend
from nldc.runtime.model.triton_sizes import sizes_of
from nldc.runtime.rows.pattern import Pattern
from nldc.runtime.step.followed import Noted, programs
from nldc.runtime.switching import SwitchingDecoder

if TYPE_CHECKING:
    from nldc.runtime.decoder import Decoder

COMPILE = "compile it for this device: nldc compile FILE --target {} --geometry FOLDER -o OUT"
FREE = "leave --ahead-only out"
SHOWN = 3
"""Kernels that a message names."""


def archive_of(target: str) -> str:
    """Return the name of the file with the kernels of a target."""
    return f"kernels_{target.replace(':', '-')}.zip"


def use(decoder: Decoder, target: GPUTarget | None, *, only: bool) -> tuple[str, ...]:
    """Let the launches of a decoder find what its artifact carries for the device it computes on.

    `target` None: kernels are interpreted. Returns what is worth knowing: why kernels will be
    compiled when they are first launched.

    Raises:
        BackendError: with `only`, if a single one would be.
        ArtifactError: what says what is carried is damaged.
    """
    if target is None:
        if only:
            raise BackendError("kernels are interpreted here, and none is compiled", FREE)
        return ()
    name = f"{target.backend}:{target.arch}"
    files = attached(type(decoder).__module__)
    coverage = Coverage.read(files[COVERAGE]) if COVERAGE in files else None
    if coverage is None:
        if only:
            raise BackendError("the artifact carries no kernels", COMPILE.format(name))
        return ()
    dtype = decoder.model.backbone.dtype
    why = _why_not(coverage, name, dtype)
    if why is None:
        backend = cast(TritonBackend, decoder.model.backend)
        sizes = sizes_of(backend, decoder.model.adapters.values(), decoder.model.samplers.values())
        found = needed(coverage, type(decoder), sizes, target)
        carried = coverage.kernels[name]
        _serve(files[archive_of(name)], found, carried, target)
        missing = [kernel.name for digest, kernel in found.items() if digest not in carried]
        if not missing:
            if only:
                decoder.most_live = coverage.batch
            return ()
        why = f"{len(missing)} of {len(found)} kernels are not among them: {_few(missing)}"
    said = f"the artifact's kernels were compiled for {_said(coverage)}; {why}"
    if only:
        raise BackendError(said, COMPILE.format(name))
    return (f"{said}; what lacks is compiled when it is first launched",)


def _why_not(coverage: Coverage, name: str, dtype: torch.dtype) -> str | None:
    """Return why nothing that is carried can be used; None: it can."""
    if not name.startswith("cuda:"):
        return f"on {name} a launch looks at more than shapes"
    if name not in coverage.kernels:
        return f"this is {name}"
    if dtype != DTYPES[coverage.dtype]:
        return f"this is {str(dtype).removeprefix('torch.')}"
    if coverage.triton != triton.__version__:
        return f"this is triton {triton.__version__}"
    if changed():
        return f"the environment sets {', '.join(changed())}"
    return None


def _said(coverage: Coverage) -> str:
    targets = ", ".join(sorted(coverage.kernels))
    return f"{targets} in {coverage.dtype}, {coverage.geometry.name}, by triton {coverage.triton}"


def _few(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(f"`{name}`" for name in names[:SHOWN]) + more


def needed(
    coverage: Coverage, kind: type[Decoder], sizes: Sizes, target: GPUTarget
) -> dict[str, Launchable]:
    """Return every kernel that the strategies of a decoder launch on such weights, by its digest.

    `coverage` says what they run, and for how many sequences.
    """
    patterns = dict(patterns_of(kind))
    forwards: list[Rows] = []
    heads: set[HeadRows] = set()
    looks = Looks()
    for strategy, uses in coverage.strategies.items():
        for each in uses.forwards:
            pattern = patterns[strategy, each.pattern]
            if pattern.kernel is None:
                continue
            forwards.append(
                Rows(
                    counts=_counts(each.rows),
                    batch=coverage.batch if each.batched else 1,
                    predicate=pattern.kernel(),
                    sees_prefix=pattern.sees_prefix,
                    adapted=each.adapted,
                    asks_prompt=pattern.asks_prompt,
                )
            )
        looks |= uses.looks
        for head in uses.heads:
            most = coverage.batch if head.batched else 1
            for rows in _counts(head.rows):
                heads.update(
                    HeadRows(total, head.scored is not None, head.scored == "given")
                    for total in range(rows, rows * most + 1, rows)
                )
    made_for = kernel_target(target)
    found = [*kernels(sizes, forwards, heads, made_for, looks)]
    found += [launchable(*each, made_for) for each in programs_of(kind, coverage.batch)]
    return {digest_of(kernel, target): kernel for kernel in found}


def programs_of(kind: type[Decoder], batch: int) -> Iterator[Noted]:
    """Yield what the steps of a decoder note, or of each strategy in it, with texts and without."""
    if issubclass(kind, SwitchingDecoder):
        for part in kind.PARTS.values():
            yield from programs_of(part, batch)
        return
    own = object.__new__(kind)  # of a model, a step's code asks its batch
    sizes = range(1, batch + 1) if kind.ROUTES else (1,)
    steps = [getattr(own, name) for name in kind.steps()] or [own.step]
    for texts in {kind.LOOKS_UP, True}:
        for step in steps:
            yield from programs(own.prefill, step, sizes, texts=texts)


def _counts(rows: int | tuple[int, int | None]) -> tuple[int, ...]:
    return (rows,) if isinstance(rows, int) else any_length(rows[1])


def patterns_of(kind: type[Decoder]) -> Iterator[tuple[tuple[str, str], Pattern]]:
    """Yield the attention patterns of a decoder, or of each strategy in it.

    By the strategy's name, and that of the constant which is the pattern.
    """
    if issubclass(kind, SwitchingDecoder):
        for part in kind.PARTS.values():
            yield from patterns_of(part)
        return
    module = import_module(f"{kind.__module__.rpartition('.')[0]}.patterns")
    for name, value in vars(module).items():
        if isinstance(value, Pattern):
            yield (kind.STRATEGY, name), value


def _serve(
    archive: bytes, found: Mapping[str, Launchable], carried: Iterable[str], target: GPUTarget
) -> None:
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        names: dict[str, list[str]] = {}
        for name in opened.namelist():
            names.setdefault(name.partition("/")[0], []).append(name)
    known = set(carried)
    serve(
        {
            key_of(kernel, target): partial(_read, archive, tuple(names[digest]))
            for digest, kernel in found.items()
            if digest in known
        }
    )


def _read(archive: bytes, names: tuple[str, ...]) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        return {name.partition("/")[2]: opened.read(name) for name in names}
