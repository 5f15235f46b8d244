"""Other names in a fragment's nodes, wherever they stand, with the place of each kept.

Every name of a fragment is one thing, and no word of the language, so that a name can be replaced
wherever it stands alone: in expressions, as the key of a node or an adapter. Words of the language
that a key of an op takes (`by: margin`) are found by its schema and left as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from pydantic import TypeAdapter

from nldc.diagnostics import Diagnostic, Label
from nldc.expr import MAX_LENGTH
from nldc.ir.words import FRAGMENT
from nldc.reuse.tree import WORD, Tree
from nldc.schema import OPS
from nldc.source import Place, Text, offsets_of

FREE = "NLD024"
_WORDS = frozenset(FRAGMENT)


@dataclass
class Rename:
    """Puts other names in: `names` are expressions for own names, `kinds` names of kinds of rows.

    `file` is the fragment's file as whoever includes it sees it. `captured` are names that mean
    another thing inside the body that is being renamed, each with the own name that brought it.
    """

    names: Mapping[str, str | int | float]
    kinds: Mapping[str, str]
    file: Text
    found: list[Diagnostic]
    captured: dict[str, str] = field(default_factory=dict)

    def nodes(self, nodes: Mapping[str, Tree]) -> dict[str, Tree]:
        """Return nodes under their other names."""
        return {str(self.names.get(name, name)): self.node(node) for name, node in nodes.items()}

    def node(self, node: Tree) -> Tree:
        """Return a node with other names in it."""
        if not node.is_mapping:
            return self._here(node, node.value)
        op = node.items.get("op")
        schema = _schema(op.value) if op is not None and isinstance(op.value, str) else None
        parts: dict[str, Tree] = {}
        for key, part in node.items.items():
            if key == "body" and part.is_mapping:
                parts[key] = self._body(node, part)
            elif key == "with":
                parts[key] = self._value(part, ())
            elif schema is None or key in ("op", "include"):
                parts[key] = self._value(part, None)
            else:
                parts[key] = self._value(part, (_at(schema, key)), is_adapter=key == "adapter")
        return self._here(node, parts)

    def _body(self, node: Tree, body: Tree) -> Tree:
        """Return a loop's body, whose nodes and variable hide what is named like them."""
        before = dict(self.captured)
        on = node.items.get("on")
        for name in (*body.items, *([on.value] if on is not None else [])):
            if isinstance(name, str) and name in self.names:
                self.captured[str(self.names[name])] = name
        inner = self._here(body, self.nodes(body.items))
        self.captured = before
        return inner

    def _value(self, part: Tree, options: tuple[Any, ...] | None, is_adapter: bool = False) -> Tree:
        """Return a value with other names; `options` are the schemas that it may have.

        Without any, nothing is known of it and it stays as it is, to be refused later.
        """
        if isinstance(part.value, list):
            items = None if options is None else tuple(_items(options))
            return self._here(part, [self._value(item, items) for item in part.value])
        if isinstance(part.value, dict):
            inner = {
                self._key(key, part, is_adapter): self._value(
                    value, None if options is None else tuple(_parts(options, key))
                )
                for key, value in part.value.items()
            }
            return self._here(part, inner)
        if options is None or not isinstance(part.value, str) or _is_word(options, part.value):
            return self._here(part, part.value)
        return self._text(part, part.value)

    def _key(self, key: str, part: Tree, is_adapter: bool) -> str:
        if not is_adapter:
            return key
        if key not in self.names:
            self._free(key, part.items[key], None)
        return str(self.names.get(key, key))

    def _text(self, part: Tree, text: str) -> Tree:
        """Return an expression with other names, whose characters know where they come from."""
        if text in self.names and not isinstance(self.names[text], str):
            return self._here(part, self.names[text])
        offsets = offsets_of(part.place, text, self.file)
        out, origins, last = "", list[int](), 0
        for match in WORD.finditer(text):
            name, (start, end) = match[0], match.span()
            new = self._new_name(name, text[:start], part, (start, end))
            out += text[last:start] + new
            if offsets is not None:
                origins += offsets[last:start]
                head, tail = offsets[start], offsets[end - 1]
                origins += [head, *[tail] * (len(new) - 1)]
            last = end
        out += text[last:]
        for given in re.finditer(r"\$\w*", text):
            self._free(given[0], part, given.span())
        if out == text:
            return self._here(part, text)
        if len(out) > MAX_LENGTH:
            message = f"with what it is given, this is longer than {MAX_LENGTH} characters"
            self.found.append(Diagnostic(FREE, "error", message, (self._label(part, None, ""),)))
            return self._here(part, text)
        known = None if offsets is None else (*origins, *offsets[last:])
        tree = self._here(part, out)
        return Tree(out, replace(tree.place, offsets=known))

    def _new_name(self, name: str, before: str, part: Tree, at: tuple[int, int]) -> str:
        is_field = before.rstrip().endswith(".")
        if name in self.kinds:
            return self.kinds[name]
        if is_field or name in _WORDS:
            return name
        if name not in self.names:
            self._free(name, part, at)
            return name
        new = _embedded(self.names[name])
        for word in WORD.findall(new):
            if self.captured.get(word, name) != name:
                message = f"`{name}` stands for `{new}`, which means another value in this body"
                self.found.append(
                    Diagnostic(FREE, "error", message, (self._label(part, at, "in the body"),))
                )
        return new

    def _free(self, name: str, part: Tree, at: tuple[int, int] | None) -> None:
        known = ", ".join(f"`{each}`" for each in (*self.names, *self.kinds))
        message = f"`{name}` is no name of the fragment"
        help_lines = (f"its names are {known}; take what is outside: takes: [{name}]",)
        label = self._label(part, at, "a fragment sees nothing outside")
        self.found.append(Diagnostic(FREE, "error", message, (label,), help_lines))

    def _label(self, part: Tree, at: tuple[int, int] | None, text: str) -> Label:
        if at is None:
            where = part.place.key or part.place.value
            return Label(self.file.span(*where), text)
        offsets = offsets_of(part.place, str(part.value), self.file)
        if offsets is None:
            return Label(self.file.span(*part.place.value), text)
        return Label(self.file.span(offsets[at[0]], offsets[at[1] - 1] + 1), text)

    def _here(self, part: Tree, value: Any) -> Tree:
        place: Place = replace(part.place, file=self.file)
        return Tree(value, place)


