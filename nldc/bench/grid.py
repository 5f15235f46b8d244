"""Which runs a benchmark has: every strategy with every combination of a grid's values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path

from nldc import api
from nldc.runtime.errors import ProfileError

Grid = Mapping[str, Sequence[int | float]]
MOST = 256
"""The most runs of one benchmark."""


@dataclass(frozen=True)
class Case:
    """A strategy file, all that is set of it, and which of that the grid chose."""

    file: str
    settings: api.Settings
    chosen: Mapping[str, int | float]


def cases(
    strategies: Sequence[str], settings: api.Settings | None, grid: Grid | None, model: Path
) -> tuple[Case, ...]:
    """Return the runs: AR first, then each strategy with every combination of the grid's values.

    A setting goes to the strategies that have such a param, a grid too; what none has goes to the
    first, whose check says what was meant. Params that follow a checkpoint are as `model` has them.

    Raises:
        ProfileError: these are too many.
        StrategyError: the checkpoint's value of a param is outside the param's bounds.
    """
    files = list(dict.fromkeys(strategies))
    known = {file: api.params_of(file) for file in files}
    shared = frozenset[str]().union(*known.values())

    def goes_to(file: str, name: str) -> bool:
        return name in known[file] or (name not in shared and file == files[0])

    axes = {
        file: {name: values for name, values in (grid or {}).items() if goes_to(file, name)}
        for file in files
    }
    count = sum(prod(map(len, own.values())) for own in axes.values())
    if count > MOST:
        message = f"{count} runs are more than the {MOST} of one benchmark"
        raise ProfileError(message, "give --grid fewer values, or a step: NAME=LOW..HIGH:STEP")
    found = [Case("ar", api.follow("ar", {}, model), {})]
    for file in files:
        own = {name: value for name, value in (settings or {}).items() if goes_to(file, name)}
        for values in product(*axes[file].values()):
            chosen = dict(zip(axes[file], values, strict=True))
            if file != "ar" or own or chosen:
                followed = api.follow(file, {**own, **chosen}, model)
                found.append(Case(file, followed, chosen))
    return tuple(found)
