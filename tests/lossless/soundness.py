"""Make strategies at random, certify them, and hold the certified ones against AR.

`python -m tests.lossless.soundness COUNT [SEED]` tries that many different files and prints the
counts as it goes; a counterexample is printed whole and ends the run with status 1.
"""

from __future__ import annotations

import math
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from nldc.check.lossless import prove
from nldc.diagnostics import StrategyError
from nldc.ir.build import build
from nldc.ir.graph import Graph
from nldc.source import parse
from tests.lossless.at_random import random_pick, strategy
from tests.lossless.hash_model import Difference, first_difference

TRIES = 4
TOKENS = 12


@dataclass
class Tally:
    """What became of different random files; `codes` counts the first code of each refusal."""

    made: int = 0
    graphs: int = 0
    certified: int = 0
    equal_but_refused: int = 0
    sampled_refusals: int = 0
    codes: Counter[str] = field(default_factory=Counter)

    def line(self) -> str:
        share = self.certified / max(1, self.graphs)
        return (
            f"{self.made} files, {self.graphs} well-typed graphs, {self.certified} certified "
            f"({share:.1%}); of {self.sampled_refusals} refused ones that were run, "
            f"{self.equal_but_refused} never parted from AR"
        )


def graph_of(text: str) -> Graph | None:
    """Build a random file; None if it is not well typed."""
    try:
        return build(parse(text)).graph
    except StrategyError:
        return None


def counterexample(graph: Graph, tries: int = TRIES) -> Difference | None:
    """Return where a certified strategy parts from AR, if it does."""
    return first_difference(graph, tries=tries, tokens=TOKENS)


def run(
    count: int,
    seed: int,
    look_at_refused: int = 50,
    progress: Callable[[Tally], None] = lambda _: None,
    seconds: float = math.inf,
) -> tuple[Tally, str | None]:
    """Try `count` different files, or as many as fit into so many seconds.

    Returns the tally, and a counterexample if there is one.
    """
    end = time.monotonic() + seconds
    tally = Tally()
    seen: set[int] = set()
    number = seed
    while tally.made < count and time.monotonic() < end:
        text = strategy(random_pick(number))
        number += 1
        if hash(text) in seen:
            continue
        seen.add(hash(text))
        tally.made += 1
        if tally.made % 500 == 0:
            progress(tally)
        graph = graph_of(text)
        if graph is None:
            continue
        tally.graphs += 1
        certificate = prove(graph)
        if certificate.proved == "exact":
            tally.certified += 1
            difference = counterexample(graph)
            if difference is not None:
                return tally, f"{text}\nseed {number - 1}: {difference}"
        else:
            tally.codes[certificate.problems[0].code] += 1
            if tally.made % look_at_refused == 0:
                _look(graph, tally)
    return tally, None


def _look(graph: Graph, tally: Tally) -> None:
    """Run a refused strategy, to see whether it was refused for nothing."""
    with suppress(IndexError, ValueError):
        tally.equal_but_refused += first_difference(graph, 20, TOKENS) is None
        tally.sampled_refusals += 1


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    tally, found = run(count, seed, progress=lambda t: print(t.line(), flush=True))
    print(tally.line())
    print(dict(tally.codes.most_common()))
    if found:
        print(found)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
