"""What the steps of a run were, as an observer of the engine heard: tokens, rounds, seconds."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from nldc.acceptance import Acceptance, profile_of
from nldc.ir.taper import Profile
from nldc.prompts import Prompt

if TYPE_CHECKING:
    from nldc.runtime.decoder import Decoder
    from nldc.runtime.engine.observe import StepRecord


MOST_PARTS = 8
"""Into how many parts steps are put by the tokens in the cache."""


@dataclass(frozen=True)
class Observed:
    """One run over all prompts.

    `accepted` counts the tokens that a sequence emitted in a step, `rounds` are the mean rounds of
    each loop. `seconds` is the median of the steps in which the most sequences were live, `live` of
    them; `prefix` the mean number of tokens in the cache, half of what was emitted included.
    `after` counts, as a profile does, the tokens of each step by those of the step before it in the
    same sequence; it is empty where no drafts were counted. `by_prefix` has the median seconds of
    such steps, in up to 8 parts by the mean number of tokens in the cache of a sequence.
    """

    accepted: Mapping[int, int]
    rounds: Mapping[str, float]
    seconds: float
    live: int
    prefix: int
    after: Profile = ()
    by_prefix: tuple[tuple[int, float], ...] = ()

    def acceptance(self, strategy: str, params: Mapping[str, int | float], most: int) -> Acceptance:
        """Return the profile of the strategy that ran, whose steps may emit up to `most` tokens."""
        return Acceptance(strategy, dict(params), self.accepted, self.rounds, most, self.after)


def observe(
    decoder: Decoder,
    prompts: Sequence[Prompt],
    generation: Mapping[str, Any],
    loops: Mapping[str, str],
    most_drafted: int = 0,
) -> Observed | None:
    """Decode the prompts once more and return what its steps were; None if there was no step.

    `loops` are the loops of the strategy, each with the node of a forward that each round runs.
    `most_drafted` is how many tokens a step emits at most whose drafts are to be counted; 0: it has
    none.
    """
    records: list[StepRecord] = []
    result = decoder.generate(prompts, on_step=records.append, **generation)
    one = {name: value for name, value in generation.items() if name != "batch_size"}
    lengths = [len(decoder.request(prompt, **one).prompt) for prompt in prompts]
    steps = [record for record in records if record.kind == "step"]
    if not steps:
        return None
    live = max(len(record.sequences) for record in steps)
    texts: defaultdict[int, list[int]] = defaultdict(list)
    for each in (sequence for record in steps for sequence in record.sequences):
        texts[each.id].append(each.accepted)
    return Observed(
        accepted=dict(Counter(chain.from_iterable(texts.values()))),
        rounds={loop: fmean(_rounds(record, node) for record in steps)
                for loop, node in loops.items()},
        seconds=median(r.seconds for r in steps if len(r.sequences) == live),
        live=live,
        prefix=round(fmean(lengths) + fmean(map(len, result.tokens)) / 2),
        after=profile_of(texts.values(), most_drafted),
        by_prefix=_by_prefix(records, lengths, live),
    )  # fmt: skip


def _by_prefix(
    records: Sequence[StepRecord], lengths: Sequence[int], live: int
) -> tuple[tuple[int, float], ...]:
    """Return seconds of steps by tokens in the cache; requests are numbered as their prompts are.

    Only steps with `live` sequences are held against each other.
    """
    ids = sorted({each.id for record in records for each in record.sequences})
    cached = dict(zip(ids, lengths, strict=False))
    found: list[tuple[float, float]] = []
    for record in records:
        if record.kind == "step" and len(record.sequences) == live:
            found.append((fmean(cached[each.id] for each in record.sequences), record.seconds))
        for each in record.sequences:
            cached[each.id] += each.accepted
    found.sort()
    size = max(1, -(-len(found) // MOST_PARTS))
    parts = [found[begin : begin + size] for begin in range(0, len(found), size)]
    return tuple(
        (round(fmean(prefix for prefix, _ in part)), median(seconds for _, seconds in part))
        for part in parts
    )


def _rounds(record: StepRecord, node: str) -> int:
    """Return how many rounds a step took: as many as the sequence that took most."""
    return max(each.forwards.get(node, 0) for each in record.sequences)
