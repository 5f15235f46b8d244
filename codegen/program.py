"""A lowered program: all that is decided before anything is printed, as plain frozen data.

A register is a Python name of the method that is printed, allotted already (`names.py`); layouts,
tables and patterns are constants of the module, shared by value. Rows of a prompt have no numbers
yet: what depends on its length is a `Size`, or a `Piece`, an expression over the rows' numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import PurePath
from typing import Any, Literal

from nldc.expr import Boolean, Expr, Number
from nldc.ir.facts import asks_prompt
from nldc.ir.ops import Node
from nldc.ir.size import Size


@dataclass(frozen=True)
class Origin:
    """The node that something was lowered from, and its line in the strategy file.

    `file` is the name of the file that the line stands in, where that is another one.
    """

    node: str
    line: int
    file: str = ""

    @staticmethod
    def of(node: Node) -> Origin:
        """Return where a node comes from."""
        span = node.span
        return Origin(node.name, span.start_line, PurePath(span.file).name if span.via else "")

    @property
    def shown(self) -> str:
        """The node and its place in words."""
        return f"{self.node}, line {self.line}{f' of {self.file}' if self.file else ''}"


# Rows of a value


@dataclass(frozen=True)
class Run:
    """The rows from `start` up to but not including `stop`."""

    start: Size
    stop: Size

    @property
    def size(self) -> Size:
        """How many rows they are."""
        start, stop = self.start, self.stop
        return Size(stop.fixed - start.fixed, stop.prompts - start.prompts)


@dataclass(frozen=True)
class Listed:
    """Runs of a prompt's rows, one after another; `through` is the register of a layout whose
    order of rows is not the file's, in which they have to be found.
    """

    runs: tuple[Run, ...]
    through: str | None = None


@dataclass(frozen=True)
class Numbers:
    """The rows whose numbers a table holds."""

    table: str


@dataclass(frozen=True)
class ByCount:
    """The rows in the line of a table that a count chooses; the first line is for `low`."""

    table: str
    count: Use
    low: int


@dataclass(frozen=True)
class Length:
    """So many rows as the line of a table says that a count chooses; the first is for `low`."""

    table: str
    count: Use
    low: int


@dataclass(frozen=True)
class Least:
    """The least of some counts."""

    parts: tuple[Use | Length, ...]


Chosen = Run | Listed | Numbers | ByCount


@dataclass(frozen=True)
class Use:
    """A register, a field of what it holds, and which of its rows (None: all)."""

    register: str
    field: str | None = None
    rows: Chosen | None = None


@dataclass(frozen=True)
class States:
    """The states of `size` rows, which still have to go through the head."""

    use: Use
    size: Size


Amount = Use | Length | Least
"""A number a sequence: a count, or what is made of counts."""

Logits = Use | States
"""Logits that were computed, or the states that they are computed of at once."""


# Constants of the module


@dataclass(frozen=True)
class Piece:
    """An expression over `row` and `index`, for the rows from `start` up to `stop`."""

    expr: Expr
    start: Size
    stop: Size

    @property
    def constant(self) -> bool | int | None:
        """Its value if that is the same for every row."""
        is_constant = isinstance(self.expr, Number | Boolean)
        return self.expr.value if is_constant else None  # type: ignore[union-attr, return-value]


Column = tuple[Piece, ...]
"""A fact of a prompt's rows: the pieces follow one another."""


@dataclass(frozen=True)
class FixedLayout:
    """Rows in the order in which they are computed; the first `append` stay in the cache.

    `plain`: tokens that follow one another, of one group and no kind, all of which stay or none.
    `branched`: a branch of those that are appended stays, whose rows then lie in order.
    """

    name: str
    kind: tuple[int, ...]
    group: tuple[int, ...]
    index: tuple[int, ...]
    row: tuple[int, ...]
    offset: tuple[int, ...]
    predicts_next: tuple[bool, ...]
    append: int
    plain: bool
    origins: tuple[Origin, ...] = field(compare=False)
    branched: bool = False

    @property
    def size(self) -> Size:
        """The number of rows."""
        return Size(len(self.row))


@dataclass(frozen=True)
class PromptLayout:
    """Rows that depend on the prompt's length, in the file's order.

    The first `append` stay in the cache; None: those for which `stays` holds, which come first.
    `plain` is that of `FixedLayout`.
    """

    name: str
    size: Size
    kind: Column
    group: Column
    index: Column
    row: Column
    offset: Column
    predicts_next: Column
    append: Size | None
    stays: Column
    plain: bool
    origins: tuple[Origin, ...] = field(compare=False)


Layout = FixedLayout | PromptLayout


