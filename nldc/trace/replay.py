"""A trace run again: is every step the same, and where is the first that is not?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from nldc.runtime.errors import TraceError
from nldc.trace.document import Choice, Draft, Part, Source, Step, Trace
from nldc.trace.running import watch
from nldc.verify import named_strategy

WHOLE = 16
"""Values of a list that are shown whole if one of them differs."""


@dataclass(frozen=True)
class Apart:
    """The first thing that differs: in which sequence, in which step of the trace and which of its
    parts; `before` and `now` in words.
    """

    sequence: int
    step: int
    what: str
    before: str
    now: str


@dataclass(frozen=True)
class Replayed:
    """What came of it: how many steps were held against one another, what is not as it was of the
    artifact and the model, and the first thing that differs (None: nothing does).

    `numbers` are how far probabilities and logits lie apart at most where all else is the same.
    """

    steps: int
    notes: tuple[str, ...]
    apart: Apart | None
    numbers: float


def replay(
    trace: Trace, artifact: str | Path, model: str | Path | None, loading: Mapping[str, Any]
) -> Replayed:
    """Run a trace's prompts again with its options, and compare every step.

    What `loading` leaves out (None; for adapters "auto") is as the trace says.

    Raises:
        TraceError: it has no text, or what ran cannot run it again.
        NldcRuntimeError: the artifact or the checkpoint cannot be loaded.
    """
    if not trace.text or any(each.prompt is None for each in trace.sequences):
        raise TraceError("the trace has no text, so it cannot run again", "record it with text")
    as_it_was: dict[str, Any] = {
        "dtype": trace.model.dtype, "device": trace.model.device, "backend": trace.model.backend
    }  # fmt: skip
    if not trace.model.adapters:
        as_it_was["adapter"] = None
    given = {
        name: value
        for name, value in loading.items()
        if (value != "auto" if name == "adapter" else value is not None)
    }
    own = watch(artifact, model, **{**as_it_was, **given})
    options = dict(trace.options)
    strategy = options.pop("strategy", None)
    if strategy is not None:
        options |= named_strategy(own.decoder, str(strategy))
    prompts = [list(each.prompt or ()) for each in trace.sequences]
    again, _ = own.run(prompts, options)
    return compared(trace, again)


def compared(trace: Trace, again: Trace) -> Replayed:
    """Hold two traces of the same prompts against one another, step by step."""
    notes = []
    if trace.artifact.sha256 != again.artifact.sha256:
        notes.append("the artifact is not the one that was traced")
    if trace.model.digest != again.model.digest:
        notes.append("the model is not the one that was traced")
    for name in ("dtype", "device", "backend"):
        before, now = getattr(trace.model, name), getattr(again.model, name)
        if before != now:
            notes.append(f"the {name} was {before}, and is {now}")
    if trace.model.adapters != again.model.adapters:
        was, now = (", ".join(each.model.adapters) or "none" for each in (trace, again))
        notes.append(f"adapters: it was {was}, and is {now}")
    numbers, steps = [0.0], 0
    for sequence in range(len(trace.sequences)):
        pairs = zip_longest(trace.parts_of(sequence), again.parts_of(sequence))
        places = (_places(trace, sequence), _places(again, sequence))
        for before_, now_ in pairs:
            if before_ is None or now_ is None:
                there = before_ or now_
                apart = Apart(
                    sequence, there[0].number, "step",
                    "a step" if before_ else "no step", "a step" if now_ else "no step",
                )  # fmt: skip
                return Replayed(steps, tuple(notes), apart, max(numbers))
            steps += 1
            found = _difference(before_, now_, places)
            if found is not None:
                apart = Apart(sequence, before_[0].number, *found)
                return Replayed(steps, tuple(notes), apart, max(numbers))
            numbers += _numbers(before_[1], now_[1])
    return Replayed(steps, tuple(notes), None, max(numbers))


def _places(trace: Trace, sequence: int) -> dict[int, int]:
    """Return which of a sequence's steps each number is: engines count those of others, too."""
    steps = (step.number for step, _ in trace.parts_of(sequence))
    return {number: place for place, number in enumerate(steps)}


def _difference(
    before: tuple[Step, Part],
    now: tuple[Step, Part],
    places: tuple[Mapping[int, int], Mapping[int, int]],
) -> tuple[str, str, str] | None:
    for name in ("kind", "strategy", "method"):
        one, two = getattr(before[0], name), getattr(now[0], name)
        if one != two:
            return name, str(one), str(two)
    for one, two in zip(_plain(before[1], places[0]), _plain(now[1], places[1]), strict=True):
        if one != two:
            what, mine, other = _narrowed(one[0], one[1], two[1])
            return what, _short(mine), _short(other)
    return None


def _narrowed(what: str, one: Any, two: Any) -> tuple[str, Any, Any]:
    """Return the first part of two values in which they differ, and its name."""
    if is_dataclass(one) and is_dataclass(two):
        for item in fields(one):
            mine, other = getattr(one, item.name), getattr(two, item.name)
            if mine != other:
                return _narrowed(f"{what}.{item.name}", mine, other)
    if isinstance(one, tuple) and isinstance(two, tuple) and len(one) == len(two) and one:
        place = next(number for number, (a, b) in enumerate(zip(one, two, strict=True)) if a != b)
        if is_dataclass(one[place]) or len(one) > WHOLE:
            return _narrowed(f"{what}[{place}]", one[place], two[place])
    return what, one, two


def _plain(part: Part, places: Mapping[int, int]) -> Iterator[tuple[str, Any]]:
    """Yield what has to be the same of a part, by name: no times, and no computed numbers."""

    def placed(sources: tuple[Source | None, ...]) -> tuple[Any, ...]:
        return tuple(None if each is None else (places[each[0]], *each[1:]) for each in sources)

    for item in fields(part):
        value = getattr(part, item.name)
        if item.name == "sequence":
            continue
        if item.name == "forwards":
            value = tuple(replace(each, begin=0.0, seconds=0.0) for each in value)
        elif item.name == "choices":
            value = tuple(_without_numbers(each) for each in value)
        elif item.name == "chosen":
            value = placed(value)
        elif isinstance(value, Draft):
            value = replace(
                value, probability=(), by=placed(value.by), verified=placed(value.verified)
            )
        yield item.name, value


def _without_numbers(choice: Choice) -> Choice:
    return replace(choice, probability=(), gap=(), first=(), second=())


def _numbers(before: Part, now: Part) -> list[float]:
    return [
        abs(one - two)
        for ours, theirs in zip(before.choices, now.choices, strict=True)
        for mine, other in ((ours.probability, theirs.probability), (ours.gap, theirs.gap))
        for one, two in zip(mine, other, strict=True)
    ]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 200 else f"{text[:200]} …"
