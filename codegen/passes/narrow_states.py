"""A forward over a prompt returns the states of the rows that somebody asks for, and no others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from nldc.codegen.program import (
    Chosen,
    Forward,
    Listed,
    Method,
    Program,
    PromptLayout,
    Run,
    States,
    Use,
    changed,
    walk,
)
from nldc.ir.size import Size


def narrow_states(program: Program) -> Program:
    """Return the program in which uses of such states count from the first that is returned."""
    prompts = {each.name for each in program.layouts if isinstance(each, PromptLayout)}

    def narrowed(method: Method) -> Method:
        asked: dict[str, list[Chosen | None]] = {}
        for states in _states(method):
            asked.setdefault(states.use.register, []).append(states.use.rows)
        for each in walk(method.body):
            if isinstance(each, Forward) and each.layout in prompts and each.name in asked:
                reach = _reach(asked[each.name])
                if reach is not None:
                    method = _narrow(method, each.name, reach)
        return method

    return replace(
        program,
        prefill=narrowed(program.prefill),
        steps=tuple(narrowed(step) for step in program.steps),
    )


def _states(method: Method) -> Iterator[States]:
    found: list[States] = []

    def change(part: Any) -> Any:
        if isinstance(part, States):
            found.append(part)
        return part

    changed(method, change)
    yield from found


def _reach(asked: Iterable[Chosen | None]) -> Run | None:
    """Return the run that holds all rows that are asked for, whatever the prompt's length.

    None: all rows are asked for, or no run begins first and none ends last for every prompt.
    """
    runs: list[Run] = []
    for rows in asked:
        match rows:
            case Run():
                runs.append(rows)
            case Listed(several, None):
                runs.extend(several)
            case _:
                return None
    starts, stops = [run.start for run in runs], [run.stop for run in runs]
    first = [start for start in starts if all(_at_most(start, other) for other in starts)]
    last = [stop for stop in stops if all(_at_most(other, stop) for other in stops)]
    return Run(first[0], last[0]) if first and last else None


def _at_most(one: Size, other: Size) -> bool:
    """Whether a size is no more than another, for a prompt of any length."""
    return one.prompts <= other.prompts and one.at(1) <= other.at(1)


def _narrow(method: Method, name: str, reach: Run) -> Method:
    def moved(run: Run) -> Run:
        return Run(_less(run.start, reach.start), _less(run.stop, reach.start))

    def change(part: Any) -> Any:
        if isinstance(part, Forward) and part.name == name:
            return replace(part, states=reach)
        if isinstance(part, States) and part.use.register == name:
            rows = part.use.rows
            if isinstance(rows, Listed):
                rows = Listed(tuple(map(moved, rows.runs)))
            elif isinstance(rows, Run):
                rows = None if rows == reach else moved(rows)
            return replace(part, use=Use(name, rows=rows))
        return part

    narrowed: Method = changed(method, change)
    return narrowed


def _less(size: Size, start: Size) -> Size:
    return Size(size.fixed - start.fixed, size.prompts - start.prompts)