@dataclass(frozen=True)
class Table:
    """Numbers of rows, or a line of them for each value of a count."""

    name: str
    lines: tuple[int, ...] | tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Pattern:
    """An attention predicate over facts of `q` and `k`, in which labels are numbers.

    `text` is how the file has it. `function` names the mask in torch, `loader` what imports the
    same for Triton from the module `kernel`, whose name says which predicate it is and nothing
    else. `sees_prefix` and `looks_back` are those of the runtime's `Pattern`.
    """

    name: str
    function: str
    loader: str
    kernel: str
    predicate: Expr
    text: str
    sees_prefix: bool
    looks_back: bool
    origin: Origin

    @property
    def asks_prompt(self) -> bool:
        """Whether it asks which cached rows are the prompt's."""
        return asks_prompt(self.predicate)


# Instructions. Each writes the register `name`, and one with scores those of its scores.


@dataclass(frozen=True)
class LayRows:
    """Rows of segments: tokens, or a number of masks, or one for each group."""

    name: str
    origin: Origin
    parts: tuple[Use | int | tuple[int, ...], ...]
    groups: int = 1
    by_segment: bool = False


@dataclass(frozen=True)
class AdaptedTable:
    """The adapter is used on the rows of a table."""

    table: str


@dataclass(frozen=True)
class AdaptedColumn:
    """The adapter is used where this holds; `through` as in `Listed`."""

    column: Column
    through: str | None = None


Ordering = Literal["as it is", "by its layout"] | Numbers
"""How tokens come into the order in which a layout has its rows."""


@dataclass(frozen=True)
class Forward:
    """One forward of the backbone over the rows of a layout.

    `held` is the register that keeps a prompt's layout for later; `ordered` says how tokens come
    into the layout's order where that is not the file's: a table, or the layout that is `held`.
    `states` are the rows whose states anybody asks for, None where those are all. `adapted` None:
    every row. With `active` it counts for those sequences, and with `hold` the others keep what
    they wrote.
    """

    name: str
    origin: Origin
    tokens: Use
    layout: str
    pattern: str
    size: Size
    held: str | None = None
    ordered: Ordering = "as it is"
    states: Run | None = None
    adapter: str | None = None
    adapted: AdaptedTable | AdaptedColumn | None = None
    counted: bool = True
    active: str | None = None
    hold: bool = False


@dataclass(frozen=True)
class Head:
    """The logits of some rows, computed once for several uses."""

    name: str
    origin: Origin
    of: States


Temperature = float | str | None
"""At what a drafter chooses: a number, or a register that holds one a sequence; None: as asked."""


@dataclass(frozen=True)
class Choose:
    """The token of each row, as AR would choose it; of states, head and choice are one."""

    name: str
    origin: Origin
    logits: Logits
    mask_token: str = "allowed"
    temperature: Temperature = None


@dataclass(frozen=True)
class Score:
    """A score of each row, or of `tokens` in it."""

    name: str
    origin: Origin
    by: str
    logits: Logits
    tokens: Use | None = None
    of: str = "raw"
    mask_token: str = "counted"


@dataclass(frozen=True)
class Safety:
    """How safe a trained sampler takes it to be to commit each of the rows."""

    name: str
    origin: Origin
    logits: Logits
    rows: Use
    sampler: str


@dataclass(frozen=True)
class RawScore:
    """The register of a raw score that a head gives beside its tokens, and which one it is."""

    name: str
    origin: Origin
    by: str


@dataclass(frozen=True)
class ChooseScored:
    """The token of each row with its raw `scores`, where nobody else sees the logits.

    Probabilities are those of `tokens` in the rows, None: of the chosen ones.
    """

    name: str
    origin: Origin
    logits: States
    scores: tuple[RawScore, ...]
    tokens: Use | None = None
    mask_token: str = "allowed"
    mask_token_scored: str = "counted"
    temperature: Temperature = None


@dataclass(frozen=True)
class Mix:
    """The weighted sum of logits; a register for a weight holds one a sequence."""

    name: str
    origin: Origin
    parts: tuple[Logits, ...]
    weights: tuple[float | str, ...]


@dataclass(frozen=True)
class Noise:
    """A random number for each row of some states or logits, by the node's number and the round.

    `iteration` is the register or the number of the round.
    """

    name: str
    origin: Origin
    rows: Logits
    stream: int
    iteration: str | int


@dataclass(frozen=True)
class Rule:
    """One rule of a selection; in `limit` stand `left`, the loop's `iteration` in a loop, and
    registers of what the method has asked of params.
    """

    name: str
    limit: Expr


