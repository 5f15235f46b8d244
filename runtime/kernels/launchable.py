"""A kernel with all that a compiler has to know of it: launched, or compiled ahead of time.

Every kernel module makes its `Launchable`s by a pure function of shapes, a dtype, a number of rows
and a `Target`. One object serves the launch and the compiler, so that both mean the same kernel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from nldc.runtime.kernels.device import interpreted

TYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
"""The dtypes that kernels compute in, as Triton names them."""
NUMBERS = {
    **{name: dtype for dtype, name in TYPES.items()},
    "fp64": torch.float64,
    "u1": torch.bool,
    "i8": torch.int8,
    "i16": torch.int16,
    "i32": torch.int32,
    "i64": torch.int64,
}
"""The dtypes of all that kernels read and write, by Triton's names."""
SHARED_KIB = {80: 163, 86: 99, 87: 163, 89: 99, 90: 227, 100: 227, 103: 227, 120: 99, 121: 99}
"""What a block may take of shared memory, by compute capability (CUDA C++ programming guide)."""
LEAST_SHARED_KIB = 64
"""What is counted on where nothing is known: an AMD compute unit's local memory."""
DEPENDENT = 90
"""The first compute capability with programmatic dependent launches."""


@dataclass(frozen=True)
class Target:
    """What kernels are made for: a compute capability, or None for AMD and for the interpreter.

    `upcast` brings 16-bit values to float32 as they are loaded: the interpreter knows no others.
    """

    arch: int | None
    upcast: bool = False

    @property
    def shared_kib(self) -> int:
        """What a program may take of shared memory, in KiB."""
        return SHARED_KIB.get(self.arch or 0, LEAST_SHARED_KIB)

    @property
    def dependent(self) -> bool:
        """Whether a kernel may begin before the one it follows has ended, and waits for it."""
        return self.arch is not None and self.arch >= DEPENDENT

    @property
    def blackwell(self) -> bool:
        """Whether tensor cores leave sums in memory of their own (compute capability 10)."""
        return self.arch is not None and 100 <= self.arch < 120

    @staticmethod
    def of(device: torch.device) -> Target:
        """Return the target that a device is."""
        return Target(None, upcast=True) if interpreted() else _target(device)


@lru_cache(maxsize=16)
def _target(device: torch.device) -> Target:
    if torch.version.hip is not None:
        return Target(None)
    major, minor = torch.cuda.get_device_capability(device)
    return Target(10 * major + minor)


@dataclass(frozen=True, eq=False)
class Launchable:
    """One compiled kernel: a `@triton.jit` function, specialised.

    `signature` has the type of each argument of a launch, in order, as Triton writes it, or those
    in a tuple; `constants` the compile-time values; `aligned` the arguments that are divisible by
    16.
    """

    name: str
    kernel: Any
    signature: Mapping[str, str | tuple[str, ...]]
    constants: Mapping[str, Any]
    options: Mapping[str, Any]
    aligned: tuple[str, ...]

    def launch(self, grid: tuple[int, ...], *arguments: Any) -> None:
        """Run the kernel; nothing is run for an empty grid."""
        if 0 not in grid:
            self.kernel[grid](*arguments, **self.constants, **self.options)


def options_of(target: Target, warps: int, stages: int, *, early: bool = True) -> dict[str, Any]:
    """Return how a kernel is compiled; `early`: it may begin before the launch ahead of it ends.

    Products are never fused with sums: several kernels compute the same values, for few rows and
    for many, and a compiler would fuse each as it likes.
    """
    options: dict[str, Any] = {
        "num_warps": warps,
        "num_stages": stages,
        "enable_fp_fusion": False,
    }
    if early and target.dependent:
        options["launch_pdl"] = True
    return options


def power_above(number: int, least: int = 1) -> int:
    """Return the least power of two that is neither below `number` nor below `least`."""
    return max(least, 1 << max(0, number - 1).bit_length())
