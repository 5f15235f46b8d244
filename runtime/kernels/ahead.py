"""Kernels compiled for a GPU that is not here: whether they fit it, and what they take.

Nothing is launched. Registers and stack are read from the compiled kernel with the tool that comes
with Triton for CUDA; other targets only say how much shared memory they take.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from nldc.runtime.errors import BackendError
from nldc.runtime.kernels import attention as kernels
from nldc.runtime.kernels.attention_tiles import Tile, tiles_for
from nldc.runtime.kernels.device import interpreted
from nldc.runtime.kernels.launchable import SHARED_KIB, TYPES, Launchable
from nldc.runtime.rows.pattern import Pattern

SIZES = {"fp32": 4, "bf16": 2, "fp16": 2}
"""Bytes of a value, by what Triton calls its type."""
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
    predicate = pattern.kernel()
    found = [
        compile_source(
            attention_source(
                predicate,
                TYPES[dtype],
                group,
                head_dim,
                tile,
                sees_prefix=pattern.sees_prefix,
                partial=partial,
            ),
            target,
            tile.options(partial=partial),
            pattern.name,
        )
        for tile in tiles_for(head_dim, dtype.itemsize)
        for partial in ((True, False) if tile.whole else (True,))
    ]
    registers = [one.registers for one in found if one.registers is not None]
    stacks = [one.stack for one in found if one.stack is not None]
    return KernelReport(
        max(one.shared for one in found), max(registers, default=None), max(stacks, default=None)
    )


def compile_source(
    source: ASTSource, target: GPUTarget, options: Mapping[str, Any], name: str
) -> KernelReport:
    """Compile the attention kernel of a pattern, which messages call `name`.

    Raises:
        BackendError: as `compile_pattern`.
    """
    return _compiled(source, target, options, f"the kernel of `{name}`")


def compile_launchable(launchable: Launchable, target: GPUTarget) -> KernelReport:
    """Compile a kernel as its launch on such a target would.

    Raises:
        BackendError: it does not compile, or takes more shared memory than the target has.
    """
    _check_compiler()
    source, name = source_of(launchable), f"the kernel `{launchable.name}`"
    return _compiled(source, target, launchable.options, name)


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


def _compiled(
    source: ASTSource, target: GPUTarget, options: Mapping[str, Any], what: str
) -> KernelReport:
    name = f"{target.backend}:{target.arch}"
    try:
        compiled = triton.compile(source, target=target, options=dict(options))
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


def attention_source(
    predicate: Any,
    dtype: str,
    group: int,
    head_dim: int,
    tile: Tile,
    *,
    sees_prefix: bool,
    partial: bool,
) -> ASTSource:
    """Return the attention kernel as Triton compiles it, specialised as a launch would have it."""
    constants = kernels.constants(
        group, head_dim, tile, sees_prefix=sees_prefix, upcast=SIZES[dtype] == 4, partial=partial
    )
    constants["PREDICATE"] = predicate
    pointers = {
        **dict.fromkeys(("query_ptr", "key_ptr", "value_ptr", "output_ptr"), f"*{dtype}"),
        **dict.fromkeys(("slot_ptr", "length_ptr"), "*i64"),
        **dict.fromkeys(("room_ptr", "factor_ptr"), "*fp32"),
        **dict.fromkeys(("table_ptr", "fact_ptr", "seen_ptr"), "*i32"),
    }
    return _source(
        kernels.attention_kernel, pointers, constants, aligned=("query_stride", "page_stride")
    )


def merge_source(dtype: str, heads: int, group: int, head_dim: int, *, chunks: bool) -> ASTSource:
    """Return the kernel that joins partial results, as `attention_source` does that one."""
    constants = kernels.merge_constants(heads, group, head_dim, chunks=chunks)
    pointers = {
        "output_ptr": f"*{dtype}",
        "room_ptr": "*fp32",
        "length_ptr": "*i64",
        "seen_ptr": "*i32",
    }
    return _source(kernels.merge_kernel, pointers, constants)


def _source(
    kernel: Any, pointers: dict[str, str], constants: dict[str, Any], aligned: tuple[str, ...] = ()
) -> ASTSource:
    """Return a kernel whose other arguments are int32, those of `aligned` divisible by 16."""
    names = kernel.arg_names
    signature = dict.fromkeys(names, "i32")
    signature.update(pointers)
    signature.update(dict.fromkeys(constants, "constexpr"))
    hints = {(names.index(name),): [["tt.divisibility", 16]] for name in (*pointers, *aligned)}
    return ASTSource(kernel, signature, constants, hints)


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
