"""What a step may count at most: launches, host waits and device waits, as a strategy bounds them.

The counts are those of the step that is compiled (`nldc.codegen.counts`); a file's `limits`, and
those of whoever compiles it, must both hold. A limit that is exceeded is an error that names the
node with the largest part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from nldc.check.lossless.places import node_span
from nldc.diagnostics import Diagnostic, Label, counted
from nldc.ir.graph import Graph
from nldc.source import Source

if TYPE_CHECKING:
    from nldc.codegen.counts import StepCounts

CODE = "NLD130"
NOUNS = {"launches": "launch", "host_waits": "host wait", "device_waits": "device wait"}
"""What may be limited, and what one of each is called."""
REMEDIES = {
    "launches": "fewer nodes and fewer rounds of loops launch less",
    "host_waits": "a step waits once for what it emits, and once in each round of a loop whose end "
    "depends on the tokens; `commit: {steps: n}` takes fewer rounds",
    "device_waits": "each round of a loop whose end depends on the tokens is one; `commit: {steps: "
    "n}` takes fewer rounds, and a loop of one round takes none",
}


def within_limits(
    graph: Graph, source: Source, others: Mapping[str, int] | None = None
) -> Iterator[Diagnostic]:
    """Refuse each step that counts more than the file, or `others`, let it."""
    if not graph.limits and not others:
        return
    for counts in counts_of(graph):
        for given, is_file in ((graph.limits, True), (others or {}, False)):
            for name, most in given.items():
                found = getattr(counts.total, name)
                if found > most:
                    yield _exceeded(counts, name, most, source, is_file=is_file)


def counts_of(graph: Graph) -> tuple[StepCounts, ...]:
    """Return what each step counts, as it is compiled."""
    from nldc.codegen.counts import step_counts

    return step_counts(graph)


def in_words(counts: StepCounts) -> str:
    """Return what a step counts at most as a sentence."""
    total = counts.total
    parts = [_counted(getattr(total, name), noun) for name, noun in NOUNS.items()]
    return f"{counts.step}: at most {parts[0]}, {parts[1]}, {parts[2]}"


def _exceeded(
    counts: StepCounts, name: str, most: int, source: Source, *, is_file: bool
) -> Diagnostic:
    noun = NOUNS[name]
    found = getattr(counts.total, name)
    node, part = max(
        ((node, getattr(each, name)) for node, each in counts.by_node.items()),
        key=lambda pair: pair[1],
    )
    said = f"`{node.split('.')[-1]}` has the largest part, {part}"
    labels: tuple[Label, ...] = (Label(node_span(node, source), said, primary=not is_file),)
    if is_file:
        labels = (Label(source.span(("limits", name)), f"no more than {most} here"), *labels)
    return Diagnostic(
        CODE,
        "error",
        f"`{counts.step}` may take {_counted(found, noun)}, and its limit is {most}",
        labels,
        (REMEDIES[name],),
    )


def _counted(number: int, noun: str) -> str:
    return counted(number, noun) if number == 1 or noun != "launch" else f"{number} launches"
