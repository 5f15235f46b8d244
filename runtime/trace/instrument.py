"""Generated code, with what a trace wants to know of each line added to it.

Beside each register that holds tokens or states lies its shadow: the same rows with numbers that
say where they come from (`run.py`). A shadow is made by the lines that make the register, of
shadows: what moves tokens moves their numbers. Where a forward runs, where a token is chosen and
where drafts are compared, the call goes through the run, which notes it.

The names that this adds are no identifiers, so no name of generated code is one of them.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

TRACER = "the tracer"
"""The global by which instrumented code finds who listens."""
RUN = "this run"
SHADOWS = "the shadows' batch"
RESULT = "what comes of it"
MOVES = ("begun", "fill", "fill_left", "gather_rows", "grouped_rows", "join", "mask", "rows",
         "take_rows")  # fmt: skip
"""Functions of `ops` that only move tokens, whatever these are."""
CHOOSES = ("head_choose", "head_choose_scored", "sample")
ACCEPTS = ("accept_longest_branch", "accept_longest_prefix")


def instrumented(source: str, file: str) -> ast.Module:
    """Return the code of a decoder's module that tells the global `TRACER` of what it does.

    Lines keep their numbers. A module without a decoder's methods comes back as it is.
    """
    module = ast.parse(source, file)
    for kind in module.body:
        if isinstance(kind, ast.ClassDef) and kind.name == "Decoder":
            for method in kind.body:
                if isinstance(method, ast.FunctionDef) and _emits(method):
                    method.body = list(_Method(method.name).whole(method))
    return ast.fix_missing_locations(module)


def _emits(method: ast.FunctionDef) -> bool:
    return any(_is_emission(each) for each in method.body)


def _is_emission(each: ast.stmt) -> bool:
    return isinstance(each, ast.Return) and _called(each.value) == ("", "Emit")


def _called(value: ast.expr | None) -> tuple[str, str]:
    """Return the owner and the name of the function that an expression calls, or two empty ones."""
    if isinstance(value, ast.Call):
        function = value.func
        if isinstance(function, ast.Name):
            return "", function.id
        if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
            return function.value.id, function.attr
    return "", ""


def _name(name: str) -> ast.Name:
    return ast.Name(name, ast.Load())


def _of_run(name: str, *arguments: ast.expr) -> ast.Call:
    return ast.Call(ast.Attribute(_name(RUN), name, ast.Load()), list(arguments), [])


def _set(name: str, value: ast.expr) -> ast.Assign:
    return ast.Assign([ast.Name(name, ast.Store())], value)


def _shadow(register: str) -> str:
    return f"{register}, its shadow"


class _Method:
    """Rewrites one method; `_shadowed` are the registers so far that have a shadow."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._shadowed: set[str] = set()

    def whole(self, method: ast.FunctionDef) -> Iterator[ast.stmt]:
        """Yield the statements of the method."""
        given = method.args.args[2].arg
        strategy = ast.Attribute(_name("self"), "STRATEGY", ast.Load())
        arguments = [_name("batch"), strategy, ast.Constant(self._name), _name(given)]
        begin = ast.Call(ast.Attribute(_name(TRACER), "begin", ast.Load()), arguments, [])
        first, *rest = method.body
        yield first
        for each in (
            _set(RUN, begin),
            _set(SHADOWS, ast.Attribute(_name(RUN), "shadows", ast.Load())),
            _set(_shadow(given), ast.Attribute(_name(RUN), "given", ast.Load())),
        ):
            yield ast.copy_location(each, first)
        self._shadowed.add(given)
        yield from self._body(rest)

    def _body(self, body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
        for each in body:
            for found in self._statement(each):
                yield ast.copy_location(found, each)

    def _statement(self, each: ast.stmt) -> Iterator[ast.stmt]:
        match each:
            case ast.Assign(targets=[ast.Name(id=register)], value=value):
                yield from self._assigned(each, register, value)
            case ast.Assign(targets=[ast.Tuple(elts=[ast.Name(id=register), *_])], value=value):
                yield from self._assigned(each, register, value)
            case ast.For():
                each.body = list(self._body(each.body))
                yield each
            case ast.Expr(value=ast.Call(args=[active, ast.Name() as held, after]) as call) if (
                _called(call) == ("ops", "advance")
            ):
                yield ast.Expr(ast.Call(call.func, [active, self._of(held), self._of(after)], []))
                yield each
                arguments = (ast.Constant(held.id), active, held, self._of(held))
                yield ast.Expr(_of_run("round", *arguments))
            case ast.Expr(value=ast.Call(args=[rows]) as call) if _called(call) == (
                "batch",
                "append",
            ):
                yield each
                yield ast.Expr(_of_run("append", rows))
            case ast.Return(value=ast.Call(keywords=keywords) as call) if _is_emission(each):
                by_name = {keyword.arg: keyword.value for keyword in keywords}
                yield _set(RESULT, call)
                tokens, carry = self._of(by_name["tokens"]), self._of(by_name["carry"])
                yield ast.Expr(_of_run("end", _name(RESULT), tokens, carry))
                yield ast.Return(_name(RESULT))
            case _:
                yield each

    def _assigned(self, each: ast.Assign, register: str, value: ast.expr) -> Iterator[ast.stmt]:
        """Yield what writes a register, and its shadow if it has one."""
        owner, name = _called(value)
        label = ast.Constant(register)
        shadow: ast.expr = ast.Attribute(_name(RUN), "shadow", ast.Load())
        if isinstance(value, ast.Name | ast.Attribute | ast.Subscript):
            shadow = self._of(value)
        elif not isinstance(value, ast.Call):
            self._shadowed.discard(register)
            yield each
            return
        elif owner == "batch" and name == "forward":
            value.func = ast.Attribute(_name(RUN), "forward", ast.Load())
        elif (owner == "batch" and name in CHOOSES) or (owner, name) == ("ops", "candidates"):
            rows = value.args[1 if owner == "ops" else 0]
            value.args = [ast.Constant(name), label, self._of(rows), value.func, *value.args]
            value.func = ast.Attribute(_name(RUN), "choose", ast.Load())
        elif owner == "ops" and name in ACCEPTS:
            shadows = [self._of(part) for part in value.args[:2]]
            value.args = [label, *shadows, value.func, *value.args]
            value.func = ast.Attribute(_name(RUN), "accept", ast.Load())
        elif owner == "ops" and name in ("lookup", "recall"):
            value.args = [value.func, *value.args]
            value.func = ast.Attribute(_name(RUN), "find", ast.Load())
        elif (owner == "batch" and name in ("head", "mix")) or (owner == "ops" and name in MOVES):
            shadow = self._of(value)
        else:
            self._shadowed.discard(register)
            yield each
            return
        yield each
        yield _set(_shadow(register), shadow)
        self._shadowed.add(register)

    def _of(self, value: ast.expr) -> ast.expr:
        """Return the expression for the shadow of what an expression is."""
        owner, name = _called(value)
        if isinstance(value, ast.Call):
            if (owner, name) == ("batch", "head"):
                return self._of(value.args[0])
            if (owner, name) == ("batch", "mix") and isinstance(value.args[0], ast.Tuple):
                return self._of(value.args[0].elts[0])
            if (owner, name) == ("ops", "fill_after_eos"):
                rows = value.args[1]
                return _of_run("fill_after_eos", value, rows, self._of(rows))
        found: ast.expr = _Shadows(self._shadowed).visit(_copied(value))
        return found


def _copied(value: ast.expr) -> ast.expr:
    return ast.parse(ast.unparse(value), mode="eval").body


class _Shadows(ast.NodeTransformer):
    """Puts shadows in the place of registers that have one."""

    def __init__(self, shadowed: set[str]) -> None:
        self._shadowed = shadowed

    def visit_Name(self, node: ast.Name) -> ast.Name:
        """Return the name of the shadow, or the name itself."""
        if node.id == "batch":
            return ast.Name(SHADOWS, node.ctx)
        return ast.Name(_shadow(node.id), node.ctx) if node.id in self._shadowed else node
