"""What a long run came to, from its tallies, for the block in docs/fuzz.md."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from .run import here


def counted(tallies: Sequence[dict[str, Any]]) -> list[str]:
    """Return the lines of the table, and what else is told."""
    sums: dict[str, Counter[str]] = {name: Counter() for name in ("tried", "accepted", "refused")}
    for tally in tallies:
        for name, counter in sums.items():
            counter.update(tally[name])
    rows = [("all", *(sum(counter.values()) for counter in sums.values()))]
    rows += [(name, *(c[name] for c in sums.values())) for name in sorted(sums["tried"])]
    failures = [failure for tally in tallies for failure in tally["failures"]]
    seeds = ", ".join(str(tally["seed"]) for tally in tallies)
    tried_again = f"Failures: {len(failures)}{_today(failures)}."
    slowest = max((tally["slowest"] for tally in tallies), default=0.0)
    return [
        "| files | tried | accepted | refused |",
        "| --- | ---: | ---: | ---: |",
        *(f"| {name} | {a:,} | {b:,} | {c:,} |".replace(",", " ") for name, a, b, c in rows),
        "",
        f"Seeds: {seeds}. {tried_again} The slowest input took {slowest:.2f} s.",
    ]


def _today(failures: Sequence[str]) -> str:
    """Return how many of the inputs that failed fail when they are tried again, in words."""
    places = [re.match(r"--seed (\d+) --only (\d+)", failure) for failure in failures]
    still = sum(bool(here(int(p[1]), int(p[2])).failures) for p in places if p is not None)
    return f", of which {still or 'none'} fail today" if failures else ""
