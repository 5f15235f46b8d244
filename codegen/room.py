"""How many rows of the cache a strategy needs: for its prompt, for its text, and beside them.

Counted along the forwards in the order in which they run: each writes its rows behind all that was
appended before it, whether or not they stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from nldc.codegen.lengths import length_of
from nldc.codegen.program import Room
from nldc.codegen.values import size_of, type_of
from nldc.ir.effects import forward_of, leaves_rows
from nldc.ir.graph import Emission, Graph, walk
from nldc.ir.ops import Accept, Node, Repeat, Value
from nldc.ir.size import Size
from nldc.ir.types import Accepted, Count


@dataclass(frozen=True)
class Written:
    """The rows of a forward, and how many of them may stay."""

    size: Size
    appended: Size


def widest(rooms: Iterable[Room]) -> Room:
    """Return the room in which each of several strategies fits."""
    each = list(rooms)
    return Room(
        max(room.scratch for room in each),
        max(room.prompt for room in each),
        max(room.token for room in each),
    )


def room_of(graph: Graph, rows: Mapping[str, Written]) -> Room:
    """Return the room that a strategy needs; `rows` are those of its forwards, by node."""
    peaks, prompt = _written(graph.prefill.nodes, rows, held=1)
    scratch, token = 0, 1
    for step in graph.steps:
        behind, appended = _written(step.region.nodes, rows, held=2)
        scratch = max(scratch, *(size.fixed for size in behind), 0)
        token = max(token, _kept_for_a_token(graph, step.emit, appended.fixed))
    # The last step begins at least one token before the end.
    scratch += max(0, prompt.fixed - 1)
    return Room(
        scratch=max(scratch, *(size.fixed for size in peaks), 0),
        prompt=max(1, prompt.prompts, *(size.prompts for size in peaks)),
        token=token,
    )


def _written(
    nodes: Iterable[Node], rows: Mapping[str, Written], held: int
) -> tuple[list[Size], Size]:
    """Return how far forwards write behind the rows that stayed before them, and what stays.

    In a loop that leaves its keys, sequences that are done write behind what they keep: `held` is
    2 where there are several.
    """
    peaks, appended = [], Size(0)
    for node in walk(nodes):
        if node.name in rows:
            peaks.append(appended + rows[node.name].size)
            appended += rows[node.name].appended
        elif isinstance(node.op, Repeat) and leaves_rows(node.op):
            left = rows[forward_of(node.op)[0].name].size
            peaks.append(sum((left,) * held, appended))
            appended += left
    return peaks, appended


def _kept_for_a_token(graph: Graph, emit: Emission, appended: int) -> int:
    """Return the most rows that stay for each token that a step emits, rounded up."""
    emitted = _counts(graph, emit.tokens)
    kept = [appended] if emit.keep is None else _counts(graph, emit.keep)
    if emit.keep is not None and emit.keep.node == emit.tokens.node and len(kept) == len(emitted):
        pairs = list(zip(kept, emitted, strict=True))
    else:
        pairs = [(max(kept), min(emitted))]
    return max(1, *(-(-stay // max(1, tokens)) for stay, tokens in pairs))


def _counts(graph: Graph, value: Value) -> list[int]:
    """Return how many a value is, or holds, for each of the matches or Counts that say it."""
    if value.field is not None and not value.picks:
        node = graph.node(value.node.split(":")[0])
        if isinstance(node.op, Accept) and isinstance(node.type, Accepted):
            first = {"matches": 0, "rows": 1, "tokens": 1, "drafted": node.op.offset, "path": 1}
            if value.field in first:
                return [first[value.field] + matches for matches in range(node.type.most)]
    type_ = type_of(graph, value)
    if isinstance(type_, Count):
        return [type_.low, type_.high]
    part = length_of(graph, value)
    return [size_of(graph, value).fixed] if part is None else list(part.sizes)
