"""What every op is made with: references, sizes, expressions, and the mistakes in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nldc.diagnostics import Diagnostic, Label
from nldc.expr import Expr, ExprError, Ref, Selector, fold, kind_of, parse, references
from nldc.expr import Value as Constant
from nldc.ir.attributes import choose
from nldc.ir.by_request import COMPILED, Declared, named
from nldc.ir.effects import leaving
from nldc.ir.facts import (
    ROW_FACTS,
    BadPickError,
    RealNumberError,
    UnknownNameError,
    check_divisors,
    check_whole,
    row_kinds,
    rows_where,
)
from nldc.ir.graph import Adapter
from nldc.ir.layout import Layout, plain
from nldc.ir.ops import Op, Value
from nldc.ir.scope import Resolver, Scope, constant
from nldc.ir.size import Size
from nldc.ir.taper import Profile
from nldc.ir.types import Accepted, Count, Logits, Rows, Tokens, Type, Unknown
from nldc.ir.types import Path as RowPath
from nldc.source import Path, Source

EXPRESSION = "NLD030"
UNKNOWN_NAME = "NLD031"
BAD_PICK = "NLD035"
REAL_NUMBER = "NLD036"
WRONG_TYPE = "NLD050"
WRONG_SIZE = "NLD051"
BAD_SIZE = "NLD052"
ATTRIBUTE = "NLD055"
MAX_FLOAT32 = (2 - 2**-23) * 2.0**127
"""The largest number of float32, in which logits are mixed."""
Made = tuple[Op, Type]


@dataclass(frozen=True)
class Reader:
    """Reads the parts of ops for concrete params; mistakes are added to `found`.

    What uses one of the `broken` params is passed over: the mistake is where that is declared.
    `compat` sets the attributes that the file leaves open, but for the seed of the blocks in
    `verified`: a draft that `accept` checks begins with it in every engine. `profiles` are the
    params that no expression has, `noises` the nodes that make noise; `runtime` those params that
    requests bring, of which `params` has the defaults: they stand where a step asks, and are
    refused where what is written is compiled in.
    """

    source: Source
    params: Mapping[str, Constant]
    kinds: Sequence[str]
    adapters: Sequence[Adapter]
    found: list[Diagnostic]
    compat: str | None = None
    verified: set[str] = field(default_factory=set)
    broken: frozenset[str] = frozenset()
    profiles: Mapping[str, Profile] = field(default_factory=dict)
    noises: list[str] = field(default_factory=list)
    runtime: Declared = field(default_factory=dict)

    def attribute(self, name: str, written: str | None) -> Any:
        """Return the value of an attribute, by what is written or the file's preset."""
        return choose(name, written, self.compat)

    def appended(self, op: Op) -> int:
        """Return how many rows of a step's forward, or loop, stay in the cache."""
        left = leaving(op)
        if left is None:
            return 0
        return len(rows_where(left.layout.rows(1), left.append, self.kinds))

    def rows_reference(self, path: Path, text: Any, scope: Scope) -> tuple[Value, Type] | None:
        """Return a reference to Rows."""
        return self.reference(path, text, scope, Rows)

    def reference(
        self,
        path: Path,
        text: Any,
        scope: Scope,
        *wanted: type,
        offset: int = 0,
        ragged: bool = False,
        pad_to: int | None = None,
    ) -> tuple[Value, Type] | None:
        """Return a value of one of the wanted types, or None after adding what is wrong.

        `ragged`: tokens whose number differs by sequence will do. `pad_to`: a choice of rows is
        padded to so many.
        """
        expr = self.expression(path, text, offset, runtime=True)
        if expr is None:
            return None
        chosen = expr.selectors if isinstance(expr, Ref) else ()
        if not all(self._is_compiled(path, part, offset) for part in chosen):
            return None
        if not isinstance(expr, Ref):
            self.error(WRONG_TYPE, f"`{text}` is not a value of the graph", path, "name a node")
            return None
        resolver = Resolver(scope, self.params, self.kinds, pad_to, ragged)
        span = self.source.inside(path, expr.start + offset, expr.end + offset)
        try:
            value, type_ = resolver.resolve(expr, span)
        except ExprError as problem:
            self.expression_error(path, problem, offset)
            return None
        is_ragged = isinstance(type_, Tokens | Logits) and type_.ragged
        if is_ragged and isinstance(type_, wanted) and not ragged:
            self.error(
                WRONG_TYPE, f"`{text}` is {type_}: how many differs by sequence", path,
                "a known number of tokens is needed here",
                help_text="`emit`, `forward`, `sample` and `accept` take them as they are; the "
                "`bonus` of an `accept` is always one",
            )  # fmt: skip
            return None
        if isinstance(type_, (Unknown, *wanted)):
            return value, type_
        names = " or ".join(w.__name__ for w in wanted)
        hint = None
        if isinstance(type_, Rows) and Tokens in wanted:
            return Value(value.node, span, "tokens"), Tokens(type_.size)
        if isinstance(type_, Accepted):
            hint = f"`{text}.tokens`, `.drafted`, `.rows`, `.matches` and `.bonus` are its fields"
        if isinstance(type_, Logits) and Tokens in wanted:
            hint = "choose tokens from logits with `sample`"
        self.error(
            WRONG_TYPE, f"`{text}` is {type_}, expected {names}", path, f"this is {type_}",
            help_text=hint,
        )  # fmt: skip
        return None

    def whole(
        self,
        path: Path,
        text: Any,
        low: int,
        high: int = 2**31 - 1,
        extra: Mapping[str, Constant] | None = None,
    ) -> int | None:
        """Return a whole number between bounds from an expression over params."""
        expr = self.expression(path, text)
        if expr is None:
            return None
        try:
            value = constant(expr, {**self.params, **(extra or {})})
        except ExprError as problem:
            self.expression_error(path, problem)
            return None
        if not isinstance(value, int) or isinstance(value, bool):
            self.error(BAD_SIZE, f"`{text}` is {value}, not a whole number", path, "a size")
            return None
        if not low <= value <= high:
            named = {ref.dotted for ref in references(expr)}
            given = ", ".join(f"{name} = {n}" for name, n in self.params.items() if name in named)
            limit = f"at least {low}" if value < low else f"at most {high}"
            is_param = isinstance(expr, Ref)  # what it is says what the param is
            when = f" when {given}" if given and not is_param else ""
            name = next((part for part in reversed(path) if isinstance(part, str)), "this")
            is_written = str(text) == str(value)
            message = f"`{name}` cannot be {value}" if is_written else f"`{text}` is {value}{when}"
            self.error(BAD_SIZE, message, path, f"must be {limit}")
            return None
        return value

    def weight(self, path: Path, text: Any) -> float | Expr | None:
        """Return a real number from an expression over params; the expression, if requests bring
        some of them.
        """
        expr = self.expression(path, text, runtime=True)
        if expr is None:
            return None
        if any(named(expr, self.runtime)):
            return self.asked(path, text)
        try:
            value = constant(expr, self.params)
        except ExprError as problem:
            self.expression_error(path, problem)
            return None
        if isinstance(value, bool):
            self.error(EXPRESSION, "expected a number", path, "this is a condition")
            return None
        if abs(value) > MAX_FLOAT32:
            label = f"logits are float32, which ends at {MAX_FLOAT32:.2e}"
            self.error(EXPRESSION, f"`{text}` is too large for a weight", path, label)
            return None
        return float(value)

    def asked(
        self,
        path: Path,
        text: Any,
        offset: int = 0,
        *,
        others: Sequence[str] = (),
        real: bool = True,
    ) -> Expr | None:
        """Return a number that is asked when a step runs, or None after adding what is wrong.

        It is over params, those that requests bring too, and `others`; whole unless `real`.
        """
        expr = self.expression(path, text, offset, runtime=True)
        kinds = row_kinds((), (), {**self.params, **dict.fromkeys(others, 0)})
        if expr is None or not self.is_number(path, expr, kinds, offset, real=real):
            return None
        return self.printed(path, expr, offset)

    def row_predicate(self, path: Path, text: str) -> Expr | None:
        """Return a condition over the facts of a row, or None after adding what is wrong."""
        expr = self.expression(path, text)
        kinds = row_kinds(ROW_FACTS, self.kinds, self.params)
        if expr is None or not self.is_condition(path, expr, kinds):
            return None
        return self.fold(expr)

    def fold(self, expr: Expr) -> Expr:
        """Replace params by their values, but for those that requests bring."""
        values = {name: each for name, each in self.params.items() if name not in self.runtime}
        return fold(expr, values)

    def printed(self, path: Path, expr: Expr, offset: int = 0) -> Expr | None:
        """Return what is asked again when a step runs, or None after adding why it cannot be."""
        folded = self.fold(expr)
        try:
            check_divisors(folded)
        except ExprError as problem:
            self.expression_error(path, problem, offset)
            return None
        return folded

    def expression(
        self, path: Path, text: Any, offset: int = 0, *, runtime: bool = False
    ) -> Expr | None:
        """Parse an expression; a bare number is one too.

        `runtime`: it is asked when a step runs, so that params of requests may stand in it.
        """
        try:
            expr = parse(str(text))
        except ExprError as problem:
            self.expression_error(path, problem, offset)
            return None
        if any(ref.root in self.broken for ref in references(expr)):
            return None
        return expr if runtime or self._is_compiled(path, expr, offset) else None

    def _is_compiled(self, path: Path, part: Expr | Selector, offset: int) -> bool:
        """Whether no param of requests stands in what is compiled in, or add that one does."""
        for ref in references(part):
            if ref.dotted in self.runtime:
                span = self.source.inside(path, ref.start + offset, ref.end + offset)
                declared = self.source.span(("params", ref.root, "runtime"), key=True)
                message = f"`{ref.root}` comes with a request, and this is compiled in"
                labels = (
                    Label(span, "fixed before there is any request"),
                    Label(declared, "each request may bring another value", primary=False),
                )
                help_text = f"compile `{ref.root}` in: leave `runtime: true` out"
                self.found.append(Diagnostic(COMPILED, "error", message, labels, (help_text,)))
                return False
        return True

    def is_condition(
        self, path: Path, expr: Expr, kinds: Any, *, real: bool = False, beside: str | None = None
    ) -> bool:
        """Whether the expression is a condition, or add that it is not.

        It may have real numbers if it is `real`, or where they are compared with `beside`.
        """
        is_one = self._is(path, expr, kinds, ("bool",), "a condition", 0)
        return is_one and (real or self._is_whole(path, expr, kinds, beside, 0))

    def is_number(
        self, path: Path, expr: Expr, kinds: Any, offset: int = 0, *, real: bool = False
    ) -> bool:
        """Whether the expression is a number, whole unless `real`, or add that it is not."""
        is_one = self._is(path, expr, kinds, ("int", "float"), "a number", offset)
        return is_one and (real or self._is_whole(path, expr, kinds, None, offset))

    def _is_whole(
        self, path: Path, expr: Expr, kinds: Any, beside: str | None, offset: int
    ) -> bool:
        try:
            check_whole(expr, kinds, beside)
        except ExprError as problem:
            self.expression_error(path, problem, offset)
            return False
        return True

    def _is(
        self, path: Path, expr: Expr, kinds: Any, wanted: tuple[str, ...], what: str, offset: int
    ) -> bool:
        try:
            found = kind_of(expr, kinds)
        except ExprError as problem:
            self.expression_error(path, problem, offset)
            return False
        if found in wanted:
            return True
        self.error(EXPRESSION, f"expected {what}", path, f"this is {found}")
        return False

    def same_size(
        self,
        path: Path,
        first: tuple[str, tuple[Value, Type]],
        second: tuple[str, tuple[Value, Type]],
    ) -> bool:
        """Whether two operands have as many rows, or add that they do not."""
        types = first[1][1], second[1][1]
        if any(isinstance(type_, Unknown) for type_ in types):
            return False
        if size_of(types[0]) == size_of(types[1]):
            return True
        self.error(
            WRONG_SIZE,
            f"`{second[0]}` has {size_of(types[1])} rows and `{first[0]}` has {size_of(types[0])}",
            (*path, second[0]), f"this is {types[1]}",
            also=((*path, first[0]), f"this is {types[0]}"),
        )  # fmt: skip
        return False

    def expression_error(self, path: Path, problem: ExprError, offset: int = 0) -> None:
        """Add a mistake inside an expression, at its characters."""
        span = self.source.inside(path, problem.start + offset, problem.end + offset)
        help_lines = () if problem.help is None else (problem.help,)
        label = Label(span, "here" if not problem.help else "")
        code = EXPRESSION
        if isinstance(problem, UnknownNameError):
            code = UNKNOWN_NAME
        elif isinstance(problem, BadPickError):
            code = BAD_PICK
        elif isinstance(problem, RealNumberError):
            code = REAL_NUMBER
        self.found.append(Diagnostic(code, "error", problem.message, (label,), help_lines))

    def error(
        self,
        code: str,
        message: str,
        path: Path,
        label: str,
        key: bool = False,
        help_text: str | None = None,
        also: tuple[Path, str] | None = None,
    ) -> None:
        """Add a mistake."""
        labels = [Label(self.source.span(path, key=key), label)]
        if also is not None:
            labels.append(Label(self.source.span(also[0]), also[1], primary=False))
        help_lines = () if help_text is None else (help_text,)
        self.found.append(Diagnostic(code, "error", message, tuple(labels), help_lines))


def size_of(type_: Type) -> Size:
    """Return how many rows or tokens a value has."""
    assert not isinstance(type_, (Accepted, Count, RowPath, Unknown))
    return type_.size


def layout_of(type_: Type) -> Layout | None:
    """Return the layout of rows to compute; tokens lie one after another."""
    match type_:
        case Rows(layout):
            return layout
        case Tokens(size):
            return plain(size)
        case _:
            return None
