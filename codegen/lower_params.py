"""What methods ask of the params that requests bring: constants of the module, and registers.

What an expression makes of such params and numbers alone is worked out by the host, as the
compiler would have, so that a value that a request brings gives the bits of one compiled in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

from nldc.codegen import program as p
from nldc.codegen.names import Scope
from nldc.expr import Binary, Compare, Expr, Number, Ref, Unary, kind_of, references, show
from nldc.ir.graph import Graph


class Params:
    """The constants of a module: its params, and what expressions over them are worth."""

    def __init__(self, scope: Scope, graph: Graph) -> None:
        self._scope = scope
        self._declared = graph.runtime
        self._constants = {name: scope.allot(name.upper()) for name in graph.runtime}
        self._worths: dict[Expr, p.Worth] = {}

    @property
    def brought(self) -> tuple[p.Brought, ...]:
        """The params, in the order of the file."""
        return tuple(
            p.Brought(self._constants[name], name, each.default, each.low, each.high, each.help)
            for name, each in self._declared.items()
        )

    @property
    def worths(self) -> tuple[p.Worth, ...]:
        """What expressions are worth, in order of first use."""
        return tuple(self._worths.values())

    def is_brought(self, expr: Expr) -> bool:
        """Whether an expression is a number that follows from such params alone."""
        if not isinstance(expr, Ref | Unary | Binary):
            return False
        named = [ref.dotted for ref in references(expr)]
        return bool(named) and all(name in self._declared for name in named)

    def is_whole(self, expr: Expr) -> bool:
        """Whether that number is a whole one."""
        kind = kind_of(expr, lambda ref: self._declared[ref.dotted or ""].type)
        return kind == "int"

    def constant(self, expr: Expr) -> str:
        """Return the constant that says what a sequence brings for such an expression."""
        if isinstance(expr, Ref):
            return self._constants[expr.dotted or ""]
        if expr not in self._worths:
            named = tuple(dict.fromkeys(ref.dotted or "" for ref in references(expr)))
            bound = self._scope.inside().allot_all(named)
            renamed = _renamed(expr, dict(zip(named, bound, strict=True)))
            self._worths[expr] = p.Worth(
                self._scope.allot(f"{named[0].upper()}_WORTH"),
                tuple(self._constants[name] for name in named),
                bound,
                renamed,
            )
        return self._worths[expr].name


class Asking:
    """What one method asks; each thing once, under a register of its own."""

    def __init__(self, params: Params, scope: Scope) -> None:
        self._params = params
        self._scope = scope
        self._asked: dict[tuple[str, str], p.Asked] = {}

    @property
    def asked(self) -> tuple[p.Asked, ...]:
        """Everything that was asked for, in order of first use."""
        return tuple(self._asked.values())

    def number(self, expr: Expr, role: str) -> float | str:
        """Return a number over params: itself if nothing is brought, else its register."""
        if isinstance(expr, Number):
            return float(expr.value)
        return self._register(expr, role)

    def rule(self, expr: Expr, role: str) -> Expr:
        """Return a rule with registers for what is brought of it."""
        if self._params.is_brought(expr):
            return Ref(self._register(expr, role))
        return _with_parts(expr, lambda part: self.rule(part, role))

    def condition(self, expr: Expr) -> Expr:
        """Return a condition on rows with registers for what is brought of it.

        In what is compared with scores numbers are as scores are, elsewhere they count.
        """
        if isinstance(expr, Compare):
            beside = any(ref.root == "score" for ref in references(expr))
            return self.rule(expr, "score" if beside else "count")
        return _with_parts(expr, self.condition)

    def _register(self, expr: Expr, role: str) -> str:
        constant = self._params.constant(expr)
        key = (constant, role)
        if key not in self._asked:
            wanted = show(expr) if isinstance(expr, Ref) else constant.lower()
            self._asked[key] = p.Asked(self._scope.allot(wanted), constant, role)
        return self._asked[key].register


def _renamed(expr: Expr, names: Mapping[str, str]) -> Expr:
    if isinstance(expr, Ref):
        return Ref(names[expr.dotted or ""])
    return _with_parts(expr, lambda part: _renamed(part, names))


def _with_parts(expr: Expr, made: Callable[[Expr], Expr]) -> Expr:
    """Return an expression with what is made of each expression that it consists of."""

    def of(part: Any) -> Any:
        if isinstance(part, tuple):
            return tuple(map(of, part))
        return made(part) if isinstance(part, Expr) else part

    return replace(expr, **{item.name: of(getattr(expr, item.name)) for item in fields(expr)})
