"""The page about a long run, from its tallies."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from .run import here

HEAD = """# Damaged files

Every reader of a file is given valid files with one or two edits: of bytes, of a length, of a
value, a key or a type of their data. Each input must be accepted, or refused by an error of ours
that names the file; anything else is a failure: another exception, more than 10 seconds, a gibibyte
of memory, a process that dies. Processes of their own try them, with a limit to their memory, and
one that hangs is killed. The default tests try inputs for some seconds, the same each time
(`NLDC_FUZZ_SEED` gives others). This is a run at length:

```
python -m tests.fuzz --count 1000000 --seed 1 --processes 2 --tally fuzz.json
python -m tests.fuzz --report docs/fuzz.md fuzz.json
```

A failure is printed as `--seed S --only N`, which tries that input alone.
"""


def page(tallies: Sequence[dict[str, Any]]) -> str:
    """Return docs/fuzz.md."""
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
    lines = [
        HEAD,
        "| files | tried | accepted | refused |",
        "| --- | ---: | ---: | ---: |",
        *(f"| {name} | {a:,} | {b:,} | {c:,} |".replace(",", " ") for name, a, b, c in rows),
        "",
        f"Seeds: {seeds}. {tried_again} The slowest input took {slowest:.2f} s.",
    ]
    return "\n".join(lines) + "\n"


def _today(failures: Sequence[str]) -> str:
    """Return how many of the inputs that failed fail when they are tried again, in words."""
    places = [re.match(r"--seed (\d+) --only (\d+)", failure) for failure in failures]
    still = sum(bool(here(int(p[1]), int(p[2])).failures) for p in places if p is not None)
    return f", of which {still or 'none'} fail today" if failures else ""
