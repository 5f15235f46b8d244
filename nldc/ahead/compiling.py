"""All kernels that strategies launch, compiled in processes beside one another."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from nldc import api
from nldc.ahead.uses import uses_of
from nldc.ahead.worker import BEGUN, FAILED, TAKES, TOTAL
from nldc.cost.geometry import load_geometry
from nldc.runtime.abi import COVERAGE
from nldc.runtime.errors import BackendError
from nldc.verify import model_folder

if TYPE_CHECKING:
    from nldc.api import Checked
    from nldc.cost.geometry import Geometry as Model
    from nldc.runtime.checkpoint.sampler import SamplerShape
    from nldc.runtime.kernels.coverage import Coverage, Geometry, Kernel
    from nldc.runtime.kernels.forward import LowRank

BATCH = 8
"""Sequences at a time that kernels are compiled for, if nobody says otherwise."""
NO_LINES = {"TRITON_DISABLE_LINE_INFO": "1"}
"""Kernels do not say in which file and line they were written."""
LOOKS = 0.2
"""Seconds between two looks at how far the processes are."""
LONG_AGO = (1980, 1, 1, 0, 0, 0)
"""When every file of an archive was made: the same kernels are the same bytes."""


@dataclass(frozen=True)
class Ahead:
    """What was compiled: what it covers, the files for the artifact by name, and the seconds."""

    coverage: Coverage
    files: Mapping[str, bytes]
    seconds: float


def compile_ahead(
    checked: Sequence[Checked],
    targets: Sequence[str],
    geometry: str | Path | None = None,
    dtype: str = "bfloat16",
    batch: int = BATCH,
    jobs: int | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Ahead:
    """Compile every kernel that strategies launch on a model of that geometry, for every target.

    `geometry` is 3b, 8b, 14b or a checkpoint's folder; None is the demo model. Kernels are for up
    to `batch` sequences at a time, rounded up to a power of two, as steps are. `jobs` processes
    compile (None: one for each processor that this one may use). `progress` is told how many
    kernels of how many are there; targets whose number is not known yet count as the others.

    Raises:
        BackendError: there is no triton, a target is unknown, or a kernel does not fit it.
        CheckpointError, AdapterError: the geometry is unknown, or its config cannot be read, or
            that of its drafter or of a sampler.
    """
    began = time.monotonic()
    try:
        import triton

        from nldc.runtime.ahead import archive_of
        from nldc.runtime.kernels.ahead import check_compiler, target_of
        from nldc.runtime.kernels.coverage import Coverage
    except ImportError as problem:
        raise BackendError(
            f"triton cannot be imported: {problem}", "install triton, or leave --target out"
        ) from problem
    targets = tuple(dict.fromkeys(targets))
    for target in targets:
        target_of(target)
    check_compiler()
    model = load_geometry(model_folder(None) if geometry is None else geometry)
    coverage = Coverage(
        triton=triton.__version__,
        dtype=dtype,
        batch=1 << (batch - 1).bit_length(),
        geometry=_geometry(
            model,
            adapted=any(each.graph.adapters for each in checked),
            samplers=samplers_of(checked, model_folder(None) if geometry is None else geometry),
        ),
        strategies={each.graph.name: uses_of(each.graph) for each in checked},
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        out = folder / "out"
        out.mkdir()
        artifact = api.write(checked, folder / "artifact", certify=False)
        request = {
            "artifact": str(artifact),
            "coverage": coverage.data(),
            "targets": targets,
            "out": str(out),
        }
        (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
        _compile(folder / "request.json", jobs or len(os.sched_getaffinity(0)), progress)
        kernels: dict[str, Mapping[str, Kernel]] = {}
        files: dict[str, bytes] = {}
        for target in targets:
            kernels[target], files[archive_of(target)] = _collected(out, target)
    coverage = replace(coverage, kernels=kernels)
    text = json.dumps(coverage.data(), indent=1, ensure_ascii=True) + "\n"
    return Ahead(coverage, {COVERAGE: text.encode(), **files}, time.monotonic() - began)


def samplers_of(checked: Sequence[Checked], place: str | Path) -> tuple[SamplerShape, ...]:
    """Return the shapes of the trained samplers that strategies declare, each once.

    One that is not in the checkpoint's folder is as `nldc train sampler` makes it.
    """
    from nldc.runtime.checkpoint.parts import Declared
    from nldc.runtime.checkpoint.sampler import CONFIG, SamplerShape, read_shape

    adapters = [adapter for each in checked for adapter in each.graph.adapters]
    names = frozenset(each.name for each in adapters if each.kind == "sampler")
    declared = Declared("", tuple(sorted(names)), samplers=names)
    paths = [Path(place) / declared.folder_of(name) / CONFIG for name in declared.names]
    shapes = [read_shape(path) if path.exists() else SamplerShape() for path in paths]
    return tuple(dict.fromkeys(shapes))


def _geometry(model: Model, *, adapted: bool, samplers: tuple[SamplerShape, ...] = ()) -> Geometry:
    from nldc.runtime.kernels.coverage import Geometry

    return Geometry(
        model.name,
        model.hidden,
        model.intermediate,
        model.heads,
        model.kv_heads,
        model.head_dim,
        model.vocabulary,
        _adapter(model) if adapted else {},
        samplers,
    )


def _adapter(model: Model) -> dict[str, LowRank]:
    """Return the modules of the model's adapter, those beside one product together."""
    from nldc.runtime.kernels.forward import DOWN, GATED, OUTPUT, QKV, LowRank

    owners = dict.fromkeys(("q_proj", "k_proj", "v_proj"), QKV)
    owners |= dict.fromkeys(("gate_proj", "up_proj"), GATED)
    owners |= {"o_proj": OUTPUT, "down_proj": DOWN}
    (_, qkv), (_, output), (_, gated), (_, down) = model.products
    columns = {QKV: qkv, OUTPUT: output, GATED: gated, DOWN: down}
    found: dict[str, LowRank] = {}
    for module, (width, rank, _) in zip(model.modules, model.adapter, strict=True):
        name = owners[module]
        known = found[name].ranks if name in found else 0
        found[name] = LowRank(known + rank, rank, width, columns[name])
    return found


