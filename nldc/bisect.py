"""Where two runs on the same prompts part, and why: a tie, arithmetic, or logic.

Both runs are traced. At the first token in which they differ, the rows that chose it are held
against one another: what each saw (`trace/sight.py`), and its logits. Rows that saw the same may
differ by rounding; rows that did not, or whose logits are mixed otherwise with those of other rows,
are a matter of what the strategies do.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nldc.prompts import choose_prompts
from nldc.runtime.errors import TraceError
from nldc.trace import document as d
from nldc.trace.program import Mix
from nldc.trace.running import Watched, watch, watched
from nldc.trace.sight import Row, Sights, difference
from nldc.verify import (
    compile_baseline,
    model_folder,
    own_params,
    trials,
    vocabulary_without_tokenizer,
)

if TYPE_CHECKING:
    from torch import Tensor

    from nldc.runtime.trace.tracer import Chosen, Traced

Verdict = Literal["tie", "arithmetic", "logic"]
CONTEXT = 8
"""How many tokens before the difference are shown."""
TIMES = 8
"""How many times as far as rows before, which saw the same, logits may lie apart by rounding."""
UNITS = 32
"""How many units of the coarser dtype's precision, of the largest logit, are rounding anyway."""
COARSEST = {"cpu": 2.0**-16, "other": 2.0**-10}
"""The precision, by device, of which so many units are the most that rounding is: elsewhere than on
a CPU float32 may be multiplied as TF32. Else rows before that are all wrong would excuse it."""
AR = "AR"


@dataclass(frozen=True)
class Chooser:
    """What chose the token of one run: by `node`, in row `row` of a forward in step `step`.

    `text` is the token's, None where there is no tokenizer. `probability` is the token's own there;
    `gap` is how far its logit is ahead of that of the other
    run's token (less than 0: behind; None: the trace does not know the row).
    """

    token: int | None
    text: str | None
    step: int | None
    node: str | None
    place: str | None
    forward: str | None
    row: int | None
    position: int | None
    probability: float | None
    gap: float | None


@dataclass(frozen=True)
class Parting:
    """The first place where two runs part: token `token` of prompt `prompt`, both from 0.

    `before` are the tokens that lead there. `apart` is how far the two rows' logits lie apart at
    most, and `noise` how far those of rows before did that saw the same; None: it is not known.
    """

    prompt: int
    token: int
    before: tuple[int, ...]
    first: Chooser
    second: Chooser
    verdict: Verdict
    evidence: tuple[str, ...]
    apart: float | None
    noise: float | None


@dataclass(frozen=True)
class Bisected:
    """What came of two runs, by their names; `parting` None: every token was the same."""

    names: tuple[str, str]
    prompts: int
    tokens: int
    differing: int
    parting: Parting | None


@dataclass(eq=False)
class _Side:
    """One of the two: how it is run, and what its last run was."""

    name: str
    watched: Watched
    options: Mapping[str, Any]
    steps: list[Traced] = field(default_factory=list)
    trace: d.Trace | None = None
    tokens: list[list[int]] = field(default_factory=list)

    def run(self, prompts: Sequence[Any], whole: Callable[[int], bool]) -> None:
        """Decode the prompts; `whole` is asked whether all logits of a step are wanted, by how many
        steps there were before it.
        """
        self.steps = []
        tracer = self.watched.tracer
        since = tracer.following
        tracer.whole = lambda number: whole(number - since)
        with self.watched.listening() as recorder:
            told = tracer.told

            def both(traced: Traced) -> None:
                self.steps.append(traced)
                told(traced)

            tracer.told = both
            result = self.watched.decoder.generate(prompts, **self.options)
        ends = list(zip(map(len, result.tokens), result.finish, strict=True))
        self.trace = self.watched.trace(recorder, self.options, ends)
        self.tokens = result.tokens

    def ids(self) -> list[int]:
        """Return the engine's numbers of the sequences, in the order of the prompts."""
        return sorted({part.id for step in self.steps for part in step.parts})

    def place(self, number: int) -> int:
        """Return how many steps there were before that of the engine's number."""
        return number - self.steps[0].record.number


