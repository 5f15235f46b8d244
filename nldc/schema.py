"""The shape of a strategy file: closed, frozen pydantic models, one per op.

Only the shape is checked here (which keys, which scalar kinds); names, types and sizes are the
IR's business. `nldc.editor_schema` publishes these models as a JSON Schema for editors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

Expression = Annotated[
    int | float | str, Field(description="a number, or an expression over params and node values")
]
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$", max_length=64)]


class Closed(BaseModel):
    """A mapping that accepts no unknown key and never changes after it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class IntParam(Closed):
    """A whole number that `--set name=value` may change within its bounds."""

    type: Literal["int"]
    default: int
    min: int
    max: int
    checkpoint: Literal["block_size"] | None = Field(
        default=None, description="the key of a checkpoint's config that is taken, if there is one"
    )
    runtime: bool = Field(
        default=False,
        description="each request may bring a value within the bounds; none is compiled in",
    )
    help: str = ""


class FloatParam(Closed):
    """A real number that `--set name=value` may change within its bounds."""

    type: Literal["float"]
    default: float
    min: float
    max: float
    runtime: bool = Field(
        default=False,
        description="each request may bring a value within the bounds; none is compiled in",
    )
    help: str = ""


class ProfileParam(Closed):
    """An acceptance profile, which `--acceptance FILE` replaces.

    It counts the steps that accepted 1, 2, … tokens: a list for those after a step that accepted
    one, a list for those after two, and so on; the last list is for all further ones too.
    """

    type: Literal["profile"]
    default: list[list[int]]
    help: str = ""


Param = Annotated[IntParam | FloatParam | ProfileParam, Field(discriminator="type")]


class Adapter(Closed):
    """Weights beside the model's: a LoRA that a forward may switch on by name, or a trained sampler
    that says by name which rows are safe to commit.
    """

    kind: Literal["lora", "sampler"]
    optional: bool = False
    help: str = ""


class DealtMasks(Closed):
    """So many masks at most, dealt to the groups by an acceptance profile; see `nldc.ir.taper`."""

    at_most: Expression
    profile: Name


class Segment(Closed):
    """A run of rows: either known tokens or masked rows, with an optional label."""

    tokens: Expression | None = None
    masks: Expression | DealtMasks | None = None
    kind: Name | None = None


class OpModel(Closed):
    """What every op of the language has in common.

    `REFERS` are its keys that refer to other nodes; the rest are settings.
    """

    REFERS: ClassVar[tuple[str, ...]] = ()

    op: str


class RowsOp(OpModel):
    """Lay out the rows of a forward: segments in order, repeated for each of `groups`.

    `order` lists them group by group, or segment by segment (every group's first segment first).
    `seed: masked` masks the first row of a block, which its first segment would give.
    """

    REFERS = ("segments",)

    op: Literal["rows"]
    segments: Annotated[list[Segment], Field(min_length=1, max_length=16)]
    groups: Expression | None = None
    order: Literal["groups", "segments"] = "groups"
    seed: Literal["given", "masked"] | None = None


class AppendWhere(Closed):
    """Append only the rows for which the predicate holds; the others leave no trace."""

    append: str


class PredictsWhere(Closed):
    """Rows for which the predicate holds predict the next token; the others their own."""

    next: str


class ForwardOp(OpModel):
    """One pass of the backbone over rows that follow the cached prefix."""

    REFERS = ("tokens",)

    op: Literal["forward"]
    tokens: Expression
    attention: str
    cache: Literal["read", "append"] | AppendWhere
    position: Expression | None = None
    adapter: Name | Annotated[dict[Name, str], Field(min_length=1, max_length=1)] | None = None
    predicts: Literal["next", "self"] | PredictsWhere | None = None
    counted: bool = True


class SampleOp(OpModel):
    """Choose one token a row: the argmax, or Gumbel-max with noise keyed by position.

    `pad_to` makes so many tokens of a choice of rows that has fewer for some count. A `temperature`
    of its own is a drafter's, in place of the request's: no verifier has one.
    """

    REFERS = ("logits",)

    op: Literal["sample"]
    logits: Expression
    mask_token: Literal["allowed", "forbidden"] | None = None
    pad_to: Expression | None = None
    temperature: Expression | None = None


class ScoreOp(OpModel):
    """How sure the model is of a token in each row.

    `of` says which logits: before or after the sampling options, see `nldc.ir.attributes`.
    """

    REFERS = ("logits", "tokens")

    op: Literal["score"]
    logits: Expression
    tokens: Expression | None = None
    by: Literal["probability", "margin", "entropy"]
    of: Literal["raw", "filtered", "processed"] | None = None
    mask_token: Literal["counted", "ignored"] | None = None


