"""What a trace holds: the run that it is of, and each of its steps. Plain frozen data.

Tokens are ids. Lists that belong together, such as a choice's `tokens` and `rows`, have one entry a
token. A `Source` says which choice made a token: the step's number, the place of the choice in that
step's part of the same sequence, and the place of the token in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal

FORMAT = 1
OPTIONS = (
    *("max_new_tokens", "temperature", "top_k", "top_p", "min_p", "seed", "eos", "stop", "params"),
    *("max_thinking_tokens", "end_think_token_id", "start_think_token_id", "strategy"),
    *("batch_size", "sequence_ids"),
)
"""Options of `generate` that change tokens, prompts as ids given."""
Kind = Literal["prefill", "step"]
Origin = Literal["prefill", "ar", "accepted", "bonus", "diffused"]
"""How a token came to be: a prefill chose it; AR did; a draft of it was accepted; the verifier
chose it itself; or it was filled in with nobody to verify it."""
Source = tuple[int, int, int]


@dataclass(frozen=True)
class Node:
    """A node of a strategy: its op in the compiled program, and where it stands in the file."""

    op: str
    line: int
    file: str


@dataclass(frozen=True)
class Strategy:
    """A strategy that ran, what is proved of it, its params, and its nodes by name."""

    guarantee: str
    file: str
    params: Mapping[str, int | float | str]
    nodes: Mapping[str, Node]


@dataclass(frozen=True)
class Artifact:
    """What ran: `sha256` is the digest of its manifest, which has those of all its files."""

    name: str
    compiler: str
    sha256: str
    strategies: Mapping[str, Strategy]


@dataclass(frozen=True)
class Model:
    """The checkpoint: the name of its folder, and a digest of its config and of its weights' names,
    shapes and samples; and what computed it.
    """

    name: str
    digest: str
    dtype: str
    device: str
    backend: str
    adapters: tuple[str, ...]


@dataclass(frozen=True)
class Sequence:
    """One sequence: its prompt, how many tokens it came to, and what ended it (None: nobody said).

    `length` is the prompt's. In a trace without text the prompt is None.
    """

    length: int
    prompt: tuple[int, ...] | None
    tokens: int
    finish: str | None


@dataclass(frozen=True)
class Forward:
    """A forward: its rows in the file's order, with the tokens that they held and their positions.

    `adapted` are the rows that had the adapter. Times are in seconds, from the step's beginning.
    """

    node: str
    tokens: tuple[int, ...]
    positions: tuple[int, ...]
    adapted: tuple[int, ...]
    begin: float
    seconds: float


@dataclass(frozen=True)
class Choice:
    """Tokens that a node chose, each in row `rows` of the forward number `forwards` of this part,
    for a position.

    `probability` is the token's own in its row, of the logits as they are; `first` and `second` are
    the row's likeliest tokens, and `gap` is how far apart their logits are.
    """

    node: str
    forwards: tuple[int, ...]
    rows: tuple[int, ...]
    positions: tuple[int, ...]
    tokens: tuple[int, ...]
    probability: tuple[float, ...]
    first: tuple[int, ...]
    second: tuple[int, ...]
    gap: tuple[float, ...]


@dataclass(frozen=True)
class Draft:
    """Drafts that were held against the verifier's own choices, `targets`.

    The first `accepted` agreed. If fewer did than were drafted, target number `accepted` is what AR
    chose in place of the draft there; otherwise it is the token behind them. `by` are the choices
    that made the drafts (None: they were looked up in the text), with the `probability` that each
    had; `verified` those of the targets. Of several drafts, this is the one numbered `branch`.
    """

    node: str
    tokens: tuple[int, ...]
    by: tuple[Source | None, ...]
    probability: tuple[float | None, ...]
    targets: tuple[int, ...]
    verified: tuple[Source | None, ...]
    accepted: int
    branch: int | None

    @property
    def is_broken(self) -> bool:
        """Whether a draft was refused."""
        return self.accepted < len(self.tokens)


@dataclass(frozen=True)
class Round:
    """The rows of a loop after one of its rounds; `masked` are those that hold a mask."""

    node: str
    tokens: tuple[int, ...]
    masked: tuple[int, ...]


@dataclass(frozen=True)
class Part:
    """One sequence's part in a step: what it emitted, before any end, and where that comes from.

    `drafted`, `kept` and `nfe` are those of the engine's record.
    """

    sequence: int
    drafted: int
    kept: int
    nfe: int
    tokens: tuple[int, ...]
    origins: tuple[Origin, ...]
    chosen: tuple[Source | None, ...]
    forwards: tuple[Forward, ...]
    choices: tuple[Choice, ...]
    draft: Draft | None
    rounds: tuple[Round, ...]


@dataclass(frozen=True)
class Step:
    """A prefill, or a step; `method` is its name in the generated code."""

    number: int
    kind: Kind
    strategy: str
    method: str
    begin: float
    seconds: float
    live: int
    waiting: int
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Trace:
    """A traced run. `options` are those `OPTIONS` of `generate` that are plain data.

    `text` says whether it has tokens at all; without, every id is 0. `pieces` are the texts of the
    tokens in it by their ids, empty where there is no tokenizer.
    """

    format: int
    artifact: Artifact
    model: Model
    options: Mapping[str, object]
    text: bool
    pieces: Mapping[str, str]
    sequences: tuple[Sequence, ...]
    steps: tuple[Step, ...]

    def parts_of(self, sequence: int) -> Iterator[tuple[Step, Part]]:
        """Yield the steps in which a sequence had a part, in order."""
        yield from self._by_sequence.get(sequence, ())

    @cached_property
    def _by_sequence(self) -> dict[int, list[tuple[Step, Part]]]:
        found: dict[int, list[tuple[Step, Part]]] = {}
        for step in self.steps:
            for part in step.parts:
                found.setdefault(part.sequence, []).append((step, part))
        return found

    @cached_property
    def _parts(self) -> dict[tuple[int, int], Part]:
        return {(part.sequence, step.number): part for step in self.steps for part in step.parts}

    def part(self, sequence: int, number: int) -> Part:
        """Return a sequence's part in the step of that number."""
        return self._parts[sequence, number]

    def choice(self, sequence: int, source: Source) -> tuple[Choice, int]:
        """Return the choice that made a token, and its place there."""
        number, choice, place = source
        return self.part(sequence, number).choices[choice], place

    def problem(self) -> tuple[str, str] | None:
        """Return a place where parts do not fit one another, and what is wrong; None: nowhere."""
        for name in self.options:
            if name not in OPTIONS:
                return f"options.{name[:80]}", "is no option that a trace has"
        for earlier, later in pairwise(self.steps):
            if later.number <= earlier.number:
                return f"steps[{later.number}].number", "is not behind the one before it"
        for number, sequence in enumerate(self.sequences):
            if sequence.length < 0 or sequence.tokens < 0:
                return f"sequences[{number}].tokens", "are less than none"
        sizes: dict[tuple[int, int], tuple[int, ...]] = {}
        for place, step in enumerate(self.steps):
            for number, part in enumerate(step.parts):
                where = f"steps[{place}].parts[{number}]"
                if not 0 <= part.sequence < len(self.sequences):
                    return f"{where}.sequence", "is no sequence of the trace"
                if step.strategy not in self.artifact.strategies:
                    return f"steps[{place}].strategy", "is none of the artifact's"
                sizes[part.sequence, step.number] = tuple(len(c.tokens) for c in part.choices)
                found = _part_problem(part) or _source_problem(part, sizes)
                if found is not None:
                    return f"{where}.{found[0]}", found[1]
        return None


