"""What steps came to: tokens a forward, with and without the prompt's, and what drafts brought.

Public figures mix these, so that each has a name here. *TPF with prefill* is all tokens over all
forwards, those over prompts included; *TPF without prefill* is the tokens of steps over the
forwards of steps. *Acceptance length* is accepted drafted tokens over drafts, + 1 for the token
that the verifier gives in any case; steps that drafted nothing are left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nldc.ir.graph import Graph

if TYPE_CHECKING:
    from nldc.runtime.engine.observe import StepRecord


class Steps:
    """An observer that keeps what it is told, and for which a step does nothing more than ever."""

    by_node = False

    def __init__(self) -> None:
        self.records: list[StepRecord] = []

    def __call__(self, record: StepRecord) -> None:
        """Keep a record."""
        self.records.append(record)


@dataclass(frozen=True)
class Answer:
    """One answer: its tokens, those of them that its prefill emitted, and each step's part.

    A step is (tokens offered, tokens emitted before any cut); `forwards` are those of all steps.
    """

    tokens: int
    begun: int
    forwards: int
    steps: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Figures:
    """What some answers of one strategy came to.

    `step_tokens` and `step_forwards` leave the prompts' out; `prefill_forwards` are those over the
    prompts, whether the strategy counts them or not. `offered` and `accepted` count for each place
    of a draft the drafts that were so long, and those that were accepted so far.
    """

    answers: int = 0
    tokens: int = 0
    step_tokens: int = 0
    step_forwards: int = 0
    prefill_forwards: int = 0
    drafts: int = 0
    offered: tuple[int, ...] = ()
    accepted: tuple[int, ...] = ()

    @property
    def tpf_with_prefill(self) -> float | None:
        """All tokens over all forwards; None: there was no forward."""
        return _ratio(self.tokens, self.step_forwards + self.prefill_forwards)

    @property
    def tpf_without_prefill(self) -> float | None:
        """Tokens of steps over forwards of steps; None: there was no step."""
        return _ratio(self.step_tokens, self.step_forwards)

    @property
    def acceptance_length(self) -> float | None:
        """Accepted drafted tokens over drafts, + 1; None: nothing was drafted and verified."""
        return sum(self.accepted) / self.drafts + 1 if self.drafts else None


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def answers_of(records: Sequence[StepRecord], tokens: Sequence[int]) -> list[Answer]:
    """Return the answers to prompts that were asked together, each with so many `tokens`.

    Requests are numbered in the order of their prompts.
    """
    begun: defaultdict[int, int] = defaultdict(int)
    forwards: defaultdict[int, int] = defaultdict(int)
    steps: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
    for record in records:
        for each in record.sequences:
            if record.kind == "prefill":
                begun[each.id] += each.accepted
            else:
                forwards[each.id] += each.nfe
                steps[each.id].append((each.drafted, each.accepted))
    ids = sorted({each.id for record in records for each in record.sequences})
    return [
        Answer(length, min(begun[id_], length), forwards[id_], tuple(steps[id_]))
        for id_, length in zip(ids, tokens, strict=True)
    ]


def figures_of(answers: Iterable[Answer], prompt_forwards: int, *, verifies: bool) -> Figures:
    """Return what answers came to.

    `prompt_forwards` are those of one prefill; `verifies` says whether the strategy verifies
    drafts: of one that does not, a step that emits several tokens has accepted none.
    """
    chosen = list(answers)
    # The first token of a step is the verifier's own, the others were drafted.
    drafts = [
        (offered - 1, emitted - 1)
        for answer in chosen
        for offered, emitted in answer.steps
        if verifies and offered > 1
    ]
    longest = max((offered for offered, _ in drafts), default=0)
    places = range(1, longest + 1)
    return Figures(
        answers=len(chosen),
        tokens=sum(answer.tokens for answer in chosen),
        step_tokens=sum(answer.tokens - answer.begun for answer in chosen),
        step_forwards=sum(answer.forwards for answer in chosen),
        prefill_forwards=prompt_forwards * len(chosen),
        drafts=len(drafts),
        offered=tuple(sum(offered >= place for offered, _ in drafts) for place in places),
        accepted=tuple(sum(accepted >= place for _, accepted in drafts) for place in places),
    )


def prompt_forwards(graph: Graph) -> int:
    """Return how many forwards a strategy's prefill makes, whether they count or not."""
    from nldc.cost.step import prefill_forwards

    return prefill_forwards(graph)
