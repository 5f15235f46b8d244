"""Write a checkpoint again with weights of 8 or 4 bits; loads torch when it is called."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nldc.runtime.checkpoint.quantising import Report


def quantize(
    source: str | Path,
    out: str | Path,
    bits: int,
    group: int | None = None,
    *,
    symmetric: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """See `nldc.runtime.checkpoint.quantising.quantize`."""
    from nldc.runtime.checkpoint.quantising import quantize as quantize_

    return quantize_(source, out, bits, group, symmetric=symmetric, progress=progress)