def bisect(
    first: str | Path,
    second: str | Path | None = None,
    model: str | Path | None = None,
    *,
    prompts: str | Path | None = None,
    count: int = 8,
    loading: Mapping[str, Any] | None = None,
    other: Mapping[str, Any] | None = None,
    generation: Mapping[str, Any] | None = None,
    strategies: tuple[str | None, str | None] = (None, None),
) -> Bisected:
    """Decode the same prompts twice, and say where the runs part and why.

    `first` and `second` are artifacts. Without a second, it is `first` loaded with the options
    `other` in place of those of `loading`, or by another strategy, or AR where neither is given.
    `generation` are options of `Decoder.generate`. `strategies` are those of artifacts that have
    several: None is the first exact one, or in an artifact that is run twice that of the first run.

    Raises:
        NldcRuntimeError: an artifact, the checkpoint, a prompt or an option cannot be used.
    """
    with ExitStack() as stack:
        own, changed = dict(loading or {}), dict(other or {})
        one = watch(first, model, **own)
        baseline: Path | None = None
        if second is None and not changed and strategies[1] is None:
            baseline = compile_baseline(
                Path(stack.enter_context(tempfile.TemporaryDirectory())) / "ar"
            )
        what = baseline or second or first
        if changed:
            two = watch(what, model, **{**own, **changed})
        else:
            two = watched(what, lambda kind: kind.beside(one.decoder, own.get("adapter", "auto")))
        folder = model_folder(model)
        chosen = choose_prompts(
            prompts, count, folder, vocabulary_without_tokenizer(one.decoder, folder),
            chat=bool((generation or {}).get("chat")),
        )  # fmt: skip
        options = dict(generation or {})
        named = strategies if what is not first else (strategies[0], strategies[1] or strategies[0])
        names = _names(one, two, named, is_ar=baseline is not None, changed=changed)
        sides = tuple(
            _Side(name, each, {**own_params(each.decoder, options), **_strategy(each, folder_, by)})
            for name, each, folder_, by in zip(names, (one, two), (first, what), named, strict=True)
        )
        return _bisected(sides[0], sides[1], chosen)


def _strategy(each: Watched, folder: str | Path, named: str | None) -> dict[str, Any]:
    """Return how an artifact is run: of several strategies by that named or the first exact one."""
    return dict(trials(folder, each.decoder, named)[0].options)


def _names(
    one: Watched,
    two: Watched,
    strategies: tuple[str | None, str | None],
    *,
    is_ar: bool,
    changed: Mapping[str, Any],
) -> tuple[str, str]:
    names = [
        each.artifact.name if by is None else f"{each.artifact.name} by {by}"
        for each, by in zip((one, two), strategies, strict=True)
    ]
    if is_ar:
        return names[0], AR
    if changed or names[0] == names[1]:
        told = [
            f"{n} ({w.model.dtype}, {w.model.device})"
            for n, w in zip(names, (one, two), strict=True)
        ]
        names = told if told[0] != told[1] else [f"{names[0]} (first)", f"{names[1]} (second)"]
    return names[0], names[1]


def _bisected(one: _Side, two: _Side, prompts: Sequence[Any]) -> Bisected:
    for side in (one, two):
        side.run(prompts, lambda _: False)
    assert one.trace is not None
    assert two.trace is not None
    if [each.prompt for each in one.trace.sequences] != [
        each.prompt for each in two.trace.sequences
    ]:
        raise TraceError(
            "the two have other prompt tokens for the same prompts",
            "give prompts as token ids, or use one checkpoint",
        )
    places = {
        number: place
        for number, (ours, theirs) in enumerate(zip(one.tokens, two.tokens, strict=True))
        if (place := _parting(ours, theirs)) is not None
    }
    parting = None
    if places:
        prompt = min(places, key=lambda number: (places[number], number))
        parting = _explained(one, two, prompts, prompt, places[prompt])
    return Bisected(
        names=(one.name, two.name),
        prompts=len(prompts),
        tokens=sum(map(len, one.tokens)),
        differing=len(places),
        parting=parting,
    )


def _parting(ours: Sequence[int], theirs: Sequence[int]) -> int | None:
    pairs = enumerate(zip_longest(ours, theirs))
    return next((place for place, (mine, other) in pairs if mine != other), None)


