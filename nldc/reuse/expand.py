"""Includes replaced by the nodes of their fragments, under names that meet no others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from nldc.diagnostics import Diagnostic, Label, Span, StrategyError, nearest
from nldc.expr import ExprError, Ref
from nldc.expr import parse as parse_expression
from nldc.reuse.fragment import FRAGMENT_FORM, Fragment, read_fragment, uses_of
from nldc.reuse.reach import CYCLE, MAX_CHAIN, Chain, Reach, refused
from nldc.reuse.rename import Rename
from nldc.reuse.tree import Tree, too_large, words
from nldc.source import MAX_FOUND, Source, Text, Within

MAX_NAME = 56
"""Longer names of inner nodes are cut, so that a number has room."""

MAX_WORDS = 60_000
"""So many names and keys may all includes bring together."""

Nodes = dict[str, Tree]


class _StopExpanding(Exception):  # noqa: N818 (not an error: the mistakes are in `found`)
    """There is no use in going on."""


@dataclass
class Expand:
    """One strategy's includes; `sources` has each file that includes stand in, by its text."""

    reach: Reach
    sources: dict[Text, tuple[Source, Chain]]
    taken: set[str]
    found: list[Diagnostic]
    within: list[Within] = field(default_factory=list)
    uses: list[str] = field(default_factory=list)
    size: int = 0
    fragments: dict[tuple[str, str], Fragment] = field(default_factory=dict)

    def whole(self, tree: Tree) -> Tree:
        """Return a strategy with its includes replaced.

        Where `found` has mistakes it means nothing.
        """
        try:
            return self._whole(tree)
        except _StopExpanding:
            return tree

    def _whole(self, tree: Tree) -> Tree:
        parts = dict(tree.items)
        for key in ("prefill", "step"):
            if key in parts:
                parts[key] = self._region(parts[key], key)
        if "steps" in parts:
            steps = parts["steps"]
            named = {name: self._region(part, name) for name, part in steps.items.items()}
            parts["steps"] = steps.having(named) if steps.is_mapping else steps
        return tree.having(parts)

    def _region(self, region: Tree, where: str) -> Tree:
        if not region.is_mapping:
            return region
        return region.having(self._nodes(region.items, where, None, ()))

    def _nodes(self, nodes: Nodes, where: str, loop: str | None, inside: Chain) -> Nodes:
        """Return nodes without includes; `loop` is the variable of the loop whose body they are.

        `inside` are the fragments that they come from.
        """
        out: Nodes = {}
        for name, node in nodes.items():
            body = node.items.get("body")
            if "include" in node.items:
                try:
                    out |= self._included(name, node, where, loop, inside)
                except StrategyError as error:
                    self.found += error.diagnostics
                    if self.size > MAX_WORDS or len(self.found) >= MAX_FOUND:
                        raise _StopExpanding from None  # what is left could take for ever
            elif body is not None and body.is_mapping:
                on = node.items.get("on")
                variable = str(on.value) if on is not None else None
                inner = self._nodes(body.items, f"{where}.{name}", variable, inside)
                out[name] = node.having({**node.items, "body": body.having(inner)})
            else:
                out[name] = node
        return out

    def _included(
        self, name: str, node: Tree, where: str, loop: str | None, inside: Chain
    ) -> Nodes:
        """Return the nodes that an include stands for.

        Raises:
            StrategyError: with what is wrong with it, or with the fragment.
        """
        asked = node.items["include"]
        source, chain, fragment = self._fragment(asked)
        mark = f"{chain[-1]}#{fragment.name}"
        if mark in inside:
            message = f"the fragment `{fragment.name}` includes itself"
            raise refused(CYCLE, message, asked.span, "included again here")
        if len(inside) >= MAX_CHAIN:
            message = f"fragments are included more than {MAX_CHAIN} deep"
            raise refused(CYCLE, message, asked.span, "one too many")
        if loop == name and uses_of(fragment.nodes, fragment.model.yields):
            message = (
                f"a node of the fragment names `{fragment.model.yields}`, and here `{name}` means "
                "the rows of the loop's round before"
            )
            raise refused(FRAGMENT_FORM, message, asked.span, "let its last node be what it yields")
        self.uses.append(f"{where}.{name} includes {fragment.name} of {source.file.shown}")
        file = replace(source.file, via=Label(asked.span, "included here", primary=False))
        self.sources[file] = (source, chain)
        names = self._arguments(node, source, fragment)
        inner = {n for n in fragment.own if n not in names and n not in fragment.kinds}
        for each in sorted(inner):
            names[each] = name if each == fragment.model.yields else self._allot(name, each)
        kinds = {each: self._allot(name, each) for each in sorted(fragment.kinds)}
        rename = Rename(names, kinds, file, self.found)
        made = rename.nodes(fragment.nodes.items)
        whole = fragment.nodes.having(made)
        large = too_large(whole)
        if large is not None:
            raise StrategyError([large])
        self._grow(whole, asked)
        made[name] = _called(made[name], node)
        self.taken.update(words(whole))
        return self._nodes(made, where, loop, (*inside, mark))

    def _grow(self, whole: Tree, asked: Tree) -> None:
        """Count what is put in, so that fragments of fragments cannot grow without end."""
        self.size += sum(1 for _ in words(whole))
        if self.size > MAX_WORDS:
            raise refused(CYCLE, "the includes make too large a strategy", asked.span, "too large")

    def _fragment(self, asked: Tree) -> tuple[Source, Chain, Fragment]:
        text = asked.value
        file, sign, name = text.rpartition("#") if isinstance(text, str) else ("", "", "")
        if not sign or not name:
            label = "write `FILE#FRAGMENT`, or `#FRAGMENT` in quotes for one of this file"
            raise refused(FRAGMENT_FORM, "an include names a fragment", asked.span, label)
        source, chain = self.sources[asked.file]
        if file:
            source, chain = self.reach.open(file, asked.span, asked.file, chain, "included here")
        key = (chain[-1], name)
        if key not in self.fragments:
            self.fragments[key] = read_fragment(source, name, asked)
        return source, chain, self.fragments[key]

    def _arguments(
        self, node: Tree, source: Source, fragment: Fragment
    ) -> dict[str, str | int | float]:
        """Return what each name stands for that the fragment takes, or has as a param."""
        model = fragment.model
        given = node.items.get("with")
        values = {} if given is None else given.items
        allowed = (*model.takes, *model.params)
        problems = list(_wrong_keys(node, given, allowed, fragment))
        misspelt = {nearest(key, allowed) for key in values if key not in allowed}
        names: dict[str, str | int | float] = {}
        for take in model.takes:
            value = values.get(take)
            if value is None and take in misspelt:
                continue  # said where the misspelt key is
            if value is None:
                label = f"`{take}` is missing here"
                span = node.items["include"].span if given is None else given.key_span
                problems.append(_error(f"`{fragment.name}` takes `{take}`", span, label))
            elif not isinstance(value.value, str) or not _is_reference(value.value):
                label = "write the name of a node, or of rows of it"
                problems.append(_error(f"`{take}` is a value of the graph", value.span, label))
            else:
                names[take] = value.value
        for param, declared in model.params.items():
            value = values.get(param)
            number = declared.default if value is None else value.value
            if isinstance(number, bool) or not isinstance(number, str | int | float):
                label = "a number, or an expression over params"
                problems.append(_error(f"`{param}` is a number", values[param].span, label))
                continue
            path = ("fragments", fragment.name, "params", param, "default")
            span = source.span(path) if value is None else value.span
            whole = declared.type == "int"
            what = f"`{param}` of the fragment `{fragment.name}`"
            low, high = declared.min, declared.max
            self.within.append(Within(what, str(number), span, whole, low, high))
            simple = not isinstance(number, str) or number.isidentifier()
            names[param] = number if simple else f"({number})"
        if problems:
            raise StrategyError(problems)
        return names

    def _allot(self, outer: str, inner: str) -> str:
        base = f"{outer}_{inner}"[:MAX_NAME]
        name, number = base, 2
        while name in self.taken:
            name, number = f"{base}_{number}", number + 1
        self.taken.add(name)
        return name


