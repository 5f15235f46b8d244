"""Kernels compiled for a GPU that is not here: whether they fit it, and what they take.

Nothing is launched. Registers and stack are read from the compiled kernel with the tool that comes
with Triton for CUDA; other targets only say how much shared memory they take.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from nldc.runtime.errors import BackendError
from nldc.runtime.kernels import attention
from nldc.runtime.kernels.attention_tiles import tiles_for
from nldc.runtime.kernels.device import interpreted
from nldc.runtime.kernels.launchable import SHARED_KIB, TYPES, Launchable, Target
from nldc.runtime.rows.pattern import Pattern

HIP_WAVES = {"gfx90a": 64, "gfx942": 64, "gfx950": 64, "gfx1100": 32, "gfx1201": 32}
"""Threads of a wave."""


@dataclass(frozen=True)
class KernelReport:
    """What one kernel takes: bytes of shared memory, registers a thread, bytes of stack a thread.

    Stack means that values were spilled. The last two are None where they are not known.
    """

    shared: int
    registers: int | None
    stack: int | None


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


def compile_pattern(
    pattern: Pattern, target: GPUTarget, group: int, head_dim: int, dtype: torch.dtype
) -> KernelReport:
    """Compile the attention kernels of a pattern, for `group` query heads a key head.

    There is one for each size of a tile, and for results that are partial or whole. The report has
    the most that any of them takes.

    Raises:
        BackendError: one does not compile, or takes more shared memory than the target has.
    """
    _check_compiler()
    if dtype not in TYPES:
        raise BackendError(f"the kernels do not compute in {dtype}", "use dtype bfloat16")
    if pattern.kernel is None:
        raise BackendError(f"the pattern `{pattern.name}` has no kernel", "compile it with kernels")
    predicate, own = pattern.kernel(), kernel_target(target)
    found = [
        _compiled(
            attention.launchable(
                predicate, dtype, group, head_dim, tile, own,
                sees_prefix=pattern.sees_prefix, partial=partial, upcast=dtype == torch.float32,
            ),
            target,
            f"the kernel of `{pattern.name}`",
        )
        for tile in tiles_for(head_dim, dtype.itemsize)
        for partial in ((True, False) if tile.whole else (True,))
    ]  # fmt: skip
    registers = [one.registers for one in found if one.registers is not None]
    stacks = [one.stack for one in found if one.stack is not None]
    return KernelReport(
        max(one.shared for one in found), max(registers, default=None), max(stacks, default=None)
    )


def kernel_target(target: GPUTarget) -> Target:
    """Return the target as kernels are made for it."""
    return Target(target.arch if target.backend == "cuda" else None)


def compile_launchable(launchable: Launchable, target: GPUTarget) -> KernelReport:
    """Compile a kernel as its launch on such a target would.

    Raises:
        BackendError: it does not compile, or takes more shared memory than the target has.
    """
    _check_compiler()
    return _compiled(launchable, target, f"the kernel `{launchable.name}`")


def source_of(launchable: Launchable) -> ASTSource:
    """Return a kernel as Triton compiles it."""
    names = launchable.kernel.arg_names
    signature = {**launchable.signature, **dict.fromkeys(launchable.constants, "constexpr")}
    hints = {(names.index(name),): [["tt.divisibility", 16]] for name in launchable.aligned}
    return ASTSource(launchable.kernel, signature, dict(launchable.constants), hints)


def _check_compiler() -> None:
    if interpreted():
        raise BackendError(
            "kernels are interpreted here, not compiled", "unset TRITON_INTERPRET for --target"
        )


def _compiled(launchable: Launchable, target: GPUTarget, what: str) -> KernelReport:
    name, source = f"{target.backend}:{target.arch}", source_of(launchable)
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
    return KernelReport(shared, registers, stack)


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