@dataclass(frozen=True, eq=False)
class _Found:
    """What chose a token: where the trace has it, its row, and all logits of that [vocabulary]."""

    token: int
    source: d.Source
    choice: d.Choice
    place: int
    row: Row
    logits: Tensor
    mix: Mix | None

    @property
    def position(self) -> int:
        """The position for which it was chosen."""
        return self.choice.positions[self.place]


def _explained(one: _Side, two: _Side, prompts: Sequence[Any], prompt: int, place: int) -> Parting:
    """Say why token `place` of a prompt is not the same in both runs."""
    sources = [_source(side, prompt, place) for side in (one, two)]
    for side, source in zip((one, two), sources, strict=True):
        if source is not None:
            wanted = source[0]
            side.run(prompts, lambda number, wanted=wanted: number == wanted)  # type: ignore[misc]
    sights = [_sights(side, prompt) for side in (one, two)]
    found = [
        None if source is None else _found(side, sight, prompt, place)
        for side, sight, source in zip((one, two), sights, sources, strict=True)
    ]
    tokens = [
        side.tokens[prompt][place] if place < len(side.tokens[prompt]) else None
        for side in (one, two)
    ]
    noise = _noise(one, two, sights, prompt, [each.row.mark for each in found if each is not None])
    verdict, evidence, apart = _judged(one, two, found, tokens, noise, prompt, place)
    if None not in tokens:
        pairs = zip((one, two), found, tokens, reversed(tokens), strict=True)
        evidence += tuple(
            said
            for side, each, own, other in pairs
            if each is not None and own is not None and other is not None
            for said in _sampled(side, each, prompt, own, other)
        )
    choosers = [
        _chooser(side, each, token, other)
        for side, each, token, other in zip(
            (one, two), found, tokens, reversed(tokens), strict=True
        )
    ]
    before = tuple(one.tokens[prompt][max(0, place - CONTEXT) : place])
    return Parting(prompt, place, before, choosers[0], choosers[1], verdict, evidence, apart, noise)


def _source(side: _Side, prompt: int, place: int) -> d.Source | None:
    """Return the choice that made a token of a run."""
    assert side.trace is not None
    count = 0
    for _, part in side.trace.parts_of(prompt):
        if place < count + len(part.tokens):
            return part.chosen[place - count]
        count += len(part.tokens)
    return None


def _sights(side: _Side, prompt: int) -> Sights:
    sights, own = Sights(), side.ids()[prompt]
    for step in side.steps:
        for part in step.parts:
            if part.id == own:
                sights.add(step, part)
    return sights