def _called(made: Tree, node: Tree) -> Tree:
    """Return the node that a fragment yields, whose name stands where it is included."""
    place = replace(made.place, key=node.place.key, key_file=node.place.key_file or node.place.file)
    return Tree(made.value, place)


def _wrong_keys(
    node: Tree, given: Tree | None, allowed: tuple[str, ...], fragment: Fragment
) -> Iterator[Diagnostic]:
    for key, part in node.items.items():
        if key not in ("include", "with"):
            label = "an include has `include` and `with`"
            yield _error(f"an include has no key `{key}`", part.key_span, label)
    if given is not None and not given.is_mapping:
        yield _error("`with` is not a mapping", given.span, "expected names and values")
    for key, part in ({} if given is None else given.items).items():
        if key not in allowed:
            meant = nearest(key, allowed)
            listed = ", ".join(f"`{each}`" for each in allowed) or "nothing"
            label = f"did you mean `{meant}`?" if meant else f"it takes {listed}"
            yield _error(f"`{fragment.name}` takes no `{key}`", part.key_span, label)


def _is_reference(text: str) -> bool:
    try:
        return isinstance(parse_expression(text), Ref)
    except ExprError:
        return False


def _error(message: str, span: Span, label: str) -> Diagnostic:
    return Diagnostic(FRAGMENT_FORM, "error", message, (Label(span, label),))
