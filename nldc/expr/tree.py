"""The tree of an expression: frozen nodes that know where they stand in the text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, TypeAlias

MAX_LENGTH = 2000
MAX_DEPTH = 32
MAX_NODES = 256
MAX_INTEGER = 2**31 - 1
"""The largest integer that may be written or computed: what a kernel's int32 can hold."""

Value: TypeAlias = int | float | bool
Kind: TypeAlias = Literal["int", "float", "bool", "label"]


class ExprError(Exception):
    """A mistake in an expression, at the characters `start` to `end` of its text."""

    def __init__(
        self,
        message: str,
        start: int,
        end: int,
        help: str | None = None,  # noqa: A002 (as in Diagnostic)
    ) -> None:
        super().__init__(message)
        self.message = message
        self.start = start
        self.end = end
        self.help = help


@dataclass(frozen=True)
class Node:
    """A piece of an expression and where it stands in the text; equality ignores the place."""

    start: int = field(default=0, compare=False, kw_only=True)
    end: int = field(default=0, compare=False, kw_only=True)


@dataclass(frozen=True)
class Number(Node):
    """An integer or a float."""

    value: int | float


@dataclass(frozen=True)
class Boolean(Node):
    """`true` or `false`."""

    value: bool


@dataclass(frozen=True)
class Field(Node):
    """The selector `.name`."""

    name: str


@dataclass(frozen=True)
class Item(Node):
    """The selector `[index]`: a row's number, or a boolean predicate over rows."""

    index: Expr


@dataclass(frozen=True)
class Slice(Node):
    """The selector `[lower:upper]`; None is an open end."""

    lower: Expr | None
    upper: Expr | None


@dataclass(frozen=True)
class Ref(Node):
    """A name (`root` starts with `$` for a given one) and what is selected from it."""

    root: str
    selectors: tuple[Selector, ...] = ()

    @cached_property
    def parts(self) -> tuple[str, ...]:
        """The root and the leading fields: `("q", "kind")` of `q.kind`."""
        names = [self.root]
        for selector in self.selectors:
            if not isinstance(selector, Field):
                break
            names.append(selector.name)
        return tuple(names)

    @cached_property
    def dotted(self) -> str | None:
        """The name as written if it has no `[...]` selector, else None."""
        is_dotted = all(isinstance(selector, Field) for selector in self.selectors)
        return ".".join(self.parts) if is_dotted else None


@dataclass(frozen=True)
class Unary(Node):
    """`-operand`."""

    op: Literal["-"]
    operand: Expr


@dataclass(frozen=True)
class Binary(Node):
    """Arithmetic: `+`, `-`, `*`, and `//` and `%` that round down."""

    op: Literal["+", "-", "*", "//", "%"]
    left: Expr
    right: Expr


@dataclass(frozen=True)
class Compare(Node):
    """One comparison; they do not chain."""

    op: Literal["==", "!=", "<", "<=", ">", ">="]
    left: Expr
    right: Expr


@dataclass(frozen=True)
class Not(Node):
    """`not operand`."""

    operand: Expr


@dataclass(frozen=True)
class And(Node):
    """All of two or more terms."""

    terms: tuple[Expr, ...]


@dataclass(frozen=True)
class Or(Node):
    """Any of two or more terms."""

    terms: tuple[Expr, ...]


Expr: TypeAlias = Number | Boolean | Ref | Unary | Binary | Compare | Not | And | Or
Selector: TypeAlias = Field | Item | Slice
Lookup: TypeAlias = Callable[[Ref], Value | None] | Mapping[str, Value]


def children(node: Expr | Selector) -> tuple[Expr | Selector, ...]:
    """Return the parts of a node, in the order of the text."""
    match node:
        case Ref(_, selectors):
            return selectors
        case Item(index):
            return (index,)
        case Slice(lower, upper):
            return tuple(bound for bound in (lower, upper) if bound is not None)
        case Unary(_, operand) | Not(operand):
            return (operand,)
        case Binary(_, left, right) | Compare(_, left, right):
            return (left, right)
        case And(terms) | Or(terms):
            return terms
        case Number() | Boolean() | Field():
            return ()


def references(expr: Expr | Selector) -> tuple[Ref, ...]:
    """Return every name of the expression, those inside selectors too, in order."""
    found = (expr,) if isinstance(expr, Ref) else ()
    return found + tuple(ref for part in children(expr) for ref in references(part))
