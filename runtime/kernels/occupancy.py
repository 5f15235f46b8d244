"""How much of a processor a kernel fills: which share of its warps can be there at once.

What a processor has is from the table of compute capabilities in the CUDA C++ programming guide.
"""

from __future__ import annotations

from dataclasses import dataclass

REGISTERS = 65536
"""Registers of a processor."""
UNIT = 256
"""Registers are given to a warp so many at a time."""
WARP = 32
RESERVED = 1024
"""Bytes of shared memory that the system takes of each block."""


@dataclass(frozen=True)
class Processor:
    """The most warps, blocks and KiB of shared memory that are there at once."""

    warps: int
    blocks: int
    shared_kib: int


PROCESSORS = {
    80: Processor(64, 32, 164),
    86: Processor(48, 16, 100),
    87: Processor(48, 16, 164),
    89: Processor(48, 24, 100),
    90: Processor(64, 32, 228),
    100: Processor(64, 32, 228),
    103: Processor(64, 32, 228),
    120: Processor(48, 24, 100),
    121: Processor(48, 24, 100),
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
        processor.shared_kib * 1024 // (shared + RESERVED),
    )
    return blocks * warps / processor.warps
