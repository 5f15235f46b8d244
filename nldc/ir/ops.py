"""The ops of the graph, all on one screen.

A `Value` is a use of another node's result; expressions are already parsed, names resolved and
sizes numbers. `denoise` does not occur here: it is sugar for `repeat`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from nldc.diagnostics import Span
from nldc.expr import Binary, Expr, Number
from nldc.ir.layout import Layout
from nldc.ir.types import Type

MOST_ROUNDS = 4096
"""Rounds of a step's loop, those of loops around it multiplied: what is certified runs them all."""


@dataclass(frozen=True)
class OfKind:
    """The rows that carry a label."""

    kind: str


@dataclass(frozen=True)
class Where:
    """The rows for which a predicate over row facts holds."""

    predicate: Expr


@dataclass(frozen=True)
class At:
    """One row by its place; -1 is the last."""

    index: Expr


@dataclass(frozen=True)
class Between:
    """The rows from `start` up to but not including `stop`."""

    start: Expr | None
    stop: Expr | None


@dataclass(frozen=True)
class Padded:
    """The rows, and the last of them again until there are `size`.

    Where there are none it is the last of those among which the choice before found none.
    """

    size: int


Pick = OfKind | Where | At | Between | Padded

Seed = Literal["given", "masked"]
Choosing = Literal["allowed", "forbidden"]
Scored = Literal["raw", "filtered", "processed"]
Counting = Literal["counted", "ignored"]
Eos = Literal["stops", "fills", "ignored"]
EosIds = Literal["all", "first"]
Exhausted = Literal["keep", "fill"]
Keys = Literal["dropped", "kept"]
Until = Literal["full", "unchanged"]


@dataclass(frozen=True)
class Value:
    """A use of a node's result: `node`, then a field of it, then a choice of its rows.

    `count` is the Count that the picks depend on, if they do; in their expressions it goes by
    `count_name`.
    """

    node: str
    span: Span = field(compare=False)
    field: str | None = None
    picks: tuple[Pick, ...] = ()
    count: Value | None = None
    count_name: str | None = None


@dataclass(frozen=True)
class LayRows:
    """Rows [n] from tokens and masks. `parts[i]` fills segment i; None where it is masks.

    `seed` is masked where the first row would hold a token, and is a mask instead. `profile` is
    the param by which masks were dealt to the groups, if they were.
    """

    layout: Layout
    parts: tuple[Value | None, ...]
    seed: Seed = "given"
    profile: str | None = None


@dataclass(frozen=True)
class Attention:
    """Which key rows a query row sees, as one predicate over q and k; `name` if it has one."""

    predicate: Expr
    name: str | None = None


@dataclass(frozen=True)
class Forward:
    """Logits [n] of rows over the cached prefix. `append` is the predicate of the rows that stay.

    `position` is the offset from the end of the cache; `adapter_rows` None means every row.
    """

    rows: Value
    layout: Layout
    attention: Attention
    position: Expr
    predicts_next: Expr
    append: Expr
    adapter: str | None
    adapter_rows: Expr
    counted: bool


@dataclass(frozen=True)
class Sample:
    """Tokens [n]: the choice in each row, as AR would choose at that position.

    With a `temperature` it is a drafter's choice, at that one and not at the request's: a number
    over params that requests bring. Below 1e-6 it is greedy.
    """

    logits: Value
    mask_token: Choosing = "allowed"
    temperature: Expr | None = None


@dataclass(frozen=True)
class Score:
    """Scores [n] of `tokens` (or of the row alone, for margin and entropy)."""

    logits: Value
    tokens: Value | None
    by: Literal["probability", "margin", "entropy"]
    of: Scored = "raw"
    mask_token: Counting = "counted"


@dataclass(frozen=True)
class Safety:
    """Scores [n]: how safe a trained sampler finds it to commit each row's likeliest token."""

    logits: Value
    rows: Value
    sampler: str


@dataclass(frozen=True)
class Noise:
    """Scores [n] at random, by the positions that rows predict; `stream` parts it from others.

    `iteration` is the round that it is of, None: whichever it stands in.
    """

    logits: Value
    stream: int
    iteration: int | None = None


@dataclass(frozen=True)
class Select:
    """RowMask [n]: the union of the rules.

    `within` takes a row while the scores of the surer ones before it add up to no more.
    """

    among: Value
    score: Value
    less_is_surer: bool
    at_least: Expr | None
    at_most: Expr | None
    best: Expr | None
    within: Expr | None
    where: Expr | None
    always_best: Expr | None