class SafetyOp(OpModel):
    """How safe it is to commit each row's likeliest token, by a trained sampler.

    `rows` are those that the logits are of; `sampler` is a declared adapter of the kind `sampler`.
    """

    REFERS = ("logits", "rows")

    op: Literal["safety"]
    logits: Expression
    rows: Expression
    sampler: Name


class NoiseOp(OpModel):
    """A random number in [0, 1) a row, keyed by place, node and round: rows taken at random."""

    REFERS = ("logits",)

    op: Literal["noise"]
    logits: Expression


class SelectOp(OpModel):
    """Pick rows by their score; what the rules pick is united."""

    REFERS = ("among", "score")

    op: Literal["select"]
    among: Expression
    score: Expression
    at_least: Expression | None = None
    at_most: Expression | None = None
    best: Expression | None = None
    where: str | None = None
    within: Expression | None = None
    always: str | None = None


class MixOp(OpModel):
    """Add logits of the same positions, each times its weight."""

    REFERS = ("logits",)

    op: Literal["mix"]
    logits: Annotated[list[Expression], Field(min_length=2, max_length=8)]
    weights: Annotated[list[Expression], Field(min_length=2, max_length=8)]


class LookupOp(OpModel):
    """Draft what followed the last tokens the last time that they occurred so far."""

    op: Literal["lookup"]
    length: Expression
    ngram: Expression


class FillOp(OpModel):
    """Write tokens into the selected rows, which are masked no more."""

    REFERS = ("rows", "where", "tokens")

    op: Literal["fill"]
    rows: Expression
    where: Expression
    tokens: Expression


class CandidatesOp(OpModel):
    """The `count` likeliest tokens of each row, the likeliest first."""

    REFERS = ("logits",)

    op: Literal["candidates"]
    logits: Expression
    count: Expression


class RecallOp(OpModel):
    """Up to `count` entries of a pool that begin with a token, without that token.

    A pool is tokens in entries of `entry`. Equal entries are one; where fewer begin so, others
    follow.
    """

    REFERS = ("pool", "after")

    op: Literal["recall"]
    pool: Expression
    entry: Expression
    after: Expression
    count: Expression


class MaskOp(OpModel):
    """Mask the selected rows again: what they held is forgotten."""

    REFERS = ("rows", "where")

    op: Literal["mask"]
    rows: Expression
    where: Expression


class JoinOp(OpModel):
    """Put tokens one after another, all of them `times` over."""

    REFERS = ("parts",)

    op: Literal["join"]
    parts: Annotated[list[Expression], Field(min_length=1, max_length=16)]
    times: Expression = 1


class AcceptOp(OpModel):
    """Keep the longest run of drafted tokens that the target agrees with, and one more.

    By `longest_branch` the run is sought in each of `branches` chains of rows: of `branch` it is
    the rows for which `of` holds.
    """

    REFERS = ("draft", "target")

    op: Literal["accept"]
    draft: Expression
    target: Expression
    rule: Literal["longest_prefix", "longest_branch"]
    offset: Literal[0, 1] = 1
    branches: Expression | None = None
    of: str | None = Field(
        default=None, description="a condition over row facts and `branch`, from 0 on"
    )


class LeadingOp(OpModel):
    """Count the rows, from the first on, that are as sure as a bound.

    The count is `min` at least, whatever the scores.
    """

    REFERS = ("scores",)

    op: Literal["leading"]
    scores: Expression
    at_least: Expression | None = None
    at_most: Expression | None = None
    min: Expression = 0


class Loop(OpModel):
    """What `repeat` and `denoise` have in common: when a block is full, and what it leaves."""

    eos: Literal["stops", "fills", "ignored"] | None = None
    eos_ids: Literal["all", "first"] | None = None
    exhausted: Literal["keep", "fill"] | None = None
    keys: Literal["dropped", "kept"] | None = None


class RepeatOp(Loop):
    """Run `body` until its rows are full, or a round leaves them as they were.

    The body's node of the same name is the next value.
    """

    REFERS = ("on",)

    op: Literal["repeat"]
    on: Name
    until: Literal["full", "unchanged"]
    at_most: Expression
    at_least: Literal[0, 1] = 0
    body: dict[str, Any]


class Commit(Closed):
    """What `score` is in a loop written out: how sure a row is."""

    of: Literal["raw", "filtered", "processed"] | None = None
    mask_token: Literal["counted", "ignored"] | None = None


