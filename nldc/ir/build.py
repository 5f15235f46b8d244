"""From a file to a graph: read the shape, resolve names, type every node. All mistakes at once.

A node with a mistake gets the type Unknown, which fits everywhere, so that one mistake is
reported once and the rest of the file is still checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from nldc.diagnostics import Diagnostic, Label, nearest
from nldc.expr import ExprError, parse, references
from nldc.ir.graph import Alternative, Carried, Emission, Graph, leading_to, run_order
from nldc.ir.header import read_header
from nldc.ir.make import make
from nldc.ir.make.loops import finish_loop
from nldc.ir.make.tokens import make_join
from nldc.ir.ops import Forward, Node, Region, Repeat, Value
from nldc.ir.reader import BAD_SIZE, Made, Reader
from nldc.ir.route import read_routes
from nldc.ir.scope import FALSE, PROMPT, Binding, Scope
from nldc.ir.size import Size
from nldc.ir.types import Count, Tokens, Type, Unknown
from nldc.schema import OPS, AcceptOp, Loop, OpModel, PrefillEmit, RepeatOp, StepEmit
from nldc.shape import MISSING_KEY, WRONG_VALUE, fit
from nldc.source import Path, Source

UNKNOWN_OP = "NLD013"
BAD_NAME = "NLD018"
CYCLE = "NLD032"
WRONG_TYPE = "NLD050"
MISSING_EMIT = "NLD070"
KEEP = "NLD071"
CARRY_WITHOUT_NEXT = "NLD072"
NEXT_WITHOUT_CARRY = "NLD073"
CARRY_CHANGES = "NLD074"
APPEND_IN_REPEAT = "NLD075"

RESERVED = ("prefill", "step", "carry", "emit", "q", "k", "kind", "group", "index", "row")
"""Names that mean something in every expression, so that no node may take them."""

REFERENCES: Mapping[str, tuple[str, ...]] = {
    "rows": ("segments",),
    "forward": ("tokens",),
    "sample": ("logits",),
    "score": ("logits", "tokens"),
    "mix": ("logits",),
    "lookup": (),
    "select": ("among", "score"),
    "fill": ("rows", "where", "tokens"),
    "join": ("parts",),
    "accept": ("draft", "target"),
    "repeat": ("on", "body"),
    "denoise": ("rows",),
}
"""The keys of each op that refer to other nodes; the rest are settings."""


@dataclass(frozen=True)
class Built:
    """A graph, or None where mistakes stand in its way, and everything that was found."""

    graph: Graph | None
    found: tuple[Diagnostic, ...]


def build(
    source: Source,
    settings: Mapping[str, int | float] | None = None,
    compat: str | None = None,
) -> Built:
    """Build the graph of a strategy for its params' defaults, changed by `settings`.

    `compat` is used instead of the preset that the file names, if it names one.

    Raises:
        StrategyError: `settings` names no param or a value outside its bounds.
    """
    return _Builder(source, dict(settings or {}), compat).run()


@dataclass
class _Builder:
    source: Source
    settings: Mapping[str, int | float]
    compat: str | None = None
    found: list[Diagnostic] = field(default_factory=list)

    def run(self) -> Built:
        header = read_header(self.source, self.settings, self.found)
        self.kinds = tuple(dict.fromkeys(_labels(self.source.data)))
        compat = self.compat or header.compat
        self.reader = Reader(
            self.source,
            header.params,
            self.kinds,
            header.adapters,
            self.found,
            compat,
            broken=header.broken,
        )
        prefill_scope = Scope({PROMPT: Binding(PROMPT, Tokens(Size(0, 1)))})
        prefill = self._region(("prefill",), "prefill", prefill_scope)
        handed_out = self._prefill_emit(prefill_scope)
        initial = self._initial(prefill_scope)
        routes = read_routes(self.source, self.reader)
        made = [self._step(route.path, route.prefix, initial) for route in routes]
        steps = [step for step in made if step is not None]
        if any(d.severity == "error" for d in self.found) or not steps or len(steps) < len(made):
            return Built(None, tuple(self.found))
        graphs = [
            Graph(
                name=header.name,
                summary=header.summary,
                guarantee=header.guarantee,
                params=header.params,
                checkpoint_params=header.checkpoint_params,
                adapters=header.adapters,
                prefill=prefill,
                prefill_tokens=handed_out,
                step=step,
                emit=emit,
                carry=carry,
                kinds=self.kinds,
                compat=compat,
            )
            for step, emit, carry in steps
        ]
        others = tuple(
            Alternative(route.prefix, route.condition, graph)
            for route, graph in zip(routes[:-1], graphs[:-1], strict=True)
        )
        return Built(replace(graphs[-1], alternatives=others), tuple(self.found))

    def _step(
        self, path: Path, prefix: str, initial: Mapping[str, tuple[Value | None, Type]]
    ) -> tuple[Region, Emission, tuple[Carried, ...]] | None:
        carried = Scope(
            {
                name: Binding(f"carry.{name}", type_, self.source.span(("carry", name), key=True))
                for name, (_, type_) in initial.items()
            }
        )
        scope = Scope(outer=carried)
        step = self._region(path, prefix, scope)
        emit, next_values, joins = self._emit(path, prefix, scope, step)
        carry = self._carry(path, initial, next_values)
        return None if emit is None else (Region((*step.nodes, *joins)), emit, carry)

    # Regions

    def _region(self, path: Path, prefix: str, scope: Scope, loop: str | None = None) -> Region:
        data = self._get(path)
        if not isinstance(data, Mapping):
            if data is not None:
                self.reader.error(
                    WRONG_VALUE, f"`{path[-1]}` is not a mapping", path, "nodes by name"
                )
            return Region(())
        names = [name for name in data if name != "emit" or loop is not None]
        models = {name: self._node_model((*path, name), name) for name in names}
        edges = list(self._edges(models, loop))
        accepts = [name for name, model in models.items() if isinstance(model, AcceptOp)]
        self.reader.verified.update(f"{prefix}.{name}" for name in leading_to(accepts, edges))
        order, cycles = run_order(names, edges)
        for cycle in cycles:
            self._cycle(path, cycle)
            for name in cycle:
                scope.names[name] = Binding(f"{prefix}.{name}", Unknown())
        for name in names:
            scope.names.setdefault(name, Binding(f"{prefix}.{name}", Unknown()))
        if loop is not None and scope.outer is not None:
            # Inside the body the loop's name is this iteration's rows, not the node of that name.
            scope.names[loop] = scope.outer.names[loop]
        nodes: list[Node] = []
        for name in order:
            model = models[name]
            if model is None:
                continue
            node = self._node(path, prefix, name, model, scope)
            if node is None:
                continue
            nodes.append(node)
            if name != loop:
                scope.names[name] = Binding(node.name, node.type, node.span)
        return Region(tuple(nodes))

    def _node_model(self, path: Path, name: Any) -> OpModel | None:
        if not isinstance(name, str) or not name.isidentifier() or not name[0].isalpha():
            self.reader.error(
                BAD_NAME, f"`{name}` cannot name a node", path, "letters, digits, _", True
            )
            return None
        if name in RESERVED:
            self.reader.error(
                BAD_NAME, f"`{name}` is a reserved name", path, "choose another", True
            )
            return None
        data = self._get(path)
        if not isinstance(data, Mapping):
            self.reader.error(
                WRONG_VALUE, f"node `{name}` is not a mapping", path, "expected {op: ...}"
            )
            return None
        op = data.get("op")
        if not isinstance(op, str):
            place = (*path, "op") if "op" in data else path
            self.reader.error(
                MISSING_KEY, f"node `{name}` lacks `op`", place, "`op` is required here",
                key="op" not in data, help_text=f"the ops are {_quoted(OPS)}",
            )  # fmt: skip
            return None
        if op not in OPS:
            meant = nearest(op, OPS)
            self.reader.error(
                UNKNOWN_OP, f"there is no op `{op}`", (*path, "op"),
                f"did you mean `{meant}`?" if meant else "unknown op",
                help_text=f"the ops are {_quoted(OPS)}",
            )  # fmt: skip
            return None
        return fit(self.source, path, OPS[op], self.found, f"`{op}` node `{name}`")

    def _edges(
        self, models: Mapping[str, OpModel | None], loop: str | None
    ) -> Iterator[tuple[str, str]]:
        last_effect: str | None = None
        for name, model in models.items():
            if model is None:
                continue
            keys = REFERENCES[model.op]
            for text in _texts({key: getattr(model, key) for key in keys}):
                try:
                    refs = references(parse(text))
                except ExprError:
                    continue
                for ref in refs:
                    if ref.root in models and ref.root != loop:
                        yield ref.root, name
            if self._appends(model):
                if last_effect is not None:
                    yield last_effect, name
                last_effect = name

    def _appends(self, model: OpModel) -> bool:
        if isinstance(model, Loop):
            return bool(self.reader.attribute("repeat.keys", model.keys) == "kept")
        return bool(getattr(model, "cache", "read") != "read")

    def _node(
        self, path: Path, prefix: str, name: str, model: OpModel, scope: Scope
    ) -> Node | None:
        here = (*path, name)
        full = f"{prefix}.{name}"
        span = self.source.span(here, key=True)
        hidden = scope.outer.names.get(name) if scope.outer else None
        if hidden is not None and hidden.node.startswith("carry."):
            self.reader.error(
                BAD_NAME, f"`{name}` is both a node and a carried value", here,
                "choose another name", True,
            )  # fmt: skip
        if isinstance(model, RepeatOp):
            made = self._repeat(here, full, model, scope)
        else:
            made = make(self.reader, here, full, model, scope)
        return None if made is None else Node(full, made[0], made[1], span)

    def _repeat(self, path: Path, full: str, model: RepeatOp, scope: Scope) -> Made | None:
        variable: str = model.on
        initial = self.reader.rows_reference((*path, "on"), variable, scope)
        at_most = self.reader.whole((*path, "at_most"), model.at_most, low=1)
        if variable not in model.body:
            self.reader.error(
                MISSING_KEY, f"the body of `repeat` makes no `{variable}`", (*path, "body"),
                f"a node `{variable}` is the next value of `on`", True,
            )  # fmt: skip
            return None
        type_: Type = Unknown() if initial is None else initial[1]
        loop = Scope({variable: Binding(f"{full}:{variable}", type_)}, outer=scope)
        body = self._region((*path, "body"), full, Scope(outer=loop), loop=variable)
        for node in body.nodes:
            if isinstance(node.op, Forward) and node.op.append != FALSE:
                name = node.name.rsplit(".", 1)[1]
                self.reader.error(
                    APPEND_IN_REPEAT, "a forward inside `repeat` appends to the cache",
                    (*path, "body", name, "cache"), "write `cache: read`",
                    help_text="how often a loop runs differs by sequence: append after it",
                )  # fmt: skip
        result = next((n for n in body.nodes if n.name == f"{full}.{variable}"), None)
        if initial is None or at_most is None or result is None:
            return None
        if isinstance(result.type, Unknown) or isinstance(type_, Unknown):
            return None
        if result.type != type_:
            self.reader.error(
                WRONG_TYPE, f"`{variable}` begins as {type_} and the body makes it {result.type}",
                (*path, "body", variable), f"this is {result.type}", True,
            )  # fmt: skip
            return None
        value = Value(result.name, result.span)
        op = Repeat(variable, initial[0], body, value, at_most, model.at_least)
        finished = finish_loop(self.reader, path, full, model, op)
        return None if finished is None else (finished, type_)

    # What goes in and out

    def _prefill_emit(self, scope: Scope) -> Value | None:
        path = ("prefill", "emit")
        if self._get(path) is None:
            return None
        model = fit(self.source, path, PrefillEmit, self.found, "`emit`")
        if model is None:
            return None
        found = self.reader.reference((*path, "tokens"), model.tokens, scope, Tokens)
        return None if found is None else found[0]

    def _initial(self, scope: Scope) -> dict[str, tuple[Value | None, Type]]:
        carry = self._get(("carry",))
        initial: dict[str, tuple[Value | None, Type]] = {}
        nodes = {name: b for name, b in scope.names.items() if not name.startswith("$")}
        outside = Scope({f"prefill.{name}": b for name, b in nodes.items()})
        for name in carry if isinstance(carry, Mapping) else ():
            found = self.reader.reference(("carry", name), carry[name], outside, Tokens)
            if found is not None and isinstance(found[1], Tokens) and found[1].size.prompts:
                self.reader.error(
                    BAD_SIZE,
                    f"`{name}` carries {found[1]}",
                    ("carry", name),
                    "as many as the prompt has",
                    help_text="carry a number of tokens that does not depend on the prompt, as of "
                    "`context.last`",
                )
                found = None
            initial[name] = (None, Unknown()) if found is None else found
        return initial

    def _emit(
        self, region: Path, prefix: str, scope: Scope, step: Region
    ) -> tuple[Emission | None, dict[str, tuple[Value, Type] | None], tuple[Node, ...]]:
        path = (*region, "emit")
        found = self._get(region)
        if found is not None and not isinstance(found, Mapping):
            return None, {}, ()  # said where the region is read
        if found is None or self._get(path) is None:
            self.reader.error(
                MISSING_EMIT, "the step emits nothing", region, "`emit` is required here", True,
                help_text="emit: {tokens: ..., cache: keep all, next: {...}}",
            )  # fmt: skip
            return None, {}, ()
        model = fit(self.source, path, StepEmit, self.found, "`emit`")
        if model is None:
            return None, {}, ()
        tokens = self.reader.reference((*path, "tokens"), model.tokens, scope, Tokens)
        keep = self._keep((*path, "cache"), model.cache, scope, step)
        values: dict[str, tuple[Value, Type] | None] = {}
        joins: list[Node] = []
        for name, expr in model.next.items():
            place = (*path, "next", name)
            if isinstance(expr, list):
                made = make_join(self.reader, place, expr, scope)
                node = f"{prefix}.next_{name}"
                span = self.source.span(place)
                if made is not None:
                    joins.append(Node(node, made[0], made[1], span))
                values[name] = None if made is None else (Value(node, span), made[1])
            else:
                values[name] = self.reader.reference(place, expr, scope, Tokens)
        if tokens is None or keep is False:
            return None, values, tuple(joins)
        return Emission(tokens[0], None if keep is True else keep), values, tuple(joins)

    def _keep(self, path: Path, text: str, scope: Scope, step: Region) -> Value | bool:
        """Return the count to keep, True for all, or False after a mistake."""
        words = text.split(None, 1)
        if len(words) != 2 or words[0] != "keep":
            self.reader.error(
                KEEP, f"`{text}` is no cache effect", path, "`keep all` or `keep COUNT`"
            )
            return False
        if words[1].strip() == "all":
            return True
        if words[1].strip().isdecimal():
            self.reader.error(
                KEEP, "how many rows are kept is `all`, or counted when the step runs", path,
                "a number", help_text="for fixed rows: `cache: {append: \"row < 1\"}` in the "
                "forward, and `keep all`",
            )  # fmt: skip
            return False
        found = self.reader.reference(path, words[1], scope, Count, offset=text.index(words[1]))
        if found is None:
            return False
        appended = sum(self.reader.appended(node.op) for node in step.nodes)
        if isinstance(found[1], Count) and found[1].high > appended:
            self.reader.error(
                KEEP, f"up to {found[1].high} rows are kept of the {appended} that were appended",
                path, f"this is {found[1]}",
                help_text="append with `cache: append` in the forward whose rows are kept",
            )  # fmt: skip
            return False
        return found[0]

    def _carry(
        self,
        region: Path,
        initial: Mapping[str, tuple[Value | None, Type]],
        values: Mapping[str, tuple[Value, Type] | None],
    ) -> tuple[Carried, ...]:
        carry: list[Carried] = []
        for name, (first, type_) in initial.items():
            if name not in values:
                if self._get((*region, "emit")) is not None:
                    self.reader.error(
                        CARRY_WITHOUT_NEXT, f"the step does not say what `{name}` becomes",
                        ("carry", name), "carried from here", True,
                        help_text=f"add it to the step's emit: next: {{{name}: ...}}",
                    )  # fmt: skip
                continue
            found = values[name]
            if found is None or first is None:
                continue
            if isinstance(found[1], Unknown) or isinstance(type_, Unknown):
                continue
            if found[1] != type_:
                self.reader.error(
                    CARRY_CHANGES, f"`{name}` begins as {type_} and becomes {found[1]}",
                    (*region, "emit", "next", name), f"this is {found[1]}",
                    also=(("carry", name), f"this is {type_}"),
                )  # fmt: skip
                continue
            carry.append(Carried(name, type_, first, found[0]))
        for name in values:
            if name not in initial:
                meant = nearest(name, initial)
                self.reader.error(
                    NEXT_WITHOUT_CARRY, f"`{name}` is not carried",
                    (*region, "emit", "next", name),
                    f"did you mean `{meant}`?" if meant else "no value to begin with", True,
                    help_text=f"say what it begins as: carry: {{{name}: prefill....}}",
                )  # fmt: skip
        return tuple(carry)

    # Reading and reporting

    def _get(self, path: Path) -> Any:
        try:
            return self.source.at(path)
        except (KeyError, IndexError, TypeError):
            return None

    def _cycle(self, path: Path, cycle: list[str]) -> None:
        chain = " -> ".join(f"`{name}`" for name in (*cycle, cycle[0]))
        labels = [Label(self.source.span((*path, cycle[0]), key=True), "needs its own result")]
        for before, name in pairwise(cycle):
            text = f"needs `{before}`"
            labels.append(Label(self.source.span((*path, name), key=True), text, primary=False))
        help_text = "a value of the step before is carried: list it under `carry`"
        self.found.append(
            Diagnostic(CYCLE, "error", f"a cycle: {chain}", tuple(labels), (help_text,))
        )


def _labels(data: Any) -> Iterator[str]:
    """Yield the `kind` of every segment in the file, in order."""
    if isinstance(data, Mapping):
        for key, value in data.items():
            if key == "segments" and isinstance(value, list):
                for segment in value:
                    if isinstance(segment, Mapping) and isinstance(segment.get("kind"), str):
                        yield segment["kind"]
            else:
                yield from _labels(value)
    elif isinstance(data, list):
        for item in data:
            yield from _labels(item)


def _texts(value: Any) -> Iterator[str]:
    """Yield every string in a value, however deep, but for the settings inside a loop's body."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if key not in ("kind", "attention", "cache", "op"):
                yield from _texts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)
    elif hasattr(value, "model_fields_set"):
        yield from _texts({k: getattr(value, k) for k in value.model_fields_set})


def _quoted(names: Any) -> str:
    return ", ".join(f"`{name}`" for name in names)
