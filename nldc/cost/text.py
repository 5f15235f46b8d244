"""A strategy's cost on a device as text: each forward and head, the step, and tokens a second."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nldc import api
from nldc.acceptance import Acceptance
from nldc.codegen.costs import SAFETY_WIDTH
from nldc.cost.step import (
    Part,
    Setting,
    StepCost,
    prefill_cost,
    refuse_unknown_loops,
    step_costs,
    taken,
)
from nldc.cost.work import Work
from nldc.diagnostics import counted
from nldc.ir.graph import Graph
from nldc.tabular import table

HEADING = (
    "forward or head", "rows", "times", "weights", "keys", "activations", "operations", "kernels",
    "floor", "predicted",
)  # fmt: skip


def show_costs(graph: Graph, setting: Setting, acceptance: Acceptance | None = None) -> str:
    """Return what the prefill and each step of a strategy cost, and tokens a second if known."""
    refuse_unknown_loops(graph, setting.rounds)
    return "\n".join(_lines(graph, setting.as_measured(acceptance), acceptance)) + "\n"


def _lines(graph: Graph, setting: Setting, acceptance: Acceptance | None) -> Iterator[str]:
    yield f"{graph.name} on {setting_in_words(setting)}"
    costs = step_costs(graph, setting)
    now = taken(graph, costs, setting.batch)
    for cost in (prefill_cost(graph, setting), *costs):
        what = "prefill of one prompt" if cost.step == "prefill" else cost.step
        yield ""
        yield what + (": taken at this batch" if len(costs) > 1 and cost is now else "")
        yield from aligned([HEADING, *map(_row, cost.parts), _sum(cost)])
        yield _counts(cost)
        for node in cost.bounded:
            yield f"  {node} counts with as many rounds as it may take: give --rounds {node}=MEAN"
        for node in cost.samplers:
            yield f"  {node} counts with a sampler up to {SAFETY_WIDTH} wide: torch has wider ones"
    yield ""
    yield from speed(graph, now, setting, acceptance)


def setting_in_words(setting: Setting) -> str:
    """Return for what costs are, in words: the device, the model, what is in the cache."""
    device, batch = setting.device, counted(setting.batch, "sequence")
    return (
        f"{device.name}, {setting.geometry.name} in {setting.dtype}: {batch}, "
        f"{counted(setting.prefix, 'token')} in the cache, execution {setting.execution.name}"
    )


def speed(
    graph: Graph, cost: StepCost, setting: Setting, acceptance: Acceptance | None
) -> Iterator[str]:
    """Say how many tokens a second follow, beside AR's."""
    tokens = cost.tokens(acceptance)
    ar = ar_cost(setting).predicted
    yield f"AR: {setting.batch / ar:.0f} tokens/s"
    if tokens is None:
        yield f"{graph.name}: tokens a step depend on what is accepted: give --acceptance FILE"
        return
    rate = setting.batch * tokens / cost.predicted
    yield (
        f"{graph.name}: {tokens:.2f} tokens a step, {rate:.0f} tokens/s, "
        f"{rate * ar / setting.batch:.2f} times AR"
    )
    if acceptance is not None and acceptance.strategy != graph.name:
        yield f"the profile is that of {acceptance.strategy}, whose drafts may be others"


def ar_cost(setting: Setting) -> StepCost:
    """Return what a step of AR costs."""
    return step_costs(api.check("ar", others=False).graph, setting)[0]


def aligned(rows: Sequence[Sequence[str]], width: int | None = None) -> Iterator[str]:
    """Yield a heading and rows as lines, the first column to the left and numbers to the right."""
    right = [False, *(True for _ in rows[0][1:])]
    return table(rows[1:], rows[0], width=width, right=right, indent="  ")


def _row(part: Part) -> tuple[str, ...]:
    name = f"{part.node} (head)" if part.head else part.node
    numbers = (str(part.rows), f"{part.times:g}", *_work(part.work), str(part.kernels))
    return (name, *numbers, _ms(part.floor), _ms(part.predicted))


def _sum(cost: StepCost) -> tuple[str, ...]:
    fields = ("weights", "keys", "activations", "flops")
    total = [sum(part.times * getattr(part.work, name) for part in cost.parts) for name in fields]
    sizes = (*map(_bytes, total[:3]), _operations(total[3]))
    end = (f"{cost.kernels:.0f}", _ms(cost.floor), _ms(cost.predicted))
    return (f"all, with {cost.ops:g} other ops", "", "", *sizes, *end)


def _counts(cost: StepCost) -> str:
    graphs = "" if cost.launches == cost.kernels else f" ({cost.kernels:.0f} kernels in graphs)"
    return (
        f"  launches {cost.launches:g}{graphs}, host waits {cost.host_waits:g}, "
        f"device waits {cost.device_waits:g}"
    )


def _work(work: Work) -> tuple[str, ...]:
    return (*map(_bytes, (work.weights, work.keys, work.activations)), _operations(work.flops))


def _bytes(number: float) -> str:
    return f"{number / 1e9:.2f} GB" if number >= 1e9 else f"{number / 1e6:.1f} MB"


def _operations(number: float) -> str:
    return f"{number / 1e12:.3f} TFLOP"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms"
