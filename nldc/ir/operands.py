"""Which nodes a node refers to, by the texts of its keys: what decides the order in which they run.

Texts that cannot be read count as referring to nothing: what is wrong with them is said elsewhere.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from nldc.expr import ExprError, parse, references
from nldc.schema import OPS


def operands(op: str, part: Any, numbers: Collection[str]) -> Iterator[str]:
    """Yield the names that an op refers to, those that a loop's body takes from outside too.

    `part` holds the op's keys, as a model or a mapping. `numbers` are the params, labels and row
    facts, which name no node inside the brackets of a choice of rows.
    """
    for key in OPS[op].REFERS if op in OPS else ():
        for text in _texts(_at(part, key)):
            yield from _named(text, numbers)
    body = _at(part, "body") if op == "repeat" else None
    if isinstance(body, Mapping):
        for inner in body.values():
            if isinstance(inner, Mapping):
                found = operands(str(inner.get("op")), inner, numbers)
                yield from (name for name in found if name not in body)


def _at(part: Any, key: str) -> Any:
    return part.get(key) if isinstance(part, Mapping) else getattr(part, key, None)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            # Of a segment of rows, only its tokens are a value of the graph.
            yield from _texts(item if isinstance(item, str) else _at(item, "tokens"))


def _named(text: str, numbers: Collection[str]) -> Iterator[str]:
    try:
        whole = parse(text)
    except ExprError:
        return
    for ref in references(whole):
        if ref is whole or ref.dotted not in numbers:
            yield ref.root
