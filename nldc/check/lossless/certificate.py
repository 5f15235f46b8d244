"""The outcome of a proof as data: what was proved, and the nodes and rows that it rests on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nldc.check.lossless.codes import Obligation
from nldc.diagnostics import Span
from nldc.ir.by_request import Declared
from nldc.ir.graph import Guarantee, Setting

VERSION = 1


@dataclass(frozen=True)
class Fault:
    """The row of a forward that a problem is about, and what it wrongly sees or does not see.

    `keys` are rows of the same forward; `cached`: it is what is in the cache. Of a prefill it is so
    in a prompt of `length` tokens, of which a step knows nothing: 0.
    """

    forward: str
    row: int
    keys: tuple[int, ...] = ()
    cached: bool = False
    length: int = 0


@dataclass(frozen=True)
class Problem:
    """One reason why there is no proof: at a node, or a key of it, and where it matters.

    `path` leads to the text in the file that is wrong, from the node on; `context` says where the
    fault shows, with the outcome in which it does; `help` mends it, if not what its code says.
    `fault` is the row that `text` names, if it names one.
    """

    code: str
    obligation: Obligation
    message: str
    node: str
    key: str | None
    text: str
    context: str = ""
    context_span: Span | None = None
    span: Span | None = None
    help: str | None = None
    fault: Fault | None = None


@dataclass(frozen=True)
class Ground:
    """What an obligation rests on: nodes of the graph, and rows of forwards by node."""

    obligation: Obligation
    nodes: tuple[str, ...]
    rows: Mapping[str, tuple[int, ...]]
    reason: str


@dataclass(frozen=True)
class Boundary:
    """The state between two steps: the cache holds AR's rows of all but `frontier` last tokens.

    `carry` says of each element of each carried value at which offsets from the cache's end it is
    known to be AR's token.
    """

    frontier: int
    carry: Mapping[str, tuple[tuple[int, ...], ...]]


@dataclass(frozen=True)
class Certificate:
    """A proof that a strategy is exact, for the params of one graph, or the reasons against.

    Of params that requests bring (`runtime`) it holds for every value within their bounds.

    `outcomes` are the combinations of accepted counts that were examined and can happen;
    `sampled_by` the nodes through which every emitted token goes, where what binds it applies.
    """

    strategy: str
    params: Mapping[str, Setting]
    runtime: Declared
    claimed: Guarantee
    proved: Guarantee
    prompt_lengths: tuple[int, ...]
    outcomes: int
    boundary: Boundary | None
    grounds: tuple[Ground, ...]
    sampled_by: tuple[str, ...]
    problems: tuple[Problem, ...]

    def data(self) -> dict[str, Any]:
        """Return the certificate as plain data with a stable order."""
        bounds = {name: [each.low, each.high] for name, each in self.runtime.items()}
        boundary = None
        if self.boundary is not None:
            carry = {
                name: [list(offsets) for offsets in elements]
                for name, elements in sorted(self.boundary.carry.items())
            }
            boundary = {"frontier": self.boundary.frontier, "carry": carry}
        return {
            "certificate": VERSION,
            "strategy": self.strategy,
            "params": {n: each for n, each in self.params.items() if n not in self.runtime},
            **({"for_every": bounds} if bounds else {}),
            "claimed": self.claimed,
            "proved": self.proved,
            "prompt_lengths": list(self.prompt_lengths),
            "outcomes": self.outcomes,
            "between_steps": boundary,
            "obligations": {
                ground.obligation: {
                    "reason": ground.reason,
                    "nodes": list(ground.nodes),
                    "rows": {node: _ranges(rows) for node, rows in sorted(ground.rows.items())},
                }
                for ground in self.grounds
            },
            "constraints": {
                "reason": "every emitted token is chosen by one of these nodes, where temperature, "
                "filters, logits processors and the thinking budget apply; EOS, stop strings and "
                "max_new_tokens apply to whatever is emitted",
                "nodes": list(self.sampled_by),
            },
            "problems": [
                {"code": p.code, "node": p.node, "key": p.key, "what": p.message, "why": p.text}
                for p in self.problems
            ],
        }


def _ranges(numbers: tuple[int, ...]) -> list[int | str]:
    """Write numbers with runs of three and more as `first-last`."""
    found: list[int | str] = []
    ordered = sorted(set(numbers))
    at = 0
    while at < len(ordered):
        end = at
        while end + 1 < len(ordered) and ordered[end + 1] == ordered[end] + 1:
            end += 1
        if end - at >= 2:
            found.append(f"{ordered[at]}-{ordered[end]}")
        else:
            found += ordered[at : end + 1]
        at = end + 1
    return found