def _compile(
    request: Path, jobs: int, progress: Callable[[int, int], object] | None = None
) -> None:
    """Let processes compile until nothing is left.

    Raises:
        BackendError: one of them could not.
    """
    command = [sys.executable, "-m", "nldc.ahead.worker", str(request)]
    errors = [request.with_name(f"errors-{number}") for number in range(jobs)]
    running: list[subprocess.Popen[bytes]] = []
    try:
        for path in errors:
            with path.open("wb") as file:
                environment = {**os.environ, **NO_LINES}
                running.append(subprocess.Popen(command, env=environment, stderr=file))
        while progress is not None and any(each.poll() is None for each in running):
            _tell(request, progress)
            time.sleep(LOOKS)
        codes = [each.wait() for each in running]
    finally:
        for each in running:
            if each.poll() is None:
                each.kill()
                each.wait()
    out = request.parent / "out"
    for failed in sorted(out.glob(f"*/{FAILED}")):
        message, hint = json.loads(failed.read_bytes())
        raise BackendError(message, hint)
    for code, path in zip(codes, errors, strict=True):
        if code:
            said = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            begun = [each.read_text(encoding="utf-8") for each in sorted(out.glob(f"*/{BEGUN}"))]
            what = ", ".join(f"`{name}`" for name in begun) or "the kernels"
            raise BackendError(
                f"the compiler crashed ({code}) at {what}: {said[-1] if said else ''}",
                "see `nldc doctor` for the triton that is installed",
            )


def _tell(request: Path, progress: Callable[[int, int], object]) -> None:
    """Say how many kernels are there, once a process has counted those of a target."""
    out = request.parent / "out"
    counts = [int(path.read_text() or 0) for path in out.glob(f"{TOTAL}*")]
    if counts:
        targets = len(json.loads(request.read_bytes())["targets"])
        done = sum(1 for _ in out.glob(f"*/{TAKES}"))
        progress(done, sum(counts) * targets // len(counts))


def _collected(out: Path, target: str) -> tuple[dict[str, Kernel], bytes]:
    """Return what the kernels of a target take, by key, and the archive of all of them."""
    from nldc.runtime.kernels.coverage import Kernel

    kernels: dict[str, Kernel] = {}
    whole = io.BytesIO()
    begin = f"{target.replace(':', '-')}-"
    with zipfile.ZipFile(whole, "w") as archive:
        for folder in sorted(out.glob(f"{begin}*")):
            digest = folder.name.removeprefix(begin)
            kernels[digest] = Kernel(**json.loads((folder / TAKES).read_bytes()))
            for file in _files(folder):
                entry = zipfile.ZipInfo(f"{digest}/{file.name}", LONG_AGO)
                entry.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(entry, file.read_bytes(), compresslevel=9)
    return kernels, whole.getvalue()


def _files(folder: Path) -> Iterable[Path]:
    return sorted(each for each in folder.iterdir() if each.name != TAKES)
