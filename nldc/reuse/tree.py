"""The data of a file as a tree whose every value knows its place, and back to plain data."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from nldc.diagnostics import Diagnostic, Label, Span
from nldc.source import MAX_DEPTH, MAX_NODES, TOO_LARGE, Path, Place, Source, Text

Scalar: TypeAlias = str | int | float | bool | None
WORD = re.compile(r"(?<![A-Za-z0-9_$])[A-Za-z_][A-Za-z0-9_]*")
"""A name in an expression; what begins with `$` is none."""


@dataclass(frozen=True)
class Tree:
    """A value of a file: a scalar, a list, or a mapping in the order of its keys."""

    value: Scalar | list[Tree] | dict[str, Tree]
    place: Place

    @property
    def items(self) -> dict[str, Tree]:
        """The parts of a mapping; none of anything else."""
        return self.value if isinstance(self.value, dict) else {}

    @property
    def is_mapping(self) -> bool:
        """Whether it is a mapping."""
        return isinstance(self.value, dict)

    @property
    def file(self) -> Text:
        """The file that the value stands in."""
        assert self.place.file is not None
        return self.place.file

    @property
    def span(self) -> Span:
        """The place of the value."""
        return self.file.span(*self.place.value)

    @property
    def key_span(self) -> Span:
        """The place of the key, or of the value of what has none."""
        if self.place.key is None:
            return self.span
        return (self.place.key_file or self.file).span(*self.place.key)

    def plain(self) -> Any:
        """Return the value as plain data."""
        if isinstance(self.value, dict):
            return {key: part.plain() for key, part in self.value.items()}
        if isinstance(self.value, list):
            return [part.plain() for part in self.value]
        return self.value

    def having(self, value: Scalar | list[Tree] | dict[str, Tree]) -> Tree:
        """Return another value at the same place."""
        return Tree(value, self.place)


def grown(source: Source, path: Path = ()) -> Tree:
    """Return a source's data, or the part of it at `path`, as a tree."""

    def grow(data: Any, path: Path) -> Tree:
        place = replace(source.spans[path], file=source.file)
        if isinstance(data, dict):
            return Tree({key: grow(part, (*path, key)) for key, part in data.items()}, place)
        if isinstance(data, list):
            return Tree([grow(part, (*path, n)) for n, part in enumerate(data)], place)
        return Tree(data, place)

    return grow(source.at(path), path)


def spread(tree: Tree, own: Text) -> tuple[dict[str, Any], dict[Path, Place]]:
    """Return a tree's plain data and the places of it; `own` is the file that places need not name.

    The tree is a mapping.
    """
    spans: dict[Path, Place] = {}

    def walk(part: Tree, path: Path) -> Any:
        place = part.place
        file = None if place.file == own else place.file
        key_file = place.key_file if place.key_file not in (None, place.file) else None
        spans[path] = replace(place, file=file, key_file=key_file)
        if isinstance(part.value, dict):
            return {key: walk(inner, (*path, key)) for key, inner in part.value.items()}
        if isinstance(part.value, list):
            return [walk(inner, (*path, n)) for n, inner in enumerate(part.value)]
        return part.value

    data = walk(tree, ())
    assert isinstance(data, dict)
    return data, spans


def words(tree: Tree) -> Iterator[str]:
    """Yield everything in a tree that could be a name, keys too."""
    if isinstance(tree.value, str):
        yield from WORD.findall(tree.value)
    for key, part in tree.items.items():
        yield key
        yield from words(part)
    if isinstance(tree.value, list):
        for part in tree.value:
            yield from words(part)


def too_large(tree: Tree) -> Diagnostic | None:
    """Return what is said of more values, or deeper ones, than one file may have; or None."""
    left, waiting = MAX_NODES, [(tree, 0)]
    while waiting:
        part, depth = waiting.pop()
        left -= 1
        if left < 0 or depth > MAX_DEPTH:
            what = f"more than {MAX_NODES} values"
            if depth > MAX_DEPTH:
                what = f"values that are nested more than {MAX_DEPTH} deep"
            message = f"put together, the strategy has {what}"
            return Diagnostic(TOO_LARGE, "error", message, (Label(part.span),))
        waiting += [(inner, depth + 1) for inner in reversed([*part.items.values()])]
        if isinstance(part.value, list):
            waiting += [(inner, depth + 1) for inner in reversed(part.value)]
    return None


def names_of(tree: Tree | None) -> Mapping[str, Tree]:
    """Return the parts of a mapping that may be missing."""
    return {} if tree is None else tree.items
