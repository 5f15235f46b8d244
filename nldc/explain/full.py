"""A strategy in words and pictures: its graph, and which rows each forward lets see which."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nldc.api import Checked
from nldc.check.lossless import handover_of
from nldc.expr import evaluate, show
from nldc.ir.facts import asks_prompt, facts_of, pair_lookup, prefix_facts, row_lookup
from nldc.ir.graph import Graph
from nldc.ir.layout import Row
from nldc.ir.ops import Forward, LayRows, Node
from nldc.ir.taper import survival, tokens_a_step
from nldc.ir.text import show_graph
from nldc.limits import counts_of, in_words

MAX_PICTURE = 40
"""The most rows that are drawn: more do not fit a screen."""
PROMPT = 6
"""How long the prompt is in pictures of a forward that has it."""


def explain(checked: Checked) -> str:
    """Return a strategy's promise and its proof, what it leaves between steps, and pictures.

    The pictures are of the graph, and of the attention of each forward.
    """
    graph = checked.graph
    head = "\n".join([f"{graph.name}: {graph.summary}", *checked.source.uses])
    proof = promise(checked)
    counts = "\n".join(in_words(each) for each in counts_of(graph))
    about = [between_steps(checked), counts, *followed(graph), *brought(graph), *dealt(graph)]
    parts = [head, proof, *about, show_graph(graph)]
    parts += [picture(graph, node) for node in graph.nodes if isinstance(node.op, Forward)]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def promise(checked: Checked) -> str:
    """Return what is promised and, for what is proved, what each part of the proof rests on."""
    graph, certificate = checked.graph, checked.certificate
    if certificate.proved != "exact":
        why = "; ".join(f"{p.message} ({p.code})" for p in certificate.problems)
        return f"guarantee: {graph.guarantee}\nnot exact: {why}"
    outcomes = f"{certificate.outcomes} outcome{'s' if certificate.outcomes != 1 else ''}"
    lines = [f"guarantee: {graph.guarantee}", f"proved exact for these params, in {outcomes}:"]
    for name, ground in certificate.data()["obligations"].items():
        rests = [*ground["nodes"]]
        for node, rows in ground["rows"].items():
            rests.append(f"{_listed(rows)} of {node}")
        lines.append(f"  {name}: {ground['reason']}")
        lines += [f"    by {rest}" for rest in rests]
    lines.append("  constraints: every emitted token is chosen by one of these, and nothing else")
    lines += [f"    by {node}" for node in certificate.sampled_by]
    return "\n".join(lines)


def between_steps(checked: Checked) -> str:
    """Return what the cache holds between steps, and whether another strategy may go on from it."""
    found = handover_of(checked.proof)
    if found.trails is None:
        why = f"between steps: the cache is not that of the text, for {found.stays}"
        return f"{why}\nno other strategy may go on from it"
    behind = {0: "", 1: ", all but its last token's"}.get(
        found.trails, f", all but its last {found.trails} tokens'"
    )
    lines = [f"between steps: the cache holds the causal rows of the text{behind}"]
    if found.takes is None:
        return f"{lines[0]}\nit cannot go on for another strategy: {found.closed}"
    held = [
        f"{name}[{element}] = token {place}"
        for name, places in found.carry.items()
        for element, place in enumerate(places)
        if place is not None
    ]
    given = f"{found.takes} token{'' if found.takes == 1 else 's'} behind the cache"
    lines.append(f"it goes on for another strategy from {given}: {', '.join(held) or 'any'}")
    return "\n".join(lines)


def followed(graph: Graph) -> Iterator[str]:
    """Say which params follow a checkpoint, if there are any."""
    for name, key in graph.checkpoint_params.items():
        value = graph.params[name]
        yield f"{name} follows a checkpoint's {key} (compile with --model); here it is {value}"


def brought(graph: Graph) -> Iterator[str]:
    """Say which params requests bring, if there are any."""
    for name, each in graph.runtime.items():
        yield (
            f"{name} comes with each request, from {each.low} to {each.high}, else {each.default}; "
            "all that is said here holds for every value"
        )


def dealt(graph: Graph) -> Iterator[str]:
    """Say where masks stand that an acceptance profile dealt, and what they should bring."""
    for node in graph.nodes:
        op = node.op
        if not isinstance(op, LayRows) or op.profile is None:
            continue
        points = op.layout.groups
        survives = survival(graph.profiles[op.profile], points)
        whole = tokens_a_step([points] * points, survives)
        for segment in op.layout.segments:
            if segment.tokens:
                continue
            masks = [size.fixed for size in segment.sizes]
            tokens = tokens_a_step(masks, survives)
            listed = ", ".join(map(str, masks))
            yield (
                f"masks of {node.name} behind 1 to {points} accepted tokens: {listed}\n"
                f"by {op.profile} a step accepts {tokens:.2f} tokens with these {sum(masks)}, and "
                f"{whole:.2f} with all {points * points}"
            )


def _listed(rows: list[int | str]) -> str:
    is_one = len(rows) == 1 and isinstance(rows[0], int)
    return f"row{'' if is_one else 's'} {', '.join(map(str, rows))}"


def picture(graph: Graph, node: Node) -> str:
    """Return a grid of a forward's rows: which key rows (columns) each query row (line) sees.

    The first column is the cached prefix; where the prompt is asked for, the first two are the
    prompt and the text behind it.
    """
    op = node.op
    if not isinstance(op, Forward):
        raise TypeError(f"{node.name} is no forward")
    rows = op.layout.rows(PROMPT)
    name = op.attention.name or show(op.attention.predicate)
    head = f"{node.name}: {len(rows)} rows, attention {name}"
    if op.adapter:
        head += f", adapter {op.adapter}"
    drawn = rows[:MAX_PICTURE]
    if len(drawn) < len(rows):
        head += f" (the first {MAX_PICTURE} are drawn)"
    return "\n".join([head, *_grid(graph, op, drawn)])


@dataclass(frozen=True)
class Sights:
    """What rows of a forward see: `sees[i]` is of row i, columns of `prefixes` and then of rows.

    `positions` are those of the rows, from the end of the cache.
    """

    prefixes: tuple[str, ...]
    positions: tuple[int, ...]
    sees: tuple[tuple[bool, ...], ...]


def sights(graph: Graph, op: Forward, rows: Sequence[Row]) -> Sights:
    """Return which of the cache, and of these rows of a forward, each of them sees."""
    facts = [
        facts_of(
            row,
            graph.kinds,
            int(evaluate(op.position, row_lookup(facts_of(row, graph.kinds), graph.kinds, {}))),
        )
        for row in rows
    ]
    prefixes = {"prefix": prefix_facts()}
    if asks_prompt(op.attention.predicate):
        prefixes = {"prompt": prefix_facts(prompt=True), "text": prefix_facts()}
    keys = (*prefixes.values(), *facts)
    return Sights(
        tuple(prefixes),
        tuple(int(fact["position"]) for fact in facts),
        tuple(
            tuple(
                bool(evaluate(op.attention.predicate, pair_lookup(query, key, graph.kinds)))
                for key in keys
            )
            for query in facts
        ),
    )


def _grid(graph: Graph, op: Forward, rows: tuple[Row, ...]) -> Iterator[str]:
    found = sights(graph, op, rows)
    count = len(found.prefixes)
    labels = [_label(row, at) for row, at in zip(rows, found.positions, strict=True)]
    width = max(map(len, labels), default=0)
    yield f"  {'':{width}}  {' '.join(found.prefixes)}"
    for label, seen in zip(labels, found.sees, strict=True):
        cells = ["■" if is_seen else "·" for is_seen in seen]
        yield f"  {label:{width}}  {' '.join(cells[:count])} {''.join(cells[count:])}"


def _label(row: Row, position: int) -> str:
    return f"{row.kind or 'row'} {row.row} at +{position}"
