"""Compute a long prompt in a process of its own and print how much memory that took at its peak.

python prefill_peak.py FOLDER DTYPE ROWS: prints the bytes of the keys and values, and the peaks
above what the process had before: of a forward in pieces, and of one in a single piece.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from handwritten import LAST, Ar
from paged import cache_for, forward

from nldc.runtime.rows import plan


def memory(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


folder, dtype, rows = sys.argv[1], sys.argv[2], int(sys.argv[3])
torch.set_num_threads(1)
model = Ar.from_checkpoint(folder, dtype=dtype, device="cpu", backend="torch").model
tokens = [5 + place % 200 for place in range(rows)]


def prefill(count: int) -> tuple[int, int]:
    """Return the bytes of the cache, and the peak above what there was."""
    cache = cache_for(model)
    slot = cache.acquire(count)
    before = memory("VmRSS:")
    Path("/proc/self/clear_refs").write_text("5")
    forward(model, cache, [slot], [tokens[:count]], states=LAST)
    return cache.data.nbytes, memory("VmHWM:") - before


prefill(300)
cached, pieces = prefill(rows)
plan.PIECE = rows
_, whole = prefill(rows)
print(cached, pieces, whole)
