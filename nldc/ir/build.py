"""From a file to a graph: read the shape, resolve names, type every node. All mistakes at once.

A node with a mistake gets the type Unknown, which fits everywhere, so that one mistake is
reported once and the rest of the file is still checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from nldc.diagnostics import Diagnostic, Label, counted, nearest
from nldc.ir.branches import appended_places, storing
from nldc.ir.carried import MOST_PASSES, CarriedCounts, is_count
from nldc.ir.cut import CUT, behind_cuts
from nldc.ir.effects import leaves_rows
from nldc.ir.facts import ROW_FACTS
from nldc.ir.graph import Carried, Emission, Graph, Setting, Step, leading_to, run_order
from nldc.ir.header import read_header
from nldc.ir.make import make
from nldc.ir.make.loops import finish_loop
from nldc.ir.make.tokens import make_join
from nldc.ir.operands import operands
from nldc.ir.ops import MOST_ROUNDS, Accept, Forward, Node, Op, Region, Repeat, Value
from nldc.ir.reader import BAD_SIZE, Made, Reader, size_of
from nldc.ir.route import Route, read_routes
from nldc.ir.scope import PROMPT, Binding, Scope
from nldc.ir.size import Size
from nldc.ir.types import Count, Tokens, Type, Unknown
from nldc.ir.types import Path as Branch
from nldc.ir.within import outside
from nldc.ir.words import LABEL, NAME, NODE, RULE
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


@dataclass(frozen=True)
class Built:
    """A graph, or None where mistakes stand in its way, and everything that was found."""

    graph: Graph | None
    found: tuple[Diagnostic, ...]


def build(
    source: Source,
    settings: Mapping[str, Setting] | None = None,
    compat: str | None = None,
) -> Built:
    """Build the graph of a strategy for its params' defaults, changed by `settings`.

    `compat` is used instead of the preset that the file names, if it names one.

    Raises:
        StrategyError: `settings` names no param or a value outside its bounds.
    """
    known: Mapping[str, Count] = {}
    for _ in range(MOST_PASSES):
        builder = _Builder(source, dict(settings or {}), compat, known)
        built = builder.run()
        wider = None if built.graph is None else builder.counts.wider()
        if wider is None:
            return built
        known = wider
    builder.counts.unbounded()
    return Built(None, tuple(builder.found))


@dataclass
class _Builder:
    source: Source
    settings: Mapping[str, Setting]
    compat: str | None = None
    bounds: Mapping[str, Count] = field(default_factory=dict)
    found: list[Diagnostic] = field(default_factory=list)
    around: int = 1
    """Rounds of the loops around what is being made, multiplied."""

    def run(self) -> Built:
        header = read_header(self.source, self.settings, self.found)
        wrong = tuple(outside(self.source.within, header.params, header.runtime, header.broken))
        if wrong:
            return Built(None, (*self.found, *wrong))
        labels = dict(reversed([*_labels(self.source.data, ())]))
        self.kinds = tuple(dict.fromkeys(name for name, _ in _labels(self.source.data, ())))
        compat = self.compat or header.compat
        self.reader = Reader(
            self.source,
            header.params,
            self.kinds,
            header.adapters,
            self.found,
            compat,
            broken=header.broken,
            profiles=header.profiles,
            runtime=header.runtime,
        )
        self._check_labels(labels)
        self.counts = CarriedCounts(self.reader, self.bounds)
        self.starts: list[Node] = []
        prefill_scope = Scope({PROMPT: Binding(PROMPT, Tokens(Size(0, 1)))})
        prefill = self._region(("prefill",), "prefill", prefill_scope)
        handed_out = self._prefill_emit(prefill_scope)
        initial = self._initial(prefill_scope)
        routes = read_routes(self.source, self.reader, self.counts.types)
        made = [self._step(route, initial) for route in routes]
        steps = tuple(step for step in made if step is not None)
        if any(d.severity == "error" for d in self.found) or not steps or len(steps) < len(made):
            return Built(None, tuple(self.found))
        graph = Graph(
            name=header.name,
            summary=header.summary,
            guarantee=header.guarantee,
            params=header.params,
            checkpoint_params=header.checkpoint_params,
            limits=header.limits,
            profiles=header.profiles,
            runtime=header.runtime,
            adapters=header.adapters,
            prefill=Region((*prefill.nodes, *self.starts)),
            prefill_tokens=handed_out,
            carry=tuple(
                Carried(name, type_, value, self.counts.starts.get(name))
                for name, (value, type_) in initial.items()
                if value is not None
            ),
            kinds=self.kinds,
            steps=steps,
            compat=compat,
        )
        return Built(graph, tuple(self.found))

    def _check_labels(self, labels: Mapping[str, Path]) -> None:
        """Refuse labels that would mean something else where they are asked for."""
        for label, place in labels.items():
            if label in LABEL:
                self.reader.error(
                    BAD_NAME, f"`{label}` is a reserved name", place, "choose another kind",
                    help_text="a predicate or a choice of rows takes it for what it asks of rows",
                )  # fmt: skip
            elif label in self.reader.params:
                self.found.append(
                    Diagnostic(
                        BAD_NAME,
                        "error",
                        f"`{label}` is both a param and a kind of rows",
                        (
                            Label(self.source.span(("params", label), key=True), "the param"),
                            Label(self.source.span(place), "the kind", primary=False),
                        ),
                        (f"a predicate such as `kind == {label}` could mean either: rename one",),
                    )
                )

    def _step(self, route: Route, initial: Mapping[str, tuple[Value | None, Type]]) -> Step | None:
        carried = Scope(
            {
                name: Binding(f"carry.{name}", type_, self.source.span(("carry", name), key=True))
                for name, (_, type_) in initial.items()
            }
        )
        scope = Scope(outer=carried)
        region = self._region(route.path, route.prefix, scope)
        emit, values, joins = self._emit(route.path, route.prefix, scope, region)
        made = self._next(route.path, initial, values)
        for late, cut in behind_cuts(region):
            self.reader.error(
                CUT, f"a forward runs behind `{cut.name.split('.')[-1]}`, which a Count cuts",
                (*route.path, late.name.split(".", 1)[1]), "it would see rows that are not there",
                True, help_text="append last, or compute before it what does not need its rows",
            )  # fmt: skip
        if emit is None:
            return None
        return Step(route.prefix, route.condition, Region((*region.nodes, *joins)), emit, made)

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

    def _may_name(self, path: Path, name: Any, what: str) -> bool:
        """Whether a node or a carried value may be called so, or add that it may not."""
        if not isinstance(name, str) or not NAME.fullmatch(name):
            self.reader.error(BAD_NAME, f"`{name}` cannot name {what}", path, RULE, True)
            return False
        if name in NODE:
            self.reader.error(
                BAD_NAME, f"`{name}` is a reserved name", path, "choose another", True
            )
            return False
        return True

    def _node_model(self, path: Path, name: Any) -> OpModel | None:
        if not self._may_name(path, name, "a node"):
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
        numbers = {*ROW_FACTS, *self.kinds, *self.reader.params}
        last_effect: str | None = None
        for name, model in models.items():
            if model is None:
                continue
            for named in operands(model.op, model, numbers):
                if named in models and named != loop:
                    yield named, name
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
        if made is None or not self._may_take(here, made[0]):
            return None
        return Node(full, made[0], made[1], span)

    def _may_take(self, path: Path, op: Op) -> bool:
        """Whether a loop takes no more rounds than a step may, or add that it does."""
        if not isinstance(op, Repeat) or self.around * op.at_most <= MOST_ROUNDS:
            return True
        keys = [("at_most",), ("commit", "steps"), ("rows",)]
        place = next((*path, *key) for key in keys if (*path, *key) in self.source.spans)
        many = f"{op.at_most} rounds"
        if self.around > 1:
            many += f" in each of the {self.around} of the loops around it"
        self.reader.error(
            BAD_SIZE, f"a step may take {self.around * op.at_most} rounds of a loop", place, many,
            help_text=f"at most {MOST_ROUNDS}, those of loops inside one another multiplied",
        )  # fmt: skip
        return False

    def _repeat(self, path: Path, full: str, model: RepeatOp, scope: Scope) -> Made | None:
        variable: str = model.on
        initial = self.reader.rows_reference((*path, "on"), variable, scope)
        at_most = self.reader.whole((*path, "at_most"), model.at_most, low=1, high=MOST_ROUNDS)
        if variable not in model.body:
            self.reader.error(
                MISSING_KEY, f"the body of `repeat` makes no `{variable}`", (*path, "body"),
                f"a node `{variable}` is the next value of `on`", True,
            )  # fmt: skip
            return None
        type_: Type = Unknown() if initial is None else initial[1]
        loop = Scope({variable: Binding(f"{full}:{variable}", type_)}, outer=scope)
        around, self.around = self.around, self.around * (at_most or 1)
        body = self._region((*path, "body"), full, Scope(outer=loop), loop=variable)
        self.around = around
        for node in body.nodes:
            name = node.name.rsplit(".", 1)[1]
            if not leaves_rows(node.op):
                continue
            if isinstance(node.op, Repeat):
                self.reader.error(
                    APPEND_IN_REPEAT, "a loop inside `repeat` leaves its keys in the cache",
                    (*path, "body", name), "write `keys: dropped`", True,
                    help_text="how often a loop runs differs by sequence: append after it",
                )  # fmt: skip
            else:
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
            other = f"{result.type}"
            other += ", laid out otherwise" * (other == f"{type_}")
            self.reader.error(
                WRONG_TYPE, f"`{variable}` begins as {type_} and the body makes it {other}",
                (*path, "body", variable), f"this is {other}", True,
                help_text="each round's rows are laid out in the same segments, masks and kinds",
            )  # fmt: skip
            return None
        value = Value(result.name, result.span)
        least = 1 if model.until == "unchanged" else model.at_least
        op = Repeat(variable, initial[0], body, value, at_most, least, until=model.until)
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
        found = self.reader.reference((*path, "tokens"), model.tokens, scope, Tokens, ragged=True)
        return None if found is None else found[0]

    def _initial(self, scope: Scope) -> dict[str, tuple[Value | None, Type]]:
        carry = self._get(("carry",))
        initial: dict[str, tuple[Value | None, Type]] = {}
        nodes = {name: b for name, b in scope.names.items() if not name.startswith("$")}
        outside = Scope({f"prefill.{name}": b for name, b in nodes.items()})
        for name in carry if isinstance(carry, Mapping) else ():
            if not self._may_name(("carry", name), name, "a carried value"):
                initial[name] = (None, Unknown())
                continue
            if is_count(carry[name]):
                start = self.counts.begin(name, carry[name], scope)
                self.starts += [] if start is None else [start]
                value = None if start is None else Value(start.name, start.span)
                initial[name] = (value, Unknown() if start is None else start.type)
                continue
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
        tokens = self.reader.reference((*path, "tokens"), model.tokens, scope, Tokens, ragged=True)
        keep = self._keep((*path, "cache"), model.cache, scope, step)
        values: dict[str, tuple[Value, Type] | None] = {}
        joins: list[Node] = []
        for name, expr in model.next.items():
            place = (*path, "next", name)
            if name in self.counts.broken:
                values[name] = None
            elif name in self.counts.types:
                reckoned = self.counts.next(place, name, expr, scope, prefix)
                joins += [] if reckoned is None else [reckoned]
                values[name] = None
                if reckoned is not None:
                    values[name] = (Value(reckoned.name, reckoned.span), reckoned.type)
            elif isinstance(expr, list):
                made = make_join(self.reader, place, expr, scope)
                node = f"{prefix}.{scope.allot(f'next_{name}')}"
                span = self.source.span(place)
                if made is not None:
                    joins.append(Node(node, made[0], made[1], span))
                values[name] = None if made is None else (Value(node, span), made[1])
            else:
                values[name] = self.reader.reference(place, expr, scope, Tokens)
        if tokens is None or keep is False or not self._goes_on((*path, "tokens"), tokens):
            return None, values, tuple(joins)
        return Emission(tokens[0], None if keep is True else keep), values, tuple(joins)

    def _goes_on(self, path: Path, tokens: tuple[Value, Type]) -> bool:
        """Whether a step surely emits a token, or add that decoding might go on for ever.

        Where `exact` is promised, the proof knows better what is wrong with a step that may not.
        """
        value, type_ = tokens
        if not isinstance(type_, Tokens):
            return True
        if type_.size == Size(0):
            self.reader.error(
                BAD_SIZE, "the step emits no tokens", path, f"this is {type_}",
                help_text="a step is taken until every sequence is done: it emits one or more",
            )  # fmt: skip
            return False
        if not type_.ragged or type_.least or self.source.data.get("guarantee") != "none":
            return True
        bonus = f"{value.node.partition('.')[2]}.tokens" if value.field == "drafted" else None
        self.reader.error(
            MISSING_EMIT, "the step may emit nothing", path, f"{type_}, and sometimes none",
            help_text="a step is taken until every sequence is done: it emits one or more"
            + (f", as `{bonus}` does, which ends with the bonus token" if bonus else ""),
        )  # fmt: skip
        return False

    def _keep(self, path: Path, text: str, scope: Scope, step: Region) -> Value | bool:
        """Return the count to keep, True for all, or False after a mistake."""
        words = text.split(None, 1)
        if len(words) != 2 or words[0] != "keep":
            self.reader.error(
                KEEP, f"`{text}` is no cache effect", path,
                "`keep all`, `keep COUNT` or `keep PATH`",
            )  # fmt: skip
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
        offset = text.index(words[1])
        found = self.reader.reference(path, words[1], scope, Count, Branch, offset=offset)
        if found is None:
            return False
        if isinstance(found[1], Branch):
            return found[0] if self._keeps_branch(path, found[0], step) else False
        appended = sum(self.reader.appended(node.op) for node in step.nodes)
        whole = not any(isinstance(b.type, Unknown) for b in scope.names.values())
        if whole and isinstance(found[1], Count) and found[1].high > appended:
            self.reader.error(
                KEEP, f"up to {found[1].high} rows are kept of the {appended} that were appended",
                path, f"this is {found[1]}",
                help_text="append with `cache: append` in the forward whose rows are kept",
            )  # fmt: skip
            return False
        return found[0]

    def _keeps_branch(self, path: Path, keep: Value, step: Region) -> bool:
        """Whether one forward appends the rows of every branch, or add what stands in the way."""
        nodes = {node.name: node for node in step.nodes}
        accept = nodes[keep.node].op
        assert isinstance(accept, Accept)
        stored = storing(step.nodes)
        label, help_text = "", "rows of the path are those of the forward that computes the draft"
        if len(stored) != 1:
            label = f"{counted(len(stored), 'node')} of the step append to the cache"
        elif not isinstance(stored[0].op, Forward) or (
            (stored[0].op.rows.node, stored[0].op.rows.picks)
            != (accept.draft.node, accept.draft.picks)
        ):
            label = f"`{stored[0].name.rpartition('.')[2]}` computes other rows"
        else:
            there = appended_places(stored[0], self.kinds)
            lost = [row for rows in accept.branches for row in rows if row not in there]
            if lost:
                label = f"row {lost[0]} of a branch is not appended"
        if label:
            self.reader.error(
                KEEP, "a path is kept of the one forward that appends its rows", path, label,
                help_text=help_text,
            )  # fmt: skip
        return not label

    def _next(
        self,
        region: Path,
        initial: Mapping[str, tuple[Value | None, Type]],
        values: Mapping[str, tuple[Value, Type] | None],
    ) -> tuple[tuple[str, Value], ...]:
        made: list[tuple[str, Value]] = []
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
                    help_text=_carry_help(
                        name, type_, self._get((*region, "emit", "next", name)), found[1]
                    ),
                )  # fmt: skip
                continue
            made.append((name, found[0]))
        for name in values:
            if name not in initial:
                meant = nearest(name, initial)
                self.reader.error(
                    NEXT_WITHOUT_CARRY, f"`{name}` is not carried",
                    (*region, "emit", "next", name),
                    f"did you mean `{meant}`?" if meant else "no value to begin with", True,
                    help_text=f"say what it begins as: carry: {{{name}: prefill....}}",
                )  # fmt: skip
        return tuple(made)

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


def _labels(data: Any, path: Path) -> Iterator[tuple[str, Path]]:
    """Yield the `kind` of every segment in the file and its place, in order."""
    if isinstance(data, Mapping):
        for key, value in data.items():
            if key == "segments" and isinstance(value, list):
                for number, segment in enumerate(value):
                    if isinstance(segment, Mapping) and isinstance(segment.get("kind"), str):
                        yield segment["kind"], (*path, key, number, "kind")
            else:
                yield from _labels(value, (*path, key))
    elif isinstance(data, list):
        for number, item in enumerate(data):
            yield from _labels(item, (*path, number))


def _quoted(names: Any) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _carry_help(name: str, begins: Type, written: Any, becomes: Type) -> str:
    """Return what to change where a carried value does not keep its type; `written` is the file's.

    Both hold a number of tokens that does not depend on the prompt.
    """
    few, many = size_of(begins).at(0), size_of(becomes).at(0)
    if few > many:
        return f"begin `{name}` with {becomes}, or carry {begins} on"
    shown = ""
    if isinstance(written, str) and "[" not in written:
        shown = f", as in `{written}{'.last' if few == 1 else f'[0:{few}]'}`,"
    return f"choose {counted(few, 'row')} of the {many}{shown} or begin `{name}` with {becomes}"
