"""Where nodes stand in a strategy's files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from nldc.diagnostics import Span
from nldc.explain.model import Place, Printed, Text
from nldc.ir.graph import Graph
from nldc.source import Source

LONGEST_LINE = 2000
"""Characters of a line that are shown."""


@dataclass(frozen=True)
class Places:
    """The files of a strategy, the one that was asked for first, and where each node is in them.

    `numbers` are those of the files, by the names that spans have.
    """

    files: tuple[Text, ...]
    numbers: Mapping[str, int]
    by_node: Mapping[str, Place]

    def at(self, span: Span) -> Place | None:
        """Return the place of a span, if it is in one of the files."""
        return _place(span, self.numbers)

    def of(self, nodes: Iterable[str]) -> tuple[Place, ...]:
        """Return the places of those of the nodes that have one, each once."""
        found = (self.by_node.get(node) for node in nodes)
        return tuple(dict.fromkeys(place for place in found if place is not None))


def places_of(source: Source, *graphs: Graph) -> Places:
    """Return where the nodes of some graphs of one source are.

    What a region hands out goes by `REGION.emit`, what a step begins with by `carry.NAME`, and what
    tells which step is taken by `route`.
    """
    texts = {text.name: text for text in (source.file, *source.files)}
    numbers = {name: number for number, name in enumerate(texts)}
    by_node: dict[str, Place] = {}
    for graph in graphs:
        for name, span in (*_spans(graph), *_route(source)):
            place = _place(span, numbers)
            if place is not None:
                by_node.setdefault(name, place)
    files = tuple(
        Text(text.shown or text.name.replace("\\", "/").rpartition("/")[2], lines_of(text.text))
        for text in texts.values()
    )
    return Places(files, numbers, by_node)


def _place(span: Span, numbers: Mapping[str, int]) -> Place | None:
    if span.file not in numbers:
        return None
    return Place(numbers[span.file], span.start_line, span.end_line)


def named(node: str, graph: Graph) -> str:
    """Return the name of a node where the one step of a strategy goes without saying."""
    return node.removeprefix("step.") if len(graph.steps) == 1 else node


def lines_of(text: str) -> tuple[Printed, ...]:
    """Return the lines of a text as they are shown."""
    return tuple(Printed(shortened(line)) for line in text.rstrip("\n").split("\n"))


def shortened(text: str, most: int = LONGEST_LINE) -> str:
    """Return a text, or its beginning where it is longer than that."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _spans(graph: Graph) -> Iterator[tuple[str, Span]]:
    for node in graph.nodes:
        yield node.name, node.span
    for item in graph.carry:
        yield f"carry.{item.name}", item.initial.span
    handed = graph.prefill_tokens or next((item.initial for item in graph.carry), None)
    if handed is not None:
        yield "prefill.emit", handed.span
    for step in graph.steps:
        yield f"{step.name}.emit", step.emit.tokens.span


def _route(source: Source) -> Iterator[tuple[str, Span]]:
    if "route" in source.data:
        yield "route", source.span(("route",))