class ConfidenceCommit(Commit):
    """Commit the surest row and every other at least this sure."""

    confidence: Expression


class StepsCommit(Commit):
    """Commit an even share of the masked rows in each of so many steps."""

    steps: Expression


class DenoiseOp(Loop):
    """Fill masked rows by repeated forwards: sugar for `repeat`, whose body it spells out.

    `mask_token` says whether the mask token may be chosen, that of `commit` whether it counts;
    `temperature` is that of `sample`.
    """

    REFERS = ("rows",)

    op: Literal["denoise"]
    rows: Expression
    attention: str
    commit: ConfidenceCommit | StepsCommit
    adapter: Name | Annotated[dict[Name, str], Field(min_length=1, max_length=1)] | None = None
    position: Expression | None = None
    at_least: Literal[0, 1] = 1
    mask_token: Literal["allowed", "forbidden"] | None = None
    temperature: Expression | None = None


Op = Annotated[
    RowsOp
    | ForwardOp
    | SampleOp
    | ScoreOp
    | SafetyOp
    | NoiseOp
    | SelectOp
    | MixOp
    | LookupOp
    | FillOp
    | CandidatesOp
    | RecallOp
    | MaskOp
    | JoinOp
    | AcceptOp
    | LeadingOp
    | RepeatOp
    | DenoiseOp,
    Field(discriminator="op"),
]


class CarriedCount(Closed):
    """A Count that survives a step: what it begins as, and the bounds that hold every next one.

    Bounds that are left out are those of what the steps make of it, where these can be found.
    """

    start: Expression
    min: Expression | None = None
    max: Expression | None = None


class PrefillEmit(Closed):
    """What the prefill already hands out."""

    tokens: Expression


class StepEmit(Closed):
    """What a step hands out, leaves in the cache and carries to the next."""

    tokens: Expression
    cache: str
    next: dict[Name, Expression | list[Expression]] = Field(default_factory=dict)


class Include(Closed):
    """The nodes of a fragment, under names that meet no others; it has the value of one of them."""

    include: Annotated[str, Field(pattern="#.")] = Field(
        description="FILE#FRAGMENT: a path below this file's folder, a strategy of the library, or "
        "package:name; without a file, a fragment of this one"
    )
    with_: dict[Name, Expression] = Field(
        default_factory=dict,
        alias="with",
        description="all that the fragment takes, and numbers for its params",
    )


class Prefill(BaseModel):
    """Nodes by name, and optionally `emit`."""

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, Op | Include]
    emit: PrefillEmit | None = None


class Step(BaseModel):
    """Nodes by name, and `emit`."""

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, Op | Include]
    emit: StepEmit


class Limits(Closed):
    """The most that a step may count of each, its loops with as many rounds as they may take."""

    launches: Annotated[int, Field(ge=0)] | None = None
    host_waits: Annotated[int, Field(ge=0)] | None = None
    device_waits: Annotated[int, Field(ge=0)] | None = None


class StrategyFile(Closed):
    """One strategy file, version 1."""

    nldc: Literal[1]
    name: Name
    summary: str
    guarantee: Literal["exact", "distribution", "none"]
    compat: Literal["hf", "sglang", "vllm", "mlx"] | None = None
    params: dict[Name, Param] = Field(default_factory=dict)
    adapters: dict[Name, Adapter] = Field(default_factory=dict)
    limits: Limits | None = None
    prefill: Prefill
    carry: dict[Name, Expression | CarriedCount] = Field(default_factory=dict)
    step: Step | None = None
    steps: dict[Name, Step] = Field(default_factory=dict)
    route: dict[Name, str] = Field(default_factory=dict)


class Fragment(Closed):
    """Nodes under a name, for strategies to include: they see what is taken, and nothing else.

    `yields` is the node that stands for the whole where it is included.
    """

    help: str = ""
    params: dict[Name, Annotated[IntParam | FloatParam, Field(discriminator="type")]] = Field(
        default_factory=dict,
        description="numbers of its own, each with a default; `with` gives others",
    )
    takes: list[Name] = Field(
        default_factory=list,
        description="values, adapters or profiles of the strategy, that `with` must give",
    )
    nodes: Annotated[dict[str, Any], Field(min_length=1, description="nodes by name")]
    yields: Name = Field(description="the node whose value the include has")


OPS: Mapping[str, type[OpModel]] = {
    get_args(model.model_fields["op"].annotation)[0]: model for model in get_args(get_args(Op)[0])
}
"""Every op of the language, by its name in the file."""
