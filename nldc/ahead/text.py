"""What compiled kernels take, in a table a target that fits a screen."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from nldc.ahead.compiling import Ahead
from nldc.runtime.abi import COVERAGE

if TYPE_CHECKING:
    from nldc.runtime.kernels.coverage import Kernel

HEADING = ("kernel", "of it", "registers", "spills", "shared KiB", "occupancy %")
_SIZES = re.compile(r" (?:rows|lines|parts) \d+")
_UNKNOWN = "?"


def headline(ahead: Ahead, target: str) -> str:
    """Return what the kernels of a target are for, and how many there are."""
    coverage = ahead.coverage
    size = sum(len(data) for name, data in ahead.files.items() if name != COVERAGE)
    share = size / len(coverage.kernels) / 2**20
    adapter = ", with its adapter and without" if coverage.geometry.adapter else ""
    return (
        f"{len(coverage.kernels[target])} kernels for {target}, {coverage.dtype}, "
        f"{coverage.geometry.name}{adapter}, up to {coverage.batch} sequences; {share:.1f} MiB"
    )


def lines_of(kernels: Iterable[Kernel]) -> Iterator[tuple[str, ...]]:
    """Yield a line for kernels that differ in their tiles only: the least and the most of each."""
    groups: dict[str, list[Kernel]] = {}
    for each in kernels:
        groups.setdefault(_SIZES.sub("", each.name), []).append(each)
    for name, group in sorted(groups.items()):
        yield (
            name,
            str(len(group)),
            _range(each.registers for each in group),
            _range(each.spills for each in group),
            _range(round(each.shared / 1024) for each in group),
            _range(
                None if each.occupancy is None else round(100 * each.occupancy) for each in group
            ),
        )


def spilling(kernels: Iterable[Kernel]) -> Iterator[str]:
    """Yield a line for each kernel that spills."""
    for each in kernels:
        if each.spills:
            yield f"{each.name} spills {each.spills} bytes a thread"


def _range(values: Iterable[int | None]) -> str:
    known = sorted(value for value in values if value is not None)
    if not known:
        return _UNKNOWN
    least, most = known[0], known[-1]
    return str(least) if least == most else f"{least}-{most}"
