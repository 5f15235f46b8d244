"""How much of a processor a kernel fills: which share of its warps can be there at once.

What a processor has is from the table of compute capabilities in the CUDA C++ programming guide.
"""

from __future__ import annotations

from dataclasses import dataclass

from nldc.runtime.kernels.launchable import SHARED_KIB

REGISTERS = 65536
"""Registers of a processor."""
UNIT = 256
"""Registers are given to a warp so many at a time."""
WARP = 32
RESERVED = 1024
"""Bytes of shared memory that the system takes of each block; one block alone leaves the rest."""


@dataclass(frozen=True)
class Processor:
    """The most warps and blocks that are there at once."""

    warps: int
    blocks: int


PROCESSORS = {
    80: Processor(64, 32),
    86: Processor(48, 16),
    87: Processor(48, 16),
    89: Processor(48, 24),
    90: Processor(64, 32),
    100: Processor(64, 32),
    103: Processor(64, 32),
    120: Processor(48, 24),
    121: Processor(48, 24),
}
"""By compute capability."""


def occupancy(arch: object, threads: int, registers: int | None, shared: int) -> float | None:
    """Return the share of a processor's warps that blocks of so many threads fill, 0 to 1.

    `registers` are those of a thread, `shared` bytes those of a block. None: nobody knows.
    """
    if not isinstance(arch, int) or arch not in PROCESSORS or registers is None:
        return None
    processor = PROCESSORS[arch]
    warps = -(-threads // WARP)
    each = -(-registers * WARP // UNIT) * UNIT
    blocks = min(
        processor.blocks,
        processor.warps // warps,
        REGISTERS // (each * warps) if registers else processor.blocks,
        (SHARED_KIB[arch] * 1024 + RESERVED) // (shared + RESERVED),
    )
    return blocks * warps / processor.warps
