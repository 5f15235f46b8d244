"""The params that a request brings, held against what its decoder's strategies declare."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from difflib import get_close_matches

from nldc.runtime.engine.arguments import plain
from nldc.runtime.errors import PromptError
from nldc.runtime.step.params import Param
from nldc.runtime.whole_numbers import as_whole, shown


def params_of(given: object, declared: Iterable[Param]) -> dict[str, int | float]:
    """Return the values that a request brings, checked; `declared` are those of all strategies.

    A value has to be in the range of every strategy that has a param of its name: a request may go
    on with any of them.

    Raises:
        PromptError: a name is unknown, or a value is of another type or out of range.
    """
    if given is None:
        return {}
    known = tuple(declared)
    if not isinstance(given, Mapping):
        raise PromptError(f"params {shown(given)} is not allowed", "give names with their values")
    return {name: _value(name, value, known) for name, value in given.items()}


def _value(name: object, value: object, known: tuple[Param, ...]) -> int | float:
    same = [param for param in known if param.name == name]
    if not same:
        message = f"there is no param {shown(name)} that a request brings"
        raise PromptError(message, _names(name, known))
    number: int | float | None = None
    for param in same:
        number = _number(param, value)
        if number is None or not param.low <= number <= param.high:
            what = "a whole number" if param.kind == "int" else "a number"
            raise PromptError(
                f"the param {name} = {shown(value)} is not allowed",
                f"use {what} from {param.low} to {param.high}; the default is {param.default}",
            )
    assert number is not None
    return number


def _number(param: Param, value: object) -> int | float | None:
    """Return a value as a number of a param's type; None: it is none."""
    whole = as_whole(value)
    if param.kind == "int":
        return whole
    number = whole if whole is not None else plain(value)
    if isinstance(number, bool) or not isinstance(number, int | float):
        return None
    try:
        number = float(number)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _names(name: object, known: tuple[Param, ...]) -> str:
    """Return the nearest name that is known, or all of them."""
    names = list(dict.fromkeys(param.name for param in known))
    near = get_close_matches(str(name), names, 1)
    if near:
        return f"did you mean {near[0]}?"
    if names:
        return f"the params are {', '.join(names)}"
    return "the strategy declares none with `runtime: true`; what is compiled in is set by --set"
