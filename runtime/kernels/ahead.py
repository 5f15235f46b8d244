"""Kernels compiled for a GPU that is not here: whether they fit it, and what they take.

Nothing is launched. Registers and stack are read from the compiled kernel with the tool that comes
with Triton for CUDA; other targets only say how much shared memory they take.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import MockTensor, create_function_from_signature

from nldc.runtime.errors import BackendError
from nldc.runtime.kernels.device import interpreted
from nldc.runtime.kernels.launchable import NUMBERS, SHARED_KIB, Launchable, Target

BINARIES = ("cubin", "hsaco")
"""What a device runs, by the end of a file's name."""
HIP_WAVES = {"gfx90a": 64, "gfx942": 64, "gfx950": 64, "gfx1100": 32, "gfx1201": 32}
"""Threads of a wave."""


@dataclass(frozen=True)
class KernelReport:
    """What one kernel takes: bytes of shared memory, registers a thread, bytes of stack a thread.

    Stack means that values were spilled. Both are None where they are not known. `threads` are
    those of a block.
    """

    shared: int
    registers: int | None
    stack: int | None
    threads: int = 128


@dataclass(frozen=True)
class Compiled:
    """A kernel as it was compiled: what it takes, and the files that Triton reads of it, by name.

    Nothing in them says where it was compiled.
    """

    report: KernelReport
    files: Mapping[str, bytes]


def target_of(text: str) -> GPUTarget:
    """Return the target that `cuda:90` or `hip:gfx942` names.

    Raises:
        BackendError: it names none.
    """
    kind, _, arch = text.partition(":")
    if kind == "cuda" and arch.isdecimal() and int(arch) in SHARED_KIB:
        return GPUTarget("cuda", int(arch), 32)
    if kind == "hip" and arch in HIP_WAVES:
        return GPUTarget("hip", arch, HIP_WAVES[arch])
    known = [f"cuda:{each}" for each in SHARED_KIB] + [f"hip:{each}" for each in HIP_WAVES]
    raise BackendError(f"target {text!r} is unknown", f"the targets are {', '.join(known)}")


def kernel_target(target: GPUTarget) -> Target:
    """Return the target as kernels are made for it."""
    return Target(target.arch if target.backend == "cuda" else None)


def compile_launchable(launchable: Launchable, target: GPUTarget) -> KernelReport:
    """Compile a kernel as its launch on such a target would.

    Raises:
        BackendError: it does not compile, or takes more shared memory than the target has.
    """
    return compiled_of(launchable, target).report


def source_of(launchable: Launchable, target: GPUTarget) -> ASTSource:
    """Return a kernel as Triton compiles it for a launch on such a device.

    Triton itself says what it makes of the arguments, so that both are known by one key.
    """
    kernel, backend = launchable.kernel, make_backend(target)
    bind = create_function_from_signature(kernel.signature, kernel.params, backend)
    arguments = [
        _stand_in(kind, name in launchable.aligned) for name, kind in launchable.signature.items()
    ]
    given = {**launchable.constants, **launchable.options}
    bound, special, options = bind(*arguments, **given)
    _, signature, constants, hints = kernel._pack_args(backend, given, bound, special, options)
    return ASTSource(kernel, signature, constants, hints)


def _stand_in(kind: str | tuple[str, ...], aligned: bool) -> Any:
    """Return an argument of a type, as Triton writes it, or a tuple of them."""
    if isinstance(kind, tuple):
        return tuple(_stand_in(each, aligned) for each in kind)
    if kind.startswith("*"):
        return MockTensor(NUMBERS[kind[1:]])  # it lies at 0
    if kind.startswith("fp"):
        return 0.5
    return 16 if aligned else 3


def digest_of(launchable: Launchable, target: GPUTarget) -> str:
    """Return what names a compiled kernel: its source, all that is fixed in it, and the device."""
    options = sorted(launchable.options.items())
    text = f"{source_of(launchable, target).hash()}-{options}-{target.backend}:{target.arch}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def check_compiler() -> None:
    """Raise BackendError unless kernels are compiled here."""
    if interpreted():
        raise BackendError(
            "kernels are interpreted here, not compiled", "unset TRITON_INTERPRET for --target"
        )


def compiled_of(launchable: Launchable, target: GPUTarget) -> Compiled:
    """Compile a kernel as its launch on such a target would.

    Raises:
        BackendError: it does not compile, or takes more shared memory than the target has.
    """
    check_compiler()
    what = f"the kernel `{launchable.name}`"
    name, source = f"{target.backend}:{target.arch}", source_of(launchable, target)
    try:
        compiled = triton.compile(source, target=target, options=dict(launchable.options))
    except Exception as problem:  # a compiler fails in its own ways
        reason = str(problem).strip().splitlines()
        raise BackendError(
            f"{what} does not compile for {name}: "
            f"{reason[-1] if reason else type(problem).__name__}",
            "see `nldc doctor` for the triton that is installed",
        ) from problem
    shared = int(compiled.metadata.shared)
    most = SHARED_KIB.get(target.arch) if target.backend == "cuda" else None
    if most is not None and shared > most * 1024:
        raise BackendError(
            f"{what} takes {shared / 1024:.0f} KiB of shared memory, and {name} has {most}",
            "use a smaller dtype",
        )
    registers, stack = _resources(compiled.asm.get("cubin"))
    threads = int(compiled.metadata.num_warps) * target.warp_size
    return Compiled(KernelReport(shared, registers, stack, threads), _files(compiled))


def _files(compiled: Any) -> dict[str, bytes]:
    """Return what a launch needs: the machine's code, and what Triton notes of it."""
    found = {}
    for name, path in compiled.metadata_group.items():
        kind = name.rpartition(".")[2]
        if kind == "json":
            notes = json.loads(Path(path).read_bytes())
            notes["extern_libs"] = []  # where they lay when they were linked in
            kept = {key: value for key, value in notes.items() if not key.isupper()}
            found[name] = json.dumps(kept, sort_keys=True).encode()
        elif kind in BINARIES:
            found[name] = Path(path).read_bytes()
    return found


def _resources(cubin: bytes | None) -> tuple[int | None, int | None]:
    """Return registers and stack of a CUDA kernel, None where nothing says."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    if cubin is None or not tool.exists():
        return None, None
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        try:
            done = subprocess.run(
                [tool, "--dump-resource-usage", file.name],
                capture_output=True,
                text=True,
                check=False,
            )
        except OSError:
            return None, None
    found = re.search(r"REG:(\d+) STACK:(\d+)", done.stdout)
    return (int(found[1]), int(found[2])) if found else (None, None)
