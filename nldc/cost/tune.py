"""Which params of a strategy promise the most tokens a second on a device, by search over all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

from nldc import api
from nldc.acceptance import Acceptance
from nldc.cost.step import Setting, StepCost, step_costs, taken
from nldc.cost.text import aligned, ar_cost
from nldc.ir.build import build
from nldc.ir.graph import Graph
from nldc.runtime.errors import ProfileError
from nldc.source import Source

MOST = 1024
"""The most choices that are tried."""
SHOWN = 40
"""The most lines of the table; of more choices the best are shown."""

Values = Mapping[str, Sequence[int | float]]


@dataclass(frozen=True)
class Choice:
    """Params, what the step that is taken costs with them, and tokens a step and a second."""

    params: Mapping[str, int | float]
    cost: StepCost
    tokens: float
    rate: float


@dataclass(frozen=True)
class Tuned:
    """All choices that were tried, in order, tokens a second of AR, and choices that were none.

    `profile` is the strategy that the acceptance profile is of; `is_dealt` says whether masks are
    dealt by it.
    """

    strategy: str
    profile: str
    choices: tuple[Choice, ...]
    ar: float
    refused: int
    is_dealt: bool = False

    @property
    def best(self) -> Choice:
        """The choice of the most tokens a second; of equal ones the first."""
        return max(self.choices, key=lambda choice: choice.rate)


def tune(
    file: str | Path,
    setting: Setting,
    acceptance: Acceptance,
    values: Values | None = None,
    *,
    progress: Callable[[int, int], object] | None = None,
) -> Tuned:
    """Try every combination of values of a strategy's params; by default those of the profile.

    A param of the type profile is the acceptance profile; others have their defaults. What is
    chosen has not been checked: compile it. `progress` is told how many of how many were tried.

    Raises:
        StrategyError: the strategy has mistakes, or a value lies outside a param's bounds.
        ProfileError: nothing says what to try, or it is too much.
    """
    checked = api.check(file, others=False)
    source, preset = checked.source, api.split_preset(file)[1]
    chosen = dict(values or {}) or _of_profile(source, acceptance)
    count = prod(map(len, chosen.values()))
    if count > MOST:
        raise ProfileError(
            f"{count} combinations are more than the {MOST} that are tried",
            "narrow it with --param NAME=LOW..HIGH, or a step: NAME=LOW..HIGH:STEP",
        )
    setting = setting.as_measured(acceptance)
    dealt = dict.fromkeys(checked.graph.profiles, acceptance.profile)
    choices, refused = [], 0
    for number, each in enumerate(product(*chosen.values())):
        if progress is not None:
            progress(number, count)
        params = dict(zip(chosen, each, strict=True))
        graph = build(source, {**dealt, **params}, preset).graph
        found = None if graph is None else _choice(graph, params, setting, acceptance)
        if found is None:
            refused += 1
        else:
            choices.append(found)
    if not choices:
        raise ProfileError("no choice of these params is a strategy without mistakes", None)
    name = str(source.data["name"])
    return Tuned(
        name,
        acceptance.strategy,
        tuple(choices),
        setting.batch / ar_cost(setting).predicted,
        refused,
        is_dealt=bool(dealt),
    )


def _of_profile(source: Source, acceptance: Acceptance) -> dict[str, range]:
    """Return all values of the whole params that the profile was measured with."""
    declared = source.data.get("params") or {}
    found = {
        name: range(declared[name]["min"], declared[name]["max"] + 1)
        for name in acceptance.params
        if name in declared and declared[name]["type"] == "int"
    }
    if not found:
        known = ", ".join(declared) or "none"
        raise ProfileError(
            "nothing says which params to try: the profile names none that the strategy has",
            f"give --param NAME=LOW..HIGH; the strategy's params are {known}",
        )
    return found


def _choice(
    graph: Graph, params: Mapping[str, int | float], setting: Setting, acceptance: Acceptance
) -> Choice:
    cost = taken(graph, step_costs(graph, setting), setting.batch)
    tokens = cost.tokens(acceptance)
    assert tokens is not None
    return Choice(params, cost, tokens, setting.batch * tokens / cost.predicted)


def tuned_data(tuned: Tuned) -> dict[str, Any]:
    """Return all choices as plain data for JSON, seconds as they are."""
    return {
        "strategy": tuned.strategy,
        "profile": tuned.profile,
        "is_dealt": tuned.is_dealt,
        "ar_tokens_per_second": tuned.ar,
        "refused": tuned.refused,
        "best": dict(tuned.best.params),
        "choices": [
            {
                "params": dict(each.params),
                "rows": _rows(each),
                "floor": each.cost.floor,
                "predicted": each.cost.predicted,
                "tokens": each.tokens,
                "tokens_per_second": each.rate,
            }
            for each in tuned.choices
        ],
    }


def show_tuned(tuned: Tuned, width: int | None = None) -> str:
    """Return the choices as a table, the best marked, and the settings that choose it.

    The table fits a `width`, if there is one.
    """
    return "\n".join(_lines(tuned, width)) + "\n"


def _lines(tuned: Tuned, width: int | None) -> Iterator[str]:
    best, shown = tuned.best, tuned.choices
    if len(shown) > SHOWN:
        rates = sorted((choice.rate for choice in shown), reverse=True)
        shown = tuple(choice for choice in shown if choice.rate >= rates[SHOWN - 1])[:SHOWN]
    names = list(best.params)
    heading = (
        "", *names, "rows a step", "floor", "predicted", "tokens a step", "tokens/s", "to AR"
    )  # fmt: skip
    yield f"{tuned.strategy}: {len(tuned.choices)} choices"
    yield from aligned([heading, *(_row(each, tuned, each is best) for each in shown)], width)
    if len(shown) < len(tuned.choices):
        yield f"  the best {len(shown)} of {len(tuned.choices)} are shown"
    if tuned.profile != tuned.strategy:
        yield f"  the profile is that of {tuned.profile}, whose drafts may be others"
    if tuned.refused:
        yield f"  {tuned.refused} more have mistakes: `nldc check` tells them"
    if tuned.is_dealt:
        yield "  masks are dealt by the profile: compile with its --acceptance as well"
    yield " ".join(f"--set {name}={value}" for name, value in best.params.items())


def _row(choice: Choice, tuned: Tuned, is_best: bool) -> tuple[str, ...]:
    return (
        "*" if is_best else "",
        *(f"{value}" for value in choice.params.values()),
        f"{_rows(choice):g}",
        f"{choice.cost.floor * 1e3:.2f} ms",
        f"{choice.cost.predicted * 1e3:.2f} ms",
        f"{choice.tokens:.2f}",
        f"{choice.rate:.0f}",
        f"{choice.rate / tuned.ar:.2f}",
    )


def _rows(choice: Choice) -> float:
    """Return the rows that a step of a choice computes."""
    return sum(part.times * part.rows for part in choice.cost.parts if not part.head)