@dataclass(frozen=True)
class Condition:
    """The rule `where`: an expression over a row's number, rank and score, which the registers
    `bound` hold in this order, and over what rules know.
    """

    expr: Expr
    bound: tuple[str, str, str]


@dataclass(frozen=True)
class Select:
    """The rows that any of the rules takes; `iteration` is the register that counts rounds."""

    name: str
    origin: Origin
    among: Use
    score: Use
    less_is_surer: bool = False
    rules: tuple[Rule, ...] = ()
    where: Condition | None = None
    iteration: str | None = None


@dataclass(frozen=True)
class Fill:
    """Rows with tokens written where something holds."""

    name: str
    origin: Origin
    rows: Use
    where: Use
    tokens: Use


@dataclass(frozen=True)
class Mask:
    """Rows masked again where something holds."""

    name: str
    origin: Origin
    rows: Use
    where: Use


@dataclass(frozen=True)
class Lookup:
    """What followed the last tokens of the text the last time they occurred."""

    name: str
    origin: Origin
    length: int
    ngram: int


@dataclass(frozen=True)
class Candidates:
    """The likeliest tokens of each row, so many of them."""

    name: str
    origin: Origin
    logits: Logits
    count: int


@dataclass(frozen=True)
class Recall:
    """What follows a token in entries of a pool that begin with it, of so many entries."""

    name: str
    origin: Origin
    pool: Use
    entry: int
    after: Use
    count: int


@dataclass(frozen=True)
class Join:
    """Tokens one after another."""

    name: str
    origin: Origin
    parts: tuple[Use, ...]


@dataclass(frozen=True)
class Accept:
    """The longest prefix on which draft and target agree, of `most` matches (None: of all).

    It is sought in each of the branches, whose rows are the lines of a table, if there is one.
    """

    name: str
    origin: Origin
    draft: Use
    target: Use
    offset: int
    most: Amount | None = None
    branches: str | None = None


@dataclass(frozen=True)
class Leading:
    """How many rows, from the first on, are as sure as a bound; `low` at least."""

    name: str
    origin: Origin
    scores: Use
    at_least: Expr | None
    at_most: Expr | None
    low: int


@dataclass(frozen=True)
class Reckon:
    """A whole number made of counts; held by `low` and `high` where it could lie outside."""

    name: str
    origin: Origin
    expr: Expr
    terms: tuple[tuple[str, Use], ...]
    low: int | None = None
    high: int | None = None


@dataclass(frozen=True)
class Loop:
    """Rounds of `body` over the rows `name`, which are `initial` at first and `result` after each.

    `active` says which sequences go on; `within`, those of the loop around it. Who has a mask goes
    on, and has met no EOS unless `eos` is ignored; it is asked before the first round if `at_least`
    is 0. `iteration` counts the rounds where somebody asks. `left` fills what is left when the
    rounds are used up, and is called `kept` where there may have been no round; `append` names the
    layout of the forward whose keys stay.
    """

    name: str
    origin: Origin
    initial: Use
    body: tuple[Instruction, ...]
    result: Use
    at_most: int
    at_least: int
    active: str
    within: str | None = None
    iteration: str | None = None
    eos: str = "stops"
    eos_ids: str = "all"
    changed: str | None = None
    left: Use | None = None
    kept: str | None = None
    append: str | None = None


Reader = Choose | Score | Safety | ChooseScored | Candidates | Mix
"""What reads logits."""

Counted = Leading | Reckon
"""What makes a count."""

Change = Noise | Fill | Mask
"""What makes rows of other rows, and the noise by which."""

Instruction = (
    LayRows
    | Forward
    | Head
    | Reader
    | Select
    | Change
    | Lookup
    | Recall
    | Counted
    | Join
    | Accept
    | Loop
)


@dataclass(frozen=True)
class Commit:
    """What a method hands out: tokens (None: none at all), how many of them count, how many of the
    appended rows stay (None: all), and what goes to the next step. The host is `told` of some of
    the Counts among that. With a `path` those that stay are the first of its rows, numbered among
    the appended ones.
    """

    tokens: Use | None
    count: Amount | None
    keep: Amount | None
    carry: tuple[tuple[str, Use], ...]
    told: tuple[str, ...] = ()
    path: ByCount | None = None


@dataclass(frozen=True)
class Brought:
    """A param that requests bring, under the name of a constant."""

    name: str
    param: str
    default: int | float
    low: int | float
    high: int | float
    help: str


@dataclass(frozen=True)
class Worth:
    """A number that follows from such `params`, constants; `bound` are their values in `expr`."""

    name: str
    params: tuple[str, ...]
    bound: tuple[str, ...]
    expr: Expr


