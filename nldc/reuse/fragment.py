"""A fragment: nodes under a name, with what they take, what they yield, and params of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nldc.diagnostics import Diagnostic, Label, StrategyError, nearest
from nldc.ir.words import FRAGMENT, FRAGMENT_KIND, NAME, RULE
from nldc.reuse.reach import refused
from nldc.reuse.tree import Tree, grown, names_of, words
from nldc.schema import Fragment as Model
from nldc.shape import fit
from nldc.source import Path, Source

FRAGMENT_FORM = "NLD023"


@dataclass(frozen=True)
class Fragment:
    """A fragment that was read: its nodes are as written, its names are each one thing.

    `kinds` are the kinds of rows that its nodes lay out, `own` every name that is its own.
    """

    name: str
    model: Model
    nodes: Tree
    kinds: frozenset[str]
    own: frozenset[str]


def read_fragment(source: Source, name: str, asked: Tree) -> Fragment:
    """Return a fragment of a file, for who includes it at `asked`.

    Raises:
        StrategyError: there is none of the name, or it is not well formed.
    """
    known = source.data.get("fragments")
    if not isinstance(known, Mapping) or name not in known:
        names = known if isinstance(known, Mapping) else {}
        meant = nearest(name, names)
        listed = ", ".join(f"`{each}`" for each in names) or "none"
        label = f"did you mean `{meant}`?" if meant else f"its fragments are: {listed}"
        message = f"`{source.file.shown or source.name}` has no fragment `{name}`"
        raise refused(FRAGMENT_FORM, message, asked.span, label)
    found: list[Diagnostic] = []
    fragment = check_fragment(source, name, found)
    if fragment is None or found:
        raise StrategyError(found)
    return fragment


def check_fragment(source: Source, name: str, found: list[Diagnostic]) -> Fragment | None:
    """Return a fragment of a file; what is wrong with its form is added to `found`."""
    path: Path = ("fragments", name)
    model = fit(source, path, Model, found, f"fragment `{name}`")
    if model is None:
        return None
    inside: Path = (*path, "nodes")
    kinds: dict[str, Path] = {}
    for kind, at in _kinds(model.nodes, ()):
        kinds.setdefault(kind, (*inside, *at))
    places = [
        *((each, (*path, "params", each), "param") for each in model.params),
        *((each, (*path, "takes", n), "value") for n, each in enumerate(model.takes)),
        *((each, (*inside, *at), "node") for each, at in _nodes(model.nodes)),
        *((kind, at, "kind of rows") for kind, at in kinds.items()),
    ]
    looped = frozenset(_looped(model.nodes))
    seen: dict[str, str] = {}
    for each, at, what in places:
        key = what in ("node", "param")
        label = _wrong_name(each, what, seen, looped)
        if label is not None:
            message = f"`{each}` cannot name a {what} of a fragment"
            found.append(_error(source, message, at, label, key))
        seen.setdefault(each, what)
    for each, param in model.params.items():
        if getattr(param, "runtime", False):
            message = f"`{each}` is a param of a fragment, and requests bring those of strategies"
            label = "give the strategy a param, and the fragment its value by `with`"
            found.append(_error(source, message, (*path, "params", each, "runtime"), label))
    if model.yields not in model.nodes:
        meant = nearest(model.yields, model.nodes)
        label = f"did you mean `{meant}`?" if meant else "no node of the fragment"
        message = f"the fragment yields `{model.yields}`, which is none of its nodes"
        found.append(_error(source, message, (*path, "yields"), label))
    return Fragment(name, model, grown(source, inside), frozenset(kinds), frozenset(seen))


def _wrong_name(
    name: str, what: str, seen: Mapping[str, str], looped: frozenset[str]
) -> str | None:
    if not NAME.fullmatch(name):
        return RULE
    if name in (FRAGMENT_KIND if what == "kind of rows" else FRAGMENT):
        return "a word of the language"
    other = seen.get(name)
    if other is None or (other == what == "node"):
        return None
    # A loop goes on from a value that is taken: its body has a node of that name.
    is_loop = other == "value" and what == "node" and name in looped
    return None if is_loop else f"there is a {other} of this name"


def _nodes(nodes: Any) -> Iterator[tuple[str, Path]]:
    """Yield the names of nodes, those of bodies too, with the places of their keys."""
    for name, node in nodes.items() if isinstance(nodes, Mapping) else ():
        yield name, (name,)
        body = node.get("body") if isinstance(node, Mapping) else None
        for inner, at in _nodes(body):
            yield inner, (name, "body", *at)


def _looped(nodes: Any) -> Iterator[str]:
    for node in nodes.values() if isinstance(nodes, Mapping) else ():
        if isinstance(node, Mapping) and isinstance(node.get("body"), Mapping):
            yield str(node.get("on"))
            yield from _looped(node["body"])


def _kinds(data: Any, path: Path) -> Iterator[tuple[str, Path]]:
    if isinstance(data, Mapping):
        for key, value in data.items():
            if key == "segments" and isinstance(value, list):
                for n, segment in enumerate(value):
                    if isinstance(segment, Mapping) and isinstance(segment.get("kind"), str):
                        yield segment["kind"], (*path, key, n, "kind")
            else:
                yield from _kinds(value, (*path, key))
    elif isinstance(data, list):
        for n, value in enumerate(data):
            yield from _kinds(value, (*path, n))


def uses_of(nodes: Tree, name: str) -> bool:
    """Whether a node of a fragment's region, other than the one of that name, may name it."""
    return any(name in words(node) for key, node in names_of(nodes).items() if key != name)


def _error(source: Source, message: str, path: Path, label: str, key: bool = False) -> Diagnostic:
    return Diagnostic(FRAGMENT_FORM, "error", message, (Label(source.span(path, key=key), label),))
