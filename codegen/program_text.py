"""The stable text form of a program: one line an instruction, for golden files and artifacts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import MISSING, fields
from typing import Any

from nldc.codegen import program as p
from nldc.codegen.compact import show_affine, show_column, show_flags, show_list, show_table
from nldc.codegen.costs import Costs, costs
from nldc.codegen.writer import Line, commented, text_of
from nldc.diagnostics import InternalError
from nldc.expr import Expr, show
from nldc.ir.size import Size

ALONE = ("name", "origin", "body")
"""Fields that are shown in a place of their own."""


def show_program(program: p.Program) -> str:
    """Return the program as text: needs, constants, methods, and what each of those costs."""
    return text_of(program_lines(program))


def program_lines(program: p.Program) -> list[Line]:
    """Return the lines of that text, each with the nodes that it comes from."""
    needs, room = program.needs, program.room
    lines = [f"program {program.strategy} guarantee {program.guarantee}"]
    lines += [f"compat {program.compat}"] * (program.compat is not None)
    lines += [f"param {name} = {value}" for name, value in program.params]
    for name, optional in needs.adapters:
        lines.append(f"needs adapter {name}{' optional' if optional else ''}")
    lines += [f"needs {name} = {key} ({value})" for name, key, value in needs.checkpoint]
    lines += ["needs a model that diffuses"] * needs.diffuses
    lines += ["needs texts on the device"] * needs.texts
    lines += ["needs the prompt in steps"] * needs.prompt
    lines.append(f"room scratch {room.scratch} prompt {room.prompt} token {room.token}")
    lines += [f"kind {number} = {kind}" for number, kind in enumerate(program.kinds)]
    found = [*map(Line, lines)]
    for layout in program.layouts:
        found += _layout(layout)
    lines = [f"brought {each.name} = param {each.param}" for each in program.brought]
    lines += [
        f"worth {each.name} = {', '.join(each.bound)}: {show(each.expr)}" for each in program.worths
    ]
    lines += [f"table {table.name} = {show_table(table.lines)}" for table in program.tables]
    found += map(Line, lines)
    for pattern in program.patterns:
        said = [
            name for name in ("sees_prefix", "looks_back", "asks_prompt") if getattr(pattern, name)
        ]
        text = " ".join([f"pattern {pattern.name} = {show(pattern.predicate)}", *said])
        found.append(_line(f"{text} in {pattern.kernel}", pattern.origin))
    counted = costs(program)
    for method in program.methods:
        found += _method(method, counted[method.name])
    lines = [f"while {show(choice.condition)}: {choice.step}" for choice in program.choices]
    lines += [f"routed by {', '.join(name for name, _ in program.routed_by)}"] * bool(
        program.routed_by
    )
    lines += [f"otherwise: {program.steps[-1].name}"] * bool(program.choices)
    return [*found, *map(Line, lines)]


def _line(text: str, *origins: p.Origin) -> Line:
    places = "; ".join(commented(origin.shown) for origin in origins)
    return Line(f"{text}  # {places}", tuple(origin.node for origin in origins))


def _layout(layout: p.Layout) -> Iterator[Line]:
    rows = f"{show_affine(layout.size)} rows{' plain' if layout.plain else ''}"
    head = _line(f"layout {layout.name}: {rows}", *layout.origins)
    yield head
    if isinstance(layout, p.FixedLayout):
        numbers = ("kind", "group", "index", "row", "offset")
        facts = {name: show_list(getattr(layout, name)) for name in numbers}
        facts["predicts_next"] = show_flags(layout.predicts_next)
        facts["append"] = f"{layout.append}{' branched' if layout.branched else ''}"
    else:
        columns = ("kind", "group", "index", "row", "offset", "predicts_next")
        facts = {name: show_column(getattr(layout, name), "prompt") for name in columns}
        if layout.append is None:
            facts["stays"] = show_column(layout.stays, "prompt")
        else:
            facts["append"] = show_affine(layout.append)
    # Of a plain layout, the rest goes without saying.
    said = ("predicts_next", "append") if layout.plain else tuple(facts)
    yield from (Line(f"  {name} = {facts[name]}", head.nodes) for name in said if name in facts)


def _method(method: p.Method, cost: Costs) -> Iterator[Line]:
    yield Line(f"{method.name}:")
    for name, register in method.carried:
        yield Line(f"  {register} = carry {name}", (f"carry.{name}",))
    for each in method.asked:
        yield Line(f"  {each.register} = {each.role} {each.constant}")
    yield from _body(method.body, 1)
    commit = method.commit
    shown = [f"tokens={'none' if commit.tokens is None else _part(commit.tokens)}"]
    shown += [
        f"{name}={_part(use)}"
        for name, use in (("count", commit.count), ("keep", commit.keep), ("path", commit.path))
        if use is not None
    ]
    shown += [f"carry {name}={_part(use)}" for name, use in commit.carry]
    shown += [f"told {name}" for name in commit.told]
    emits = tuple(f"{region}.emit" for region in method.regions)
    yield Line(f"  commit {' '.join(shown)}", emits)
    yield from map(Line, _costs("costs", cost, 1))


def _body(body: Iterable[p.Instruction], depth: int) -> Iterator[Line]:
    pad = "  " * depth
    for each in body:
        shown = [
            f"{item.name}={_part(value)}"
            for item in fields(each)
            if item.name not in ALONE
            and (item.default is MISSING or getattr(each, item.name) != item.default)
            for value in [getattr(each, item.name)]
        ]
        op = type(each).__name__.lower()
        yield _line(f"{pad}{each.name} = {' '.join([op, *shown])}", each.origin)
        if isinstance(each, p.Loop):
            yield from _body(each.body, depth + 1)


def _part(part: Any) -> str:
    """Show one field of an instruction."""
    match part:
        case p.Use(register, name, rows):
            text = register if name is None else f"{register}.{name}"
            return text if rows is None else f"{text}[{_part(rows)}]"
        case p.States(use, size):
            return f"head({_part(use)}: {show_affine(size, 'length')})"
        case p.Run(start, stop):
            return f"{show_affine(start, 'length')}:{show_affine(stop, 'length')}"
        case p.Listed(runs, through):
            listed = ", ".join(map(_part, runs))
            return listed if through is None else f"{listed} in {through}"
        case p.Numbers(table) | p.AdaptedTable(table):
            return str(table)
        case p.ByCount(table, count, low) | p.Length(table, count, low):
            return f"{table} by {_part(count)} from {low}"
        case p.AdaptedColumn(column, through):
            text = show_column(column, "length")
            return text if through is None else f"{text} in {through}"
        case p.RawScore(name, _, by):
            return f"{name}={by}"
        case p.Least(parts):
            return f"least of {', '.join(map(_part, parts))}"
        case p.Rule(name, limit):
            return f"{name}=({show(limit)})"
        case p.Condition(expr, bound):
            return f"({', '.join(bound)}: {show(expr)})"
        case tuple():
            return f"[{', '.join(map(_part, part))}]"
        case bool() | int() | float() | str() | None:
            return str(part)
        case Size():
            return show_affine(part, "length")
        case _ if isinstance(part, Expr):
            return f"({show(part)})"
        case _:
            raise InternalError(f"{type(part).__name__} in a program")


def _costs(label: str, cost: Costs, depth: int) -> Iterator[str]:
    pad = "  " * depth
    named = {
        "rows": show_affine(cost.rows, "length"),
        "head rows": show_affine(cost.head_rows, "length"),
    }
    counted = [
        f"forwards {cost.forwards} ({named['rows']} rows)",
        f"heads {cost.heads} ({named['head rows']} rows)",
        f"ops {cost.ops}",
        f"waits {cost.waits}",
        f"host reads {cost.host_reads}",
    ]
    yield f"{pad}{label}: {', '.join(counted)}"
    for loop in cost.loops:
        rounds = f"each of {loop.at_least} to {loop.at_most} rounds of {loop.node}"
        yield from _costs(rounds, loop.round, depth + 1)
