"""Values for the params that requests bring, over the whole of their ranges."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

from nldc.runtime.step.params import Param


def drawn(params: Iterable[Param], key: int) -> dict[str, int | float]:
    """Return what a sequence brings, by its key: an end of a range, the default, or any other."""
    random = Random(key)
    return {param.name: _one(param, random) for param in params}


def _one(param: Param, random: Random) -> int | float:
    if isinstance(param.default, int):
        between: int | float = random.randint(int(param.low), int(param.high))
    else:
        between = random.uniform(param.low, param.high)
    return random.choice((param.low, param.high, param.default, between, between))
