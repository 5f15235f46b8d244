"""Which step runs: the one of the file, or of several the first whose condition holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nldc.diagnostics import nearest
from nldc.expr import Expr
from nldc.ir.facts import row_kinds
from nldc.ir.header import BAD_NAME
from nldc.ir.reader import Reader
from nldc.ir.types import Count
from nldc.ir.words import NAME, RULE
from nldc.shape import MISSING_KEY, WRONG_VALUE
from nldc.source import Path, Source

ROUTE = "NLD076"


@dataclass(frozen=True)
class Route:
    """A step's place in the file, the prefix of its nodes' names, and when it is taken.

    The condition of the last is None: it is taken otherwise.
    """

    path: Path
    prefix: str
    condition: Expr | None


def read_routes(source: Source, reader: Reader, counts: Mapping[str, Count]) -> tuple[Route, ...]:
    """Return the steps in the order in which they are tried; the last is taken otherwise.

    `counts` are the carried Counts, which conditions may name.
    """
    data = source.data if isinstance(source.data, Mapping) else {}
    steps = data.get("steps")
    if (steps is None) == ("step" not in data):
        message = "a strategy has either `step` or `steps`"
        place: Path = ("steps",) if steps is not None else ()
        reader.error(MISSING_KEY, message, place, "one of the two is required", True)
        return ()
    if steps is None:
        return (Route(("step",), "step", None),)
    conditions = data.get("route")
    if not isinstance(steps, Mapping) or not steps or not isinstance(conditions, Mapping):
        place = ("route",) if isinstance(steps, Mapping) and steps else ("steps",)
        help_text = "route: {single: live > 4}: the first that holds, else the last of `steps`"
        reader.error(WRONG_VALUE, "`steps` and `route` are mappings", place, "", True, help_text)
        return ()
    for name in conditions:
        if name not in steps:
            meant = nearest(name, steps)
            label = f"did you mean `{meant}`?" if meant else "no such step"
            reader.error(ROUTE, f"there is no step `{name}`", ("route", name), label, True)
    for name in steps:
        if not NAME.fullmatch(str(name)) or name in ("prefill", "step", "carry"):
            reader.error(BAD_NAME, f"`{name}` cannot name a step", ("steps", name), RULE, True)
    *others, last = steps
    routes: list[Route] = []
    for name in others:
        if name not in conditions:
            message = f"nothing says when the step `{name}` is taken"
            help_text = f"route: {{{name}: live > 4}}"
            reader.error(ROUTE, message, ("steps", name), "never taken", True, help_text)
            continue
        path: Path = ("route", name)
        expr = reader.expression(path, conditions[name])
        kinds = row_kinds((), (), {**reader.params, "live": 1, **dict.fromkeys(counts, 1)})
        if expr is not None and reader.is_condition(path, expr, kinds, real=True):
            condition = reader.printed(path, expr)
            if condition is not None:
                routes.append(Route(("steps", name), name, condition))
    if last in conditions:
        message = f"the last step, `{last}`, is taken whenever no other is"
        reader.error(ROUTE, message, ("route", last), "a condition has no effect", True)
    return (*routes, Route(("steps", last), last, None))
