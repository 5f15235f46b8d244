"""What a method of a program costs, counted: forwards and their rows, heads, ops, waits."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from nldc.codegen.program import (
    ByCount,
    Candidates,
    Choose,
    ChooseScored,
    Forward,
    Head,
    Instruction,
    Logits,
    Lookup,
    Loop,
    Mix,
    Numbers,
    Program,
    Safety,
    Score,
    States,
    Use,
    logits_of,
)
from nldc.ir.size import Size

NO_ROWS = Size(0)
SAFETY_OPS, SAFETY_WIDTH = 5, 128
"""Launches of a trained sampler up to so wide, whatever its layers and the batch: the likeliest
tokens, sums of logits, features, and the network. A wider one is torch's, with over a hundred."""
LOOK_OPS = 2
"""Launches that choose of logits that are there, score them or take the likeliest tokens: of each
tile of the vocabulary, and of all tiles."""


@dataclass(frozen=True)
class Costs:
    """What runs once: `forwards` over `rows` in all, `heads` over `head_rows`, other `ops`.

    `waits` are where the host waits for the device, `host_reads` where an op reads what lies on the
    host, the text so far. `loops` come on top, round by round.
    """

    forwards: int = 0
    rows: Size = NO_ROWS
    heads: int = 0
    head_rows: Size = NO_ROWS
    ops: int = 0
    waits: int = 0
    host_reads: int = 0
    loops: tuple[LoopCosts, ...] = ()

    @property
    def most(self) -> Costs:
        """All that runs if every loop takes as many rounds as it may."""
        total = Costs(
            self.forwards,
            self.rows,
            self.heads,
            self.head_rows,
            self.ops,
            self.waits,
            self.host_reads,
        )
        for loop in self.loops:
            total = _sum(total, _times(loop.round.most, loop.at_most))
        return total


@dataclass(frozen=True)
class LoopCosts:
    """What one round of a loop costs; it takes between `at_least` and `at_most` of them."""

    node: str
    at_least: int
    at_most: int
    round: Costs


def costs(program: Program) -> dict[str, Costs]:
    """Return what each method costs, by its name: the prefill, then every step."""
    return {method.name: _of(method.body) for method in program.methods}


def _of(body: Iterable[Instruction]) -> Costs:
    total = Costs()
    for each in body:
        total = _sum(total, cost_of(each))
    return total


def cost_of(each: Instruction) -> Costs:
    """Return what one instruction costs, a loop with its rounds apart."""
    match each:
        case Forward():
            return Costs(forwards=1, rows=each.size)
        case Head():
            return _heads(each)
        case Choose() | Score() | ChooseScored() | Candidates() | Mix() | Safety():
            return _sum(_heads(each), Costs(ops=1))
        case Lookup():
            return Costs(ops=1, host_reads=1)
        case Loop():
            # Who goes on is asked before the first round and, with the rows' advance, in each.
            round_ = _sum(_of(each.body), Costs(ops=2, waits=1))
            rounds = LoopCosts(each.origin.node, each.at_least, each.at_most, round_)
            return Costs(ops=1, loops=(rounds,))
        case _:
            return Costs(ops=1)


def joined_ops(each: Instruction, held: Collection[str] = ()) -> int:
    """Return how many launches beside forwards and heads an instruction is, no loop, where all that
    a step does between two calls of the model is one: before a forward, and before a head whose
    rows a count chooses. What reads logits has launches of its own; those of a greedy request are
    counted. A head that chooses ends with one, for the best of all its tiles. Tokens of rows that
    the step has just made are made before they are scored; rows that loops go over, `held`, are
    there.
    """
    return _reading(each, held) + sum(map(_taking, logits_of(each)))


def _reading(each: Instruction, held: Collection[str]) -> int:
    match each:
        case Forward():
            return 1
        case Choose():
            return 1 if isinstance(each.logits, States) else LOOK_OPS
        case ChooseScored() | Mix():
            return 1
        case Candidates():
            return LOOK_OPS
        case Score():
            return LOOK_OPS + int(_is_made(each.tokens, held))
        case Safety():
            return SAFETY_OPS
        case _:
            return 0


def _is_made(tokens: Use | None, held: Collection[str]) -> bool:
    """Whether tokens are those of rows that the step makes, not of a choice or of a loop's rows."""
    return tokens is not None and tokens.field is not None and tokens.register not in held


def _taking(logits: Logits) -> int:
    """Return the launches that take the rows of states or logits, and know which they are."""
    use = logits.use if isinstance(logits, States) else logits
    match use.rows:
        case ByCount() | Numbers():  # with their positions, which are noted with the count
            return 2
        case _:
            return 0


def _heads(instruction: Instruction) -> Costs:
    sizes = [each.size for each in logits_of(instruction) if isinstance(each, States)]
    return Costs(heads=len(sizes), head_rows=sum(sizes, NO_ROWS))


def _sum(one: Costs, other: Costs) -> Costs:
    return Costs(
        one.forwards + other.forwards,
        one.rows + other.rows,
        one.heads + other.heads,
        one.head_rows + other.head_rows,
        one.ops + other.ops,
        one.waits + other.waits,
        one.host_reads + other.host_reads,
        (*one.loops, *other.loops),
    )


def _times(one: Costs, count: int) -> Costs:
    def times(size: Size) -> Size:
        return Size(size.fixed * count, size.prompts * count)

    return Costs(
        one.forwards * count,
        times(one.rows),
        one.heads * count,
        times(one.head_rows),
        one.ops * count,
        one.waits * count,
        one.host_reads * count,
    )
