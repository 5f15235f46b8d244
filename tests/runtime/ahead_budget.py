"""Run in its own process: compile all strategies of the library for the 8B's shapes, for cuda:90.

Prints as JSON, by the kernels' names, the most registers, bytes of spills, and bytes of shared
memory that any of them takes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from nldc import api
from nldc.ahead.compiling import compile_ahead
from nldc.runtime.kernels.coverage import Kernel


def budget(kernels: Iterable[Kernel]) -> dict[str, dict[str, int]]:
    """Return what kernels take; those of one name differ in their predicate or way of loading."""
    found: dict[str, dict[str, int]] = {}
    for each in kernels:
        known = found.setdefault(each.name, {"registers": 0, "spills": 0, "shared": 0})
        own = {"registers": each.registers, "spills": each.spills, "shared": each.shared}
        for what, value in own.items():
            known[what] = max(known[what], value or 0)
    return dict(sorted(found.items()))


if __name__ == "__main__":
    checked = api.check_together(list(api.library()), others=False)
    (kernels,) = compile_ahead(checked, ["cuda:90"], "8b").coverage.kernels.values()
    print(json.dumps(budget(kernels.values())))