@dataclass(frozen=True)
class Asked:
    """What a method asks of a constant that requests bring, and its register.

    `role` is that of the runtime's `Batch.param`: what the number is for.
    """

    register: str
    constant: str
    role: str


@dataclass(frozen=True)
class Method:
    """A prefill, or a step: its name in Python, the regions of the file that it runs, the carried
    values with their registers, the instructions, what it hands out, and what it asks of params.
    Those of `counts` are carried Counts.
    """

    name: str
    regions: tuple[str, ...]
    carried: tuple[tuple[str, str], ...]
    body: tuple[Instruction, ...]
    commit: Commit
    counts: tuple[str, ...] = ()
    asked: tuple[Asked, ...] = ()


@dataclass(frozen=True)
class Room:
    """Rows of the cache: so many for each token of the prompt and of the text, and `scratch`."""

    scratch: int
    prompt: int = 1
    token: int = 1


@dataclass(frozen=True)
class Choice:
    """The step that is taken while a condition holds: on `live`, the live sequences, and on what a
    sequence carries.
    """

    condition: Expr
    step: str


@dataclass(frozen=True)
class Needs:
    """What a strategy needs of a checkpoint: adapters, and whether each is optional; the
    trained samplers among them, with the most rows that they are asked of; params that
    follow its config, with the key and the value that they have; and a model that diffuses. Of the
    device, it needs the sequences' texts if it looks them up, and the `prompt` in steps if it
    carries tokens of it.
    """

    adapters: tuple[tuple[str, bool], ...]
    samplers: tuple[tuple[str, int], ...]
    checkpoint: tuple[tuple[str, str, int | float], ...]
    diffuses: bool
    texts: bool
    prompt: bool


@dataclass(frozen=True)
class Program:
    """A strategy for concrete params. Of several steps, `choices` say which is taken, in order;
    otherwise it is the last. Conditions name the carried Counts of `routed_by`, if there are any,
    which have registers: each sequence then takes a step of its own.
    """

    strategy: str
    summary: str
    guarantee: str
    compat: str | None
    params: tuple[tuple[str, str], ...]
    kinds: tuple[str, ...]
    needs: Needs
    room: Room
    layouts: tuple[Layout, ...]
    tables: tuple[Table, ...]
    patterns: tuple[Pattern, ...]
    prefill: Method
    steps: tuple[Method, ...]
    choices: tuple[Choice, ...] = ()
    routed_by: tuple[tuple[str, str], ...] = ()
    brought: tuple[Brought, ...] = ()
    worths: tuple[Worth, ...] = ()

    @property
    def methods(self) -> tuple[Method, ...]:
        """The prefill, then every step."""
        return (self.prefill, *self.steps)


def logits_of(each: Instruction) -> tuple[Logits, ...]:
    """Return the logits that an instruction reads, or the states that it computes them of."""
    match each:
        case Head():
            return (each.of,)
        case Choose() | Score() | Safety() | ChooseScored() | Candidates():
            return (each.logits,)
        case Mix():
            return each.parts
        case _:
            return ()


def writes(each: Instruction) -> tuple[str, ...]:
    """Return the registers that an instruction writes, but not those of a loop's body."""
    scores = each.scores if isinstance(each, ChooseScored) else ()
    return (each.name, *(score.name for score in scores))


def walk(body: Iterable[Instruction]) -> Iterator[Instruction]:
    """Yield instructions, and those of loops inside them, in the order in which they run."""
    for instruction in body:
        if isinstance(instruction, Loop):
            yield from walk(instruction.body)
        yield instruction


def uses(part: Any) -> Iterator[Use]:
    """Yield every use inside an instruction, a commit or a use, but not those of a loop's body."""
    if isinstance(part, Use):
        yield part
        if isinstance(part.rows, ByCount):
            yield from uses(part.rows.count)
    elif isinstance(part, tuple):
        for item in part:
            yield from uses(item)
    elif is_dataclass(part) and not isinstance(part, Expr):
        for item in fields(part):
            if not (isinstance(part, Loop) and item.name == "body"):
                yield from uses(getattr(part, item.name))


def changed(part: Any, change: Callable[[Any], Any]) -> Any:
    """Return an instruction, a body, a commit or a use with `change` made to each part of it that
    is an object of this module, the parts of a part first.
    """
    if isinstance(part, tuple):
        return tuple(changed(item, change) for item in part)
    if not is_dataclass(part) or isinstance(part, type) or type(part).__module__ != __name__:
        return part
    old = {item.name: getattr(part, item.name) for item in fields(part)}
    new = {name: changed(value, change) for name, value in old.items()}
    other = {name: value for name, value in new.items() if value is not old[name]}
    return change(replace(part, **other) if other else part)