def _part_problem(part: Part) -> tuple[str, str] | None:
    if not len(part.tokens) == len(part.origins) == len(part.chosen):
        return "tokens", "are not as many as their origins and choices"
    for number, forward in enumerate(part.forwards):
        if len(forward.tokens) != len(forward.positions):
            return f"forwards[{number}].tokens", "are not as many as their positions"
    for number, each in enumerate(part.choices):
        lists = (each.forwards, each.rows, each.positions, each.probability, each.first,
                 each.second, each.gap)  # fmt: skip
        if any(len(one) != len(each.tokens) for one in lists):
            return f"choices[{number}].tokens", "are not as many as what is said of them"
        if any(not 0 <= forward < len(part.forwards) for forward in each.forwards):
            return f"choices[{number}].forwards", "are no forwards of this part"
    draft = part.draft
    if draft is not None:
        same = len(draft.tokens) == len(draft.by) == len(draft.probability)
        if not same or len(draft.targets) != len(draft.verified):
            return "draft.tokens", "are not as many as what is said of them"
        if not 0 <= draft.accepted <= len(draft.tokens) or draft.accepted >= len(draft.targets):
            return "draft.accepted", "are more than were drafted"
    return None


def _source_problem(
    part: Part, sizes: Mapping[tuple[int, int], tuple[int, ...]]
) -> tuple[str, str] | None:
    draft = part.draft
    lists = {"chosen": part.chosen}
    if draft is not None:
        lists |= {"draft.by": draft.by, "draft.verified": draft.verified}
    for name, sources in lists.items():
        for place, source in enumerate(sources):
            if source is None:
                continue
            number, choice, token = source
            known = sizes.get((part.sequence, number), ())
            if not (0 <= choice < len(known) and 0 <= token < known[choice]):
                return f"{name}[{place}]", "is no choice of a step up to this one"
    return None