def _found(side: _Side, sights: Sights, prompt: int, place: int) -> _Found | None:
    source = _source(side, prompt, place)
    assert side.trace is not None
    if source is None or place >= len(side.tokens[prompt]):
        return None
    choice, at = side.trace.choice(prompt, source)
    chosen = _chosen(side, prompt, source)
    assert chosen.whole is not None
    step = side.steps[source[0]].record.number
    return _Found(
        token=side.tokens[prompt][place],
        source=source,
        choice=choice,
        place=at,
        row=sights.rows[step][chosen.forwards[at]][chosen.rows[at]],
        logits=chosen.whole[at // chosen.each].cpu(),
        mix=_mix(side, side.steps[source[0]], chosen),
    )


def _chosen(side: _Side, prompt: int, source: d.Source) -> Chosen:
    from nldc.runtime.trace import tracer as t

    own = side.ids()[prompt]
    step = side.steps[source[0]]
    part = next(each for each in step.parts if each.id == own)
    return [each for each in part.events if isinstance(each, t.Chosen)][source[1]]


def _mix(side: _Side, step: Traced, chosen: Chosen) -> Mix | None:
    """Return in which mix of rows tokens were chosen; None: each in its own row's logits."""
    return side.watched.known[step.strategy].mixes.get((step.method, chosen.register))


def _chooser(side: _Side, found: _Found | None, token: int | None, other: int | None) -> Chooser:
    assert side.trace is not None
    text = side.trace.pieces.get(str(token))
    if found is None:
        return Chooser(token, text, None, None, None, None, None, None, None, None)
    number, choice = found.source[0], found.choice
    step = next(each for each in side.trace.steps if each.number == number)
    node = side.trace.artifact.strategies[step.strategy].nodes.get(choice.node)
    gap = None
    if other is not None:
        gap = float(found.logits[found.token] - found.logits[other])
    return Chooser(
        token=token,
        text=text,
        step=number,
        node=choice.node,
        place=None if node is None else f"line {node.line} of {node.file}",
        forward=found.row.node,
        row=found.row.row,
        position=found.position,
        probability=choice.probability[found.place],
        gap=gap,
    )


def _sampled(side: _Side, found: _Found, prompt: int, own: int, other: int) -> Iterator[str]:
    """Say how a token was sampled that its logit does not explain: by the noise of its place.

    That is known where sampling anew in the row's logits chooses the same; else a processor, a
    temperature of the node's own or a mix had a part in it.
    """
    from nldc.runtime.step.sampling import Sampling, draw, gumbel, row_keys

    temperature = side.options.get("temperature")
    if not temperature or found.logits[own] > found.logits[other]:
        return
    names = ("temperature", "top_k", "top_p", "min_p", "seed")
    given = {name: side.options[name] for name in names if side.options.get(name) is not None}
    import torch

    sampling = Sampling(**given)
    place, key = torch.tensor([[found.position]]), torch.tensor([prompt])
    again = draw(found.logits[None, None], place, key, sampling, sampling.seed)
    if int(again) != own:
        yield f"{side.name} sampled its token: the gap is of logits without the noise of sampling"
        return
    (noise,) = gumbel(row_keys(sampling.seed, key[:, None], place), len(found.logits))[0]
    scores = found.logits.double() / temperature + noise
    yield (
        f"{side.name} sampled its token: with the noise of its place it is ahead by "
        f"{float(scores[own] - scores[other]):.4g}, in logits over the temperature"
    )


def _noise(
    one: _Side, two: _Side, sights: Sequence[Sights], prompt: int, parting: Sequence[bytes]
) -> float | None:
    """Return how far the best logits of rows lie apart that saw the same and chose the same.

    None: there are no such rows but those of the marks `parting`, in which the runs part.
    """
    marks = [_best(side, sight, prompt) for side, sight in zip((one, two), sights, strict=True)]
    apart = [
        abs(marks[0][mark][1] - marks[1][mark][1])
        for mark in (marks[0].keys() & marks[1].keys()) - set(parting)
        if marks[0][mark][0] == marks[1][mark][0]
    ]
    return max(apart, default=None)


def _best(side: _Side, sights: Sights, prompt: int) -> dict[bytes, tuple[int, float]]:
    """Return the likeliest token of each row of which one was chosen, and its logit, by marks.

    Rows of a mix are left out: its logits are not their own.
    """
    from nldc.runtime.trace import tracer as t

    found, own = {}, side.ids()[prompt]
    for step in side.steps:
        for part in step.parts:
            if part.id != own:
                continue
            rows = sights.rows[step.record.number]
            for each in part.events:
                if isinstance(each, t.Chosen) and _mix(side, step, each) is None:
                    for place, (forward, row) in enumerate(
                        zip(each.forwards, each.rows, strict=True)
                    ):
                        mark = rows[forward][row].mark
                        found[mark] = each.best[place][0], each.logits[place][0]
    return found


def _judged(
    one: _Side,
    two: _Side,
    found: Sequence[_Found | None],
    tokens: Sequence[int | None],
    noise: float | None,
    prompt: int,
    place: int,
) -> tuple[Verdict, tuple[str, ...], float | None]:
    """Return the verdict, the evidence for it, and how far logits lie apart."""
    mine, other = found
    if mine is None or other is None:
        sides = [side.name for side, each in zip((one, two), found, strict=True) if each is None]
        ends = [side.name for side, t in zip((one, two), tokens, strict=True) if t is None]
        if ends:
            return "logic", (f"{ends[0]} ends here, and the tokens before are the same",), None
        return "logic", (f"the token of {sides[0]} is the choice of no row",), None
    expected = len(one.trace.sequences[prompt].prompt or ()) + place  # type: ignore[union-attr]
    for side, each in zip((one, two), (mine, other), strict=True):
        if each.position != expected:
            said = f"{side.name} emits at position {expected} what was chosen for {each.position}"
            return "logic", (said,), None
    if mine.row.mark != other.row.mark:
        return "logic", tuple(_seen_otherwise(one, two, mine.row, other.row)), None
    weights = [each.mix and each.mix.weights for each in (mine, other)]
    if weights[0] != weights[1]:
        return "logic", tuple(_mixed_otherwise(one, two, mine.mix, other.mix)), None
    apart = float((mine.logits - other.logits).abs().max())
    same = "the two rows saw the same tokens at the same positions"
    if apart == 0:
        return "logic", (same, "their logits are the same; the choice is another"), apart
    units = [_unit(side, each, tokens) for side, each in zip((one, two), found, strict=True)]
    greedy = not any(side.options.get("temperature") for side in (one, two))
    for side, each, unit in zip((one, two), (mine, other), units if greedy else (), strict=greedy):
        gap = abs(float(each.logits[mine.token] - each.logits[other.token]))
        if gap < unit:
            said = f"in {side.name} their logits lie {gap:.3g} apart, and one unit in the last "
            dtype = side.watched.model.dtype
            return "tie", (same, said + f"place of {dtype} is {unit:.3g} there"), apart
    most = max(float(each.logits.abs().max()) for each in (mine, other))
    least, largest = (
        UNITS * most * max(precision(side) for side in (one, two))
        for precision in (_precision, _coarsest)
    )
    allowed = min(max(TIMES * (noise or 0.0), least), largest)
    told = f"their logits lie up to {apart:.3g} apart"
    before = (
        "no row before saw the same in both"
        if noise is None
        else f"those of rows before that saw the same up to {noise:.3g}"
    )
    if apart <= allowed:
        return "arithmetic", (same, told, before), apart
    said = f"{before}: rounding does not explain it (up to {allowed:.3g} would be)"
    return "logic", (same, told, said), apart


def _precision(side: _Side) -> float:
    """Return how far apart the numbers of the side's dtype lie, from 1 on."""
    import torch

    return float(torch.finfo(getattr(torch, side.watched.model.dtype)).eps)


def _coarsest(side: _Side) -> float:
    """Return the precision of the coarsest arithmetic that the side's dtype may be computed in."""
    kind = side.watched.model.device.partition(":")[0]
    return max(_precision(side), COARSEST.get(kind, COARSEST["other"]))


def _unit(side: _Side, found: _Found | None, tokens: Sequence[int | None]) -> float:
    """Return one unit in the last place of the larger of the two tokens' logits."""
    assert found is not None
    most = max(abs(float(found.logits[token])) for token in tokens if token is not None)
    return _precision(side) * 2.0 ** math.floor(math.log2(most)) if most else 0.0


def _mixed_otherwise(one: _Side, two: _Side, mine: Mix | None, other: Mix | None) -> Iterator[str]:
    """Say that tokens were chosen in logits that are not mixed alike."""
    yield "the two rows saw the same tokens at the same positions, and are not mixed alike:"
    for side, mix in ((one, mine), (two, other)):
        if mix is None:
            yield f"  {side.name} chooses in the row's own logits"
        else:
            yield f"  {side.name} mixes them with those of other rows, in {mix.node}: {mix.weights}"


def _seen_otherwise(one: _Side, two: _Side, mine: Row, other: Row) -> list[str]:
    """Say what one of two rows saw that the other did not, or saw otherwise."""
    ours, theirs, depth = difference(mine, other)
    lines = ["the two rows did not see the same"]
    which = ("the tokens were chosen in unlike rows", "they saw", "what they saw had itself seen")
    lines.append(f"{which[min(depth, 2)]}:")
    for side, row in ((one, ours), (two, theirs)):
        if row is None:
            lines.append(f"  {side.name}: nothing there")
        else:
            place = f"row {row.row} of {row.node} in step {side.place(row.step)}"
            more = "" if row.adapter is None else f", with the adapter {row.adapter}"
            lines.append(
                f"  {side.name}: token {row.token} at position {row.position}, {place}{more}"
            )
    if ours is not None and theirs is not None and (ours.token, ours.position) == (
        theirs.token, theirs.position
    ):  # fmt: skip
        lines.append("  one of them saw rows of its own forward that lie ahead")
    return lines
