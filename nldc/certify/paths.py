"""What stays of a step's rows where a path says which: moved as the session moves it."""

from __future__ import annotations

import torch

from nldc.certify.backbone import HashBatch
from nldc.certify.text import DifferenceError
from nldc.runtime.cache.kv_cache import Places
from nldc.runtime.step.values import Emit


def follow(batch: HashBatch, emit: Emit) -> Emit:
    """Let the speculative rows of a path be the first of them; return the emission.

    Raises:
        DifferenceError: the path names rows that are not there, or none that rise.
    """
    if emit.path is None:
        return emit
    if emit.keep is None or len(emit.path) != batch.size:
        raise DifferenceError("a path is kept, and not how much of it of each sequence")
    lines = zip(batch.live, batch.slots, emit.path.tolist(), emit.keep.tolist(), strict=True)
    for sequence, slot, line, keep in lines:
        path, first = line[:keep], sequence.committed
        there = len(sequence.cache) - first
        if path != sorted(set(path)) or not all(0 <= row < there for row in path):
            raise DifferenceError(f"rows {path} are to stay of {there}")
        sequence.cache[first : first + len(path)] = [sequence.cache[first + row] for row in path]
        keys = batch.world.keys[slot]
        keys[first : first + len(path)] = keys[[first + row for row in path]]
    if batch.lineup.thoughts is not None:
        starts = [sequence.committed for sequence in batch.live]
        where = Places(batch.slots, tuple(starts), batch.lineup.slot_index, torch.tensor(starts))
        batch.world.text.move(where, emit.path, emit.keep)
    return emit