def _embedded(value: str | int | float) -> str:
    """Return a value as a part of an expression."""
    return f"({value})" if not isinstance(value, str) and value < 0 else str(value)


# What a key may hold, by the schema of its op


@cache
def _schema(op: str) -> dict[str, Any] | None:
    return TypeAdapter(OPS[op]).json_schema() if op in OPS else None


def _at(schema: dict[str, Any], key: str) -> tuple[Any, ...] | None:
    part = schema.get("properties", {}).get(key)
    return None if part is None else tuple(_options(schema.get("$defs", {}), part))


def _options(definitions: Mapping[str, Any], at: Any) -> Iterator[Any]:
    """Yield every schema that a value may have, with what it refers to beside it."""
    if "$ref" in at:
        at = definitions[at["$ref"].rsplit("/", 1)[1]]
    inner = (*at.get("anyOf", ()), *at.get("oneOf", ()))
    for option in inner:
        yield from _options(definitions, option)
    if not inner:
        yield {**at, "$defs": definitions}


def _items(options: tuple[Any, ...]) -> Iterator[Any]:
    for option in options:
        if isinstance(option.get("items"), dict):
            yield from _options(option["$defs"], option["items"])


def _parts(options: tuple[Any, ...], key: str) -> Iterator[Any]:
    for option in options:
        if key in option.get("properties", {}):
            yield from _options(option["$defs"], option["properties"][key])
        elif isinstance(option.get("additionalProperties"), dict):
            yield from _options(option["$defs"], option["additionalProperties"])


def _is_word(options: tuple[Any, ...], text: str) -> bool:
    """Whether a text is one of the words that are allowed there, and no expression."""
    return any(text in option.get("enum", ()) or text == option.get("const") for option in options)
