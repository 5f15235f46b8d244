"""Whether a loop surely fills every masked row, however unsure the model is of them."""

from __future__ import annotations

from nldc.expr import Expr, ExprError, evaluate
from nldc.ir.ops import Fill, Node, Repeat, Select


def fills_all(node: Node, loop: Repeat, masks: int) -> bool:
    """Whether `at_most` rounds fill that many masked rows, each as few as it may.

    The loop's last node has to fill rows that are chosen among those still masked.
    """
    if loop.exhausted == "fill":
        return True
    nodes = {inner.name: inner.op for inner in loop.body.nodes}
    last = nodes.get(loop.result.node)
    if not isinstance(last, Fill) or loop.result.picks:
        return False
    if _is_masked(last.where.node, last.where.field, node, loop) and not last.where.picks:
        return loop.at_most > 0
    chosen = nodes.get(last.where.node)
    if not isinstance(chosen, Select) or last.where.picks or chosen.among.picks:
        return False
    if not _is_masked(chosen.among.node, chosen.among.field, node, loop):
        return False
    left = masks
    for iteration in range(loop.at_most):
        left -= min(left, _least(chosen, iteration, left))
        if left == 0:
            return True
    return left == 0


def _is_masked(name: str, field: str | None, node: Node, loop: Repeat) -> bool:
    return name == f"{node.name}:{loop.variable}" and field == "masked"


def _least(select: Select, iteration: int, left: int) -> int:
    """Return how many of the `left` rows a selection takes at the least."""
    numbers = {"iteration": iteration, "left": left}

    def value(rule: Expr | None) -> float:
        if rule is None:
            return 0
        try:
            return float(evaluate(rule, numbers))
        except ExprError:
            return 0

    least = max(0, int(value(select.best)), int(value(select.always_best)))
    if select.within is not None and value(select.within) >= 0:
        least = max(least, 1)
    everything = select.at_least is not None and value(select.at_least) <= 0
    return left if everything and not select.less_is_surer else least
