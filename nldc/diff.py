"""How two strategies differ: in their attributes, in their nodes, and where their outputs can part.

Nodes are held against each other by name; what is left over is paired by op, in the order in which
it runs. Both graphs are for concrete params, so a param shows by what it changes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

from nldc.api import Checked
from nldc.expr import show
from nldc.ir import effects
from nldc.ir.attributes import ATTRIBUTE
from nldc.ir.graph import Graph
from nldc.ir.ops import Node, Region, Repeat, Value
from nldc.ir.text import op_name, show_part, show_value
from nldc.tabular import table, wrap

ABSENT = "-"
"""What a table shows for a strategy that has no such node or key."""

DERIVED = (("forward", "layout"), ("select", "less_is_surer"), ("repeat", "variable"))
"""Keys that follow from others of the graph."""

SITUATIONS: Mapping[tuple[str, str], str] = {
    ("rows", "layout"): "always: other rows are computed together",
    ("forward", "attention"): "always: a row sees other rows",
    ("forward", "position"): "always: rows lie at other positions",
    ("forward", "predicts_next"): "always: a row predicts another position",
    ("forward", "append"): "from the next step on: the prefix holds other rows",
    ("forward", "adapter"): "an adapter is loaded",
    ("forward", "adapter_rows"): "an adapter is loaded",
    ("sample", "temperature"): "always: another temperature chooses",
    ("score", "by"): "the two scores rank rows otherwise, or other rows pass a bound",
    ("safety", "sampler"): "a sampler is loaded",
    ("noise", "stream"): "always: other numbers are drawn",
    ("select", "at_least"): "a row passes one rule and not the other",
    ("select", "at_most"): "a row passes one rule and not the other",
    ("select", "best"): "one takes a row that the other leaves for a later forward",
    ("select", "within"): "one takes a row that the other leaves for a later forward",
    ("select", "where"): "a row passes one rule and not the other",
    ("select", "always_best"): "fewer rows than that pass the other rules",
    ("mix", "weights"): "always: other logits",
    ("lookup", "length"): "more tokens are drafted than the shorter draft has",
    ("lookup", "ngram"): "the text repeats itself for fewer tokens than that",
    ("leading", "at_least"): "a draft's rows pass one bound and not the other",
    ("leading", "at_most"): "a draft's rows pass one bound and not the other",
    ("leading", "low"): "fewer rows than that are sure",
    ("reckon", "expr"): "from the next step on: a sequence carries another Count",
    ("reckon", "low"): "a Count falls below one of the two bounds",
    ("reckon", "high"): "a Count rises above one of the two bounds",
    ("accept", "offset"): "always: other drafts are compared",
    ("accept", "branches"): "always: other rows are held against each other",
    ("candidates", "count"): "one drafts more of a row's likeliest tokens",
    ("recall", "entry"): "always: other tokens of the pool stand behind one",
    ("recall", "count"): "more entries of the pool begin so than the fewer",
    ("repeat", "at_most"): "rows are still masked after the fewer rounds",
    ("repeat", "at_least"): "a block is full before the first round",
    ("repeat", "until"): "the one ends before the other",
    ("emit", "cache"): "from the next step on: the prefix holds other rows",
    ("brought", "default"): "a request brings no value of it",
    ("brought", "bounds"): "a request brings a value that the other does not allow",
    ("route", "condition"): "live sequences, or what one carries, decide between steps",
}
"""When outputs can part, by op and the key that differs; keys that are not here are references."""

FLOWS = "always: it is made from another value"
ALONE = "always: only one of the two has it"
HARMLESS = ("strategy", "param")
"""What changes no token by itself."""
BESIDE = (*HARMLESS, "brought", "emit", "next", "carry", "route")
"""What is compared beside the nodes."""
MARK = "#"
"""Stands in the names of steps' entries beside the nodes: no node's name has it, so that a node
called `next` or `emit` is never taken for them."""


@dataclass(frozen=True)
class Change:
    """A key of a node with other values; `key` is an attribute's name in `Difference.attributes`.

    `a` and `b` are None where that strategy has no such key; `key` is None for a whole node that
    only one of the two has. What belongs to no node goes by `emit`, `carry`, `param`, `strategy`.
    """

    node: str
    key: str | None
    a: str | None
    b: str | None


@dataclass(frozen=True)
class Parting:
    """A place where outputs can part, and when."""

    node: str
    situation: str


@dataclass(frozen=True)
class Difference:
    """What differs between the strategies called `a` and `b`, in the order in which nodes run.

    `renamed` holds nodes of b by what they are called in a. `parts` is empty if nothing differs
    that can change a token, and if both `are_exact`: then both emit what AR emits, whatever
    differs.
    """

    a: str
    b: str
    attributes: tuple[Change, ...]
    nodes: tuple[Change, ...]
    renamed: Mapping[str, str]
    parts: tuple[Parting, ...]
    are_exact: bool

    @property
    def same(self) -> bool:
        """Whether nothing differs but names."""
        return not self.attributes and not self.nodes


@dataclass(frozen=True)
class _Entry:
    """A node, or something beside the nodes, as texts by key."""

    name: str
    op: str
    keys: Mapping[str, str]

    @property
    def holder(self) -> str:
        """The region or the loop that it lies in."""
        return self.name.rpartition(".")[0]

    @property
    def depth(self) -> int:
        return self.name.count(".")

    @property
    def shown(self) -> str:
        return _shown(self.name)


def _shown(name: str) -> str:
    return name.replace(MARK, "")


def diff(a: Checked, b: Checked, names: tuple[str, str] | None = None) -> Difference:
    """Return how two checked strategies differ; `names` is what to call them."""
    ours, theirs = list(_entries(a.graph)), list(_entries(b.graph))
    regions = _regions(a.graph, b.graph)
    theirs = [_under(entry, regions) for entry in theirs]
    renamed = _renamed(ours, theirs)
    theirs = [_under(entry, renamed) for entry in theirs]
    known = {entry.name: entry for entry in theirs}
    alone = {entry.name for entry in ours} ^ set(known)
    live = effects.live(a.graph, unread=False)
    theirs_live = effects.live(b.graph, unread=False)
    live |= {_called(_called(name, regions), renamed) for name in theirs_live}
    attributes: list[Change] = []
    nodes: list[Change] = []
    parts: dict[Parting, None] = {}
    for entry in (*ours, *(e for e in theirs if e.name in alone)):
        if entry.name.rsplit(".", 1)[0] in alone:
            continue
        if entry.name in alone:
            sides = (entry.op, None) if entry.name not in known else (None, entry.op)
            nodes.append(Change(entry.shown, None, *sides))
            if entry.op not in (*HARMLESS, "brought"):  # what it changes is said of nodes
                parts[Parting(entry.shown, ALONE)] = None
            continue
        for change in _changes(entry, known[entry.name]):
            (attributes if change.key in ATTRIBUTE else nodes).append(change)
            situation = _situation(entry, known[entry.name], change, alone)
            is_node = entry.op not in BESIDE
            if situation is not None and (entry.name in live or not is_node):
                parts[Parting(entry.shown, situation)] = None
    are_exact = a.guarantee == b.guarantee == "exact"
    shown = {_shown(old): _shown(new) for old, new in renamed.items() if ":" not in old}
    return Difference(
        *(names or (a.graph.name, b.graph.name)),
        tuple(attributes),
        tuple(nodes),
        shown,
        () if are_exact else tuple(parts),
        are_exact,
    )


# A graph as entries


def _entries(graph: Graph) -> Iterator[_Entry]:
    adapters = ", ".join(
        f"{'' if a.kind == 'lora' else 'sampler '}{a.name}{' (optional)' if a.optional else ''}"
        for a in graph.adapters
    )
    keys = {"guarantee": graph.guarantee, "adapters": adapters, "compat": graph.compat or ""}
    yield _Entry("strategy", "strategy", {key: text for key, text in keys.items() if text})
    for name, value in graph.settings.items():
        op, keys = "param", {"default": str(value)}
        if name in graph.runtime:
            own = graph.runtime[name]
            op, keys = "brought", {**keys, "bounds": f"{own.low} to {own.high}"}
        yield _Entry(f"param.{name}", op, keys)
    yield from _nodes(graph.prefill)
    yield from _emit(f"prefill.{MARK}emit", graph.prefill_tokens)
    for carried in graph.carry:
        yield _Entry(f"carry.{carried.name}", "carry", {"initial": show_value(carried.initial)})
    for step in graph.steps:
        if step.when is not None:
            yield _Entry(f"{step.name}.{MARK}route", "route", {"condition": show(step.when)})
    for step in graph.steps:
        yield from _nodes(step.region)
        keep = "all" if step.emit.keep is None else show_value(step.emit.keep)
        yield from _emit(f"{step.name}.{MARK}emit", step.emit.tokens, f"keep {keep}")
        for name, made in step.next:
            yield _Entry(f"{step.name}.{MARK}next.{name}", "next", {"value": show_value(made)})


def _emit(name: str, tokens: Value | None, cache: str | None = None) -> Iterator[_Entry]:
    if tokens is not None:
        keys = {"tokens": show_value(tokens)}
        yield _Entry(name, "emit", keys if cache is None else {**keys, "cache": cache})


def _nodes(region: Region) -> Iterator[_Entry]:
    for node in region.nodes:
        yield _Entry(node.name, op_name(node.op), dict(_keys(node)))
        if isinstance(node.op, Repeat):
            yield from _nodes(node.op.body)


def _keys(node: Node) -> Iterator[tuple[str, str]]:
    op = op_name(node.op)
    for item in fields(node.op):
        value = getattr(node.op, item.name)
        if value is None or isinstance(value, Region) or (op, item.name) in DERIVED:
            continue
        name = f"{op}.{item.name}"
        yield (name if name in ATTRIBUTE else item.name), show_part(value)


# Which node of one is which of the other


def _regions(a: Graph, b: Graph) -> dict[str, str]:
    """Return what to call the last step of b, as of a: it is taken when no other is."""
    ours, theirs = ([step.name for step in graph.steps] for graph in (a, b))
    if theirs[-1] in ours or ours[-1] in theirs:
        return {}
    return {f"{theirs[-1]}.": f"{ours[-1]}."}


def _renamed(ours: Sequence[_Entry], theirs: Sequence[_Entry]) -> dict[str, str]:
    """Return what to call nodes of b that have another name in a, variables of loops included."""
    same = {(e.name, e.op) for e in ours} & {(e.name, e.op) for e in theirs}
    left, right = (
        [e for e in entries if (e.name, e.op) not in same and e.op not in HARMLESS]
        for entries in (ours, theirs)
    )
    renamed: dict[str, str] = {}
    for depth in sorted({entry.depth for entry in right}):
        level = [entry for entry in right if entry.depth == depth]
        known = {entry.name: _under(entry, renamed) for entry in level}
        renamed |= _pairs([entry for entry in left if entry.depth == depth], known)
    taken = {entry.name for entry in ours}
    for entry in right:
        if entry.name not in renamed and entry.name in taken:
            renamed[entry.name] = f"{entry.name} ({entry.op})"
    loops = {e.name: e.keys["result"].rsplit(".", 1)[1] for e in ours if "result" in e.keys}
    for entry in theirs:
        name = renamed.get(entry.name, entry.name)
        if name in loops and "result" in entry.keys:
            variable = entry.keys["result"].rsplit(".", 1)[1]
            renamed[f"{entry.name}:{variable}"] = f"{name}:{loops[name]}"
    return {old: new for old, new in renamed.items() if old != new}


def _pairs(ours: Sequence[_Entry], theirs: Mapping[str, _Entry]) -> dict[str, str]:
    """Return what to call entries of b, by their names there, as entries of a.

    They pair where most keys are alike, among those of one op in one region or loop; of equal
    ones those that come first.
    """
    found = [
        (-len(mine.keys.items() & entry.keys.items()), place, number, name)
        for place, (name, entry) in enumerate(theirs.items())
        for number, mine in enumerate(ours)
        if (mine.holder, mine.op) == (entry.holder, entry.op)
    ]
    pairs: dict[str, str] = {}
    for _, _, number, name in sorted(found):
        if name not in pairs and ours[number].name not in pairs.values():
            pairs[name] = ours[number].name
    return {name: pairs[name] for name in theirs if name in pairs}


def _under(entry: _Entry, renamed: Mapping[str, str]) -> _Entry:
    if not renamed:
        return entry
    keys = {key: _called(text, renamed) for key, text in entry.keys.items()}
    return _Entry(_called(entry.name, renamed), entry.op, keys)


def _called(text: str, renamed: Mapping[str, str]) -> str:
    """Return the text with nodes, or steps as in `step.`, called by their other names."""
    if not renamed:
        return text
    names = "|".join(re.escape(name) for name in sorted(renamed, key=len, reverse=True))
    pattern = rf"(?<![\w.])({names})(?:(?<=\.)|(?![\w:]))"
    return re.sub(pattern, lambda found: renamed[found[1]], text)


# What differs, and when it matters


def _changes(ours: _Entry, theirs: _Entry) -> Iterator[Change]:
    for key in dict.fromkeys((*ours.keys, *theirs.keys)):
        a, b = ours.keys.get(key), theirs.keys.get(key)
        is_seed = key in ("layout", "parts") and _other(ours, theirs, "rows.seed")
        if a != b and not is_seed:
            yield Change(ours.shown, key, a, b)


def _other(ours: _Entry, theirs: _Entry, key: str) -> bool:
    return ours.keys.get(key) != theirs.keys.get(key)


def _situation(ours: _Entry, theirs: _Entry, change: Change, alone: set[str]) -> str | None:
    """Return when a change can show in the tokens, or None if it never does by itself."""
    key = str(change.key)
    if ours.op in HARMLESS or key == "counted":
        return None
    if key in ATTRIBUTE:
        is_moot = key == "repeat.eos_ids" and all(
            entry.keys["repeat.eos"] == "ignored" for entry in (ours, theirs)
        )
        return None if is_moot else ATTRIBUTE[key].situation
    if (ours.op, key) in SITUATIONS:
        return SITUATIONS[ours.op, key]
    # What is made from a node that only one of the two has parts there, not here.
    texts = f"{change.a} {change.b}"
    return None if any(name in texts for name in alone) else FLOWS


# As text


def render(difference: Difference, width: int | None = None) -> str:
    """Return the difference as text: two tables, and where the outputs can part.

    Tables fit a `width`, if there is one.
    """
    d = difference
    lines = [f"a: {d.a}", f"b: {d.b}"]
    if d.same:
        return "\n".join([*lines, "", "nothing differs"]) + "\n"
    if d.attributes:
        rows = [(str(c.key), c.node, c.a or ABSENT, c.b or ABSENT) for c in d.attributes]
        lines += ["", *_table(rows, ("attribute", "node", "a", "b"), width=width)]
    if d.nodes:
        rows = [
            (c.node, "the node" if c.key is None else c.key, c.a or ABSENT, c.b or ABSENT)
            for c in d.nodes
        ]
        lines += ["", *_table(rows, ("node", "key", "a", "b"), width=width)]
    if d.renamed:
        lines.append("")
        for old, new in d.renamed.items():
            lines += _words(f"{new} is called {old} in b", width)
    lines.append("")
    if d.are_exact:
        lines += _words("their outputs cannot part: both are proved to emit what AR emits", width)
    elif not d.parts:
        lines += _words("their outputs cannot part: nothing that differs changes a token", width)
    else:
        lines.append("their outputs can part at")
        lines += _table([(part.node, part.situation) for part in d.parts], width=width, indent="  ")
    return "\n".join(lines) + "\n"


def _words(text: str, width: int | None) -> list[str]:
    return [text] if width is None else wrap(text, width, "  ")


def _table(
    rows: Sequence[Sequence[str]],
    heading: Sequence[str] = (),
    *,
    width: int | None,
    indent: str = "",
) -> Iterator[str]:
    left = [False] * len(rows[0])
    return table(rows, heading, width=width, right=left, indent=indent)
