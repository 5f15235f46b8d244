"""Whether kernels can run here: on a GPU, or interpreted as Python."""

from __future__ import annotations

import os

import numpy
import torch
import triton
from triton.backends.compiler import GPUTarget

from nldc.runtime.errors import BackendError


def interpreted() -> bool:
    """Whether triton runs its kernels as Python, on the CPU."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def check_device(device: torch.device) -> None:
    """Raise BackendError unless the kernels can run on `device`."""
    if device.type != "cuda" and not interpreted():
        raise BackendError(
            f"triton kernels cannot run on {device.type}",
            "use backend torch or numba, or set TRITON_INTERPRET=1 to interpret them slowly",
        )
    if interpreted() and not can_interpret():
        raise BackendError(
            f"triton {triton.__version__} cannot interpret loops with numpy {numpy.__version__}",
            "install numpy below 2.4, or a newer triton",
        )


def current_target() -> GPUTarget | None:
    """Return the device that kernels are launched on; None where they are interpreted."""
    return None if interpreted() else triton.runtime.driver.active.get_current_target()


def can_interpret() -> bool:
    """Whether this triton's interpreter works with this numpy."""

    def version(text: str) -> tuple[int, ...]:
        return tuple(int(part) for part in text.split(".")[:2])

    return version(triton.__version__) > (3, 6) or version(numpy.__version__) < (2, 4)