Weight = float | Expr


def _sum(one: Weight, other: Weight) -> Weight:
    if not isinstance(one, Expr) and not isinstance(other, Expr):
        return one + other
    terms = [each if isinstance(each, Expr) else Number(each) for each in (one, other)]
    return Binary("+", *terms)


@dataclass(frozen=True)
class Mix:
    """Logits [n]: the weighted sum of logits for the same positions, which are the first part's.

    Parts that are the same are one, with the sum of their weights, and one that weighs nothing is
    none: see `weighed`. A weight that requests bring is an expression, and may be anything.
    """

    logits: tuple[Value, ...]
    weights: tuple[Weight, ...]

    @property
    def weighed(self) -> tuple[tuple[Value, Weight], ...]:
        """The different parts with their weights but those of weight 0; the first if all are."""
        found: dict[Value, Weight] = {}
        for part, weight in zip(self.logits, self.weights, strict=True):
            found[part] = _sum(found[part], weight) if part in found else weight
        parts = tuple((part, weight) for part, weight in found.items() if weight != 0)
        return parts or ((self.logits[0], 0.0),)


@dataclass(frozen=True)
class Lookup:
    """Tokens [n]: what followed the latest earlier occurrence of the last `ngram` tokens so far."""

    length: int
    ngram: int


@dataclass(frozen=True)
class Candidates:
    """Tokens [n * count]: of each row the likeliest first, of equals the lower id first."""

    logits: Value
    count: int


@dataclass(frozen=True)
class Recall:
    """Tokens [count * (entry - 1)]: what follows `after` in entries of `pool` that begin with it.

    Of equal entries there is the first, and where fewer begin so the first others follow.
    """

    pool: Value
    entry: int
    after: Value
    count: int


@dataclass(frozen=True)
class Fill:
    """Rows [n] with tokens written where selected; those rows are no longer masked."""

    rows: Value
    where: Value
    tokens: Value


@dataclass(frozen=True)
class Mask:
    """Rows [n] of which those selected are masked again, whatever they held."""

    rows: Value
    where: Value


@dataclass(frozen=True)
class Join:
    """Tokens [n]: the parts one after another."""

    parts: tuple[Value, ...]


@dataclass(frozen=True)
class Accept:
    """Accepted: target i is held against draft i + offset, up to the first difference.

    Of several `branches`, which are rows of draft and target alike, it is the one with most
    matches, of equals the first; none: all rows are one.
    """

    draft: Value
    target: Value
    offset: int
    branches: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class Leading:
    """Count: how many rows, from the first on, are as sure as a bound; `low` at least."""

    scores: Value
    at_least: Expr | None
    at_most: Expr | None
    low: int


@dataclass(frozen=True)
class Reckon:
    """Count: a whole number made of Counts, held between `low` and `high`.

    `terms` are what `expr` names. No node of a file is one: it is how a carried Count begins, and
    what `next` makes of it.
    """

    expr: Expr
    terms: tuple[tuple[str, Value], ...]
    low: int
    high: int


@dataclass(frozen=True)
class Repeat:
    """Rows [n]: the body's `result`, over and over from `initial`, while rows are masked.

    `until` unchanged: while a round changes a row. The body runs at least `at_least` times (0 or
    1), whatever the rows. `eos`, `eos_ids`,
    `exhausted` and `keys` are described in `nldc.ir.attributes`.
    """

    variable: str
    initial: Value
    body: Region
    result: Value
    at_most: int
    at_least: int
    eos: Eos = "stops"
    eos_ids: EosIds = "all"
    exhausted: Exhausted = "keep"
    keys: Keys = "dropped"
    until: Until = "full"


@dataclass(frozen=True)
class Node:
    """A named op. `line` is its place in the file; `type` what it yields."""

    name: str
    op: Op
    type: Type
    span: Span = field(compare=False)


@dataclass(frozen=True)
class Region:
    """Nodes in the order in which they run."""

    nodes: tuple[Node, ...]


Op = (
    LayRows
    | Forward
    | Sample
    | Score
    | Safety
    | Noise
    | Select
    | Mix
    | Lookup
    | Candidates
    | Recall
    | Fill
    | Mask
    | Join
    | Accept
    | Leading
    | Reckon
    | Repeat
)
