"""Where the rows of a forward go in the cache: behind each sequence, or further on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from nldc.runtime.cache.kv_cache import Places


def behind_held(places: Places, rows: int, active: Tensor, who: Sequence[bool]) -> Places:
    """Return the places, but for sequences that are not active those `rows` further on.

    There, a forward leaves what these hold as it is. `active` bool [B] says on the device what
    `who` says on the host.
    """
    shifted = zip(places.lengths, who, strict=True)
    return replace(
        places,
        lengths=tuple(length if goes_on else length + rows for length, goes_on in shifted),
        start=places.start + ~active * rows,
    )


def further(places: Places, rows: int) -> Places:
    """Return the places so many rows further on."""
    if not rows:
        return places
    lengths = tuple(length + rows for length in places.lengths)
    return replace(places, lengths=lengths, start=places.start + rows)
