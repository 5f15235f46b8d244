"""What the steps of a trace come to: tokens a step, acceptance by position, time by phase."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from nldc.trace.document import Origin, Trace


@dataclass(frozen=True)
class Position:
    """Place `place` of drafts, from 1: how many came so far, and how many of them were accepted.

    `sure` and `refused` are the mean confidence of the accepted and of the refused ones, None where
    there are none that have one.
    """

    place: int
    reached: int
    accepted: int
    sure: float | None
    refused: float | None


@dataclass(frozen=True)
class Time:
    """How often something ran, and the seconds that it took in all."""

    count: int
    seconds: float


@dataclass(frozen=True)
class Summary:
    """What a trace comes to.

    `tokens` are those that sequences kept, `nfe` the forwards that count. `histogram` has, by the
    number of tokens that a sequence's step emitted, how many did; the prefill is no step. `phases`
    are the prefills and the steps, `forwards` those of each node.
    """

    tokens: int
    nfe: int
    steps: int
    histogram: Mapping[int, int]
    positions: tuple[Position, ...]
    origins: Mapping[Origin, int]
    phases: Mapping[str, Time]
    forwards: Mapping[str, Time]

    @property
    def tpf(self) -> float:
        """Tokens a forward."""
        return self.tokens / self.nfe if self.nfe else 0.0


def summary(trace: Trace) -> Summary:
    """Return what a trace comes to."""
    histogram: Counter[int] = Counter()
    phases: defaultdict[str, list[float]] = defaultdict(list)
    forwards: defaultdict[str, list[float]] = defaultdict(list)
    for step in trace.steps:
        phases[step.kind].append(step.seconds)
        shared: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
        for part in step.parts:
            if step.kind == "step":
                histogram[len(part.tokens)] += 1
            for forward in part.forwards:
                shared[forward.node].append((forward.begin, forward.seconds))
        for node, times in shared.items():  # sequences that share a forward share its time
            forwards[node] += [seconds for _, seconds in set(times)]
    return Summary(
        tokens=sum(each.tokens for each in trace.sequences),
        nfe=sum(part.nfe for step in trace.steps for part in step.parts),
        steps=sum(step.kind == "step" for step in trace.steps),
        histogram=dict(sorted(histogram.items())),
        positions=_positions(trace),
        origins=_origins(trace),
        phases={name: Time(len(each), sum(each)) for name, each in phases.items()},
        forwards={name: Time(len(each), sum(each)) for name, each in forwards.items()},
    )


def _origins(trace: Trace) -> dict[Origin, int]:
    left = [each.tokens for each in trace.sequences]
    found: Counter[Origin] = Counter()
    for step in trace.steps:
        for part in step.parts:
            kept = part.origins[: left[part.sequence]]
            left[part.sequence] -= len(kept)
            found.update(kept)
    return dict(found)


def _positions(trace: Trace) -> tuple[Position, ...]:
    reached: Counter[int] = Counter()
    accepted: Counter[int] = Counter()
    sure: defaultdict[tuple[int, bool], list[float]] = defaultdict(list)
    for draft in (part.draft for step in trace.steps for part in step.parts):
        if draft is None:
            continue
        for place in range(min(draft.accepted + 1, len(draft.tokens))):
            is_accepted = place < draft.accepted
            reached[place] += 1
            accepted[place] += is_accepted
            probability = draft.probability[place]
            if probability is not None:
                sure[place, is_accepted].append(probability)
    return tuple(
        Position(
            place=place + 1,
            reached=reached[place],
            accepted=accepted[place],
            sure=_mean(sure[place, True]),
            refused=_mean(sure[place, False]),
        )
        for place in sorted(reached)
    )


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
