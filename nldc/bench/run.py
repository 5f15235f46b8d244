"""How fast strategies decode on this machine, and what a forward of each brings.

A number is reported only beside the answer to whether the tokens are those of AR.
"""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from nldc import __version__, api
from nldc.acceptance import has_drafts, verifies
from nldc.acceptance import write_acceptance as write_profile
from nldc.bench.figures import Answer, Steps, answers_of, figures_of, prompt_forwards
from nldc.bench.grid import Grid, cases
from nldc.bench.measured import InCategory, Measured, agreement, named
from nldc.bench.prompts import Asked, asked_of
from nldc.observed import Observed, observe
from nldc.runtime.errors import ProfileError, PromptError
from nldc.verify import (
    load_baseline,
    model_folder,
    on_same_weights,
    own_params,
    vocabulary_without_tokenizer,
)

if TYPE_CHECKING:
    from nldc.api import Checked
    from nldc.cost.device import Device
    from nldc.ir.graph import Graph
    from nldc.runtime.decoder import Decoder
    from nldc.runtime.engine.stats import Stats

Watch = Callable[[int, int, str], None]
"""Is told how many runs are done, of how many, and which is next."""


def bench(
    strategies: Sequence[str],
    model: str | Path | None = None,
    *,
    settings: api.Settings | None = None,
    grid: Grid | None = None,
    prompts: str | Path | None = None,
    count: int = 8,
    warm_up: int = 1,
    repeats: int = 3,
    loading: Mapping[str, Any] | None = None,
    generation: Mapping[str, Any] | None = None,
    clock: Callable[[], float] | None = None,
    write_acceptance: str | Path | None = None,
    device: str | Path | None = None,
    longer_than: Sequence[int] = (),
    steps: bool = False,
    watch: Watch | None = None,
) -> list[Measured]:
    """Compile each strategy and time it on the same prompts; AR comes first, as the measure.

    Each strategy runs `warm_up` times, of which the first says what it emits, and then `repeats`
    times; with 0 repeats, where only tokens and forwards are wanted, the first is the one that was
    timed. Settings go to the strategies that have such a param; with a `grid`, values by param, a
    strategy runs with every combination of those that it has. Params that follow a checkpoint are
    as this one has them. A file of prompts may have categories: each is then decoded by itself, and
    the whole takes as long as all of them. Into the file `write_acceptance` goes what the one
    strategy accepted; with `device`, the name or the file of one, a step is predicted for it; with
    `steps`, steps are told of. Any of these takes one more run. Tokens a forward are told also of
    answers of more tokens than each of `longer_than`.

    Raises:
        StrategyError: a strategy has mistakes.
        ProfileError: there is no such device, not one strategy to write a profile of, its profile
            would tell nothing or cannot be written, or the grid is too large.
        NldcRuntimeError: the checkpoint, a prompt or an option cannot be used.
    """
    import time

    if write_acceptance is not None and len(strategies) != 1:
        hint = "measure each with a file of its own"
        raise ProfileError(f"a profile is that of one strategy, not of {len(strategies)}", hint)
    figures = None if device is None else _device(device)
    folder, given = model_folder(model), dict(generation or {})
    planned = cases(strategies, settings, grid, folder)
    if write_acceptance is not None and len(planned) > 2:
        message = f"a profile is that of one run, not of {len(planned) - 1}"
        raise ProfileError(message, "give --set in place of --grid")
    checked = [api.check(case.file, case.settings, others=False) for case in planned]
    check_brought(given.get("params"), [each.graph for each in checked])
    most_drafted = 0 if write_acceptance is None else _most_drafted(checked[-1].graph)
    looks = figures is not None or steps
    observed = len(planned) if looks else int(write_acceptance is not None)
    results: list[Measured] = []
    truth: list[list[int]] = []
    with tempfile.TemporaryDirectory() as scratch:
        artifacts = [
            api.write([each], Path(scratch) / str(number), certify=False)
            for number, each in enumerate(checked)
        ]
        declared = [each.name for own in checked for each in own.graph.adapters]
        loaded, adapter = load_baseline(artifacts[0], model, loading or {}, declared)
        vocabulary = vocabulary_without_tokenizer(loaded, folder)
        asked = asked_of(prompts, count, folder, vocabulary, loaded, own_params(loaded, given))
        told = _Told(watch, len(planned) * (warm_up + repeats) + observed)
        for number, (case, strategy) in enumerate(zip(planned, checked, strict=True)):
            decoder = on_same_weights(artifacts[number], loaded, adapter)
            options = own_params(decoder, given)
            runs = _Runs(decoder, asked, options, clock or time.perf_counter)
            name = named(strategy.graph.name, case.chosen)
            warm, timed = runs.warm_and_timed(warm_up, repeats, told, name)
            truth = truth or warm.tokens
            line = replace(
                _measured(strategy, warm, timed, truth, asked),
                settings=case.chosen,
                adapters=tuple(decoder.model.parts),
                longer=tuple((least, _tpf_beyond(warm.stats, least)) for least in longer_than),
            )
            to = write_acceptance if number == len(planned) - 1 else None
            if looks or to is not None:
                told.of(f"{name}: its steps")
                most = 0 if to is None else most_drafted
                seen = observe(decoder, asked.prompts, options, _loops(strategy), most)
                if to is not None and seen is not None:
                    _write_profile(strategy, seen, to)
                line = _with_steps(line, strategy, decoder, seen, figures, folder)
            results.append(line)
    return results


class _Told:
    """Counts runs, and tells of each as it begins."""

    def __init__(self, watch: Watch | None, total: int) -> None:
        self._watch, self._total, self._begun = watch, total, 0

    def of(self, text: str) -> None:
        if self._watch is not None:
            self._watch(self._begun, self._total, text)
        self._begun += 1


@dataclass(frozen=True)
class _Run:
    """One run over all prompts: their tokens, what each cost, and the seconds of each group.

    `answers` are what steps came to, where that was listened to.
    """

    tokens: list[list[int]]
    stats: list[Stats]
    seconds: tuple[float, ...]
    answers: list[Answer]


class _Runs:
    """Decodes the prompts, group by group, as often as asked."""

    def __init__(
        self, decoder: Decoder, asked: Asked, options: dict[str, Any], clock: Callable[[], float]
    ) -> None:
        self._decoder, self._asked, self._options, self._now = decoder, asked, options, clock

    def warm_and_timed(
        self, warm_up: int, repeats: int, told: _Told, name: str
    ) -> tuple[_Run, list[_Run]]:
        """Return the first run, whose steps were listened to, and those behind the warm-up."""
        told.of(f"{name}: warm-up")
        warm = self._run(listening=True)
        for again in range(2, warm_up + 1):
            told.of(f"{name}: warm-up {again}")
            self._run(listening=False)
        timed = []
        for number in range(1, repeats + 1):
            told.of(f"{name}: run {number} of {repeats}")
            timed.append(self._run(listening=False))
        return warm, timed or [warm]

    def _run(self, *, listening: bool) -> _Run:
        prompts = self._asked.prompts
        tokens: list[list[int]] = [[] for _ in prompts]
        stats: dict[int, Stats] = {}
        answers: dict[int, Answer] = {}
        seconds = []
        for _, places in self._asked.groups:
            steps = Steps() if listening else None
            chosen = [prompts[place] for place in places]
            begun = self._now()
            result = self._decoder.generate(
                chosen, sequence_ids=list(places), on_step=steps, **self._options
            )
            seconds.append(self._now() - begun)
            for place, own, cost in zip(places, result.tokens, result.stats, strict=True):
                tokens[place], stats[place] = own, cost
            if steps is not None:
                found = answers_of(steps.records, list(map(len, result.tokens)))
                answers |= dict(zip(places, found, strict=True))
        ordered = [stats[place] for place in range(len(prompts))]
        return _Run(tokens, ordered, tuple(seconds), [answers[place] for place in sorted(answers)])


def _measured(
    checked: Checked, warm: _Run, timed: Sequence[_Run], truth: list[list[int]], asked: Asked
) -> Measured:
    """Return what runs came to, beside AR's tokens."""
    times = tuple(sum(run.seconds) for run in timed)
    graph = checked.graph
    forwards, drafts = prompt_forwards(graph), verifies(graph)

    def in_category(number: int, name: str, places: Sequence[int]) -> InCategory:
        expected = [truth[place] for place in places]
        found = [warm.tokens[place] for place in places]
        return InCategory(
            category=name,
            figures=figures_of((warm.answers[p] for p in places), forwards, verifies=drafts),
            same=found == expected,
            agreement=agreement(expected, found),
            times=tuple(run.seconds[number] for run in timed),
        )

    return Measured(
        strategy=graph.name,
        guarantee=checked.guarantee,
        same=warm.tokens == truth,
        agreement=agreement(truth, warm.tokens),
        tokens=sum(map(len, warm.tokens)),
        nfe=sum(stats.nfe for stats in warm.stats),
        accepted=_mean_accepted(warm.stats),
        seconds=median(times),
        time_to_first_token=median(
            median(stats.time_to_first_token for stats in run.stats) for run in timed
        ),
        times=times,
        figures=figures_of(warm.answers, forwards, verifies=drafts),
        categories=tuple(
            in_category(number, name, places)
            for number, (name, places) in enumerate(asked.groups)
            if name is not None
        ),
    )


def _device(name: str | Path) -> Device:
    from nldc.cost.device import load_device

    return load_device(name)


def _most_drafted(graph: Graph) -> int:
    """Return how many tokens a step emits at most if it verifies drafts, and else 0.

    Raises:
        ProfileError: its drafts tell nothing of whole ones.
    """
    from nldc.cost.step import most_emitted

    return most_emitted(graph) if has_drafts(graph) else 0


def _loops(checked: Checked) -> dict[str, str]:
    from nldc.cost.step import loops

    return loops(checked.graph)


def _write_profile(checked: Checked, seen: Observed, path: str | Path) -> None:
    from nldc.cost.step import most_emitted

    graph = checked.graph
    write_profile(seen.acceptance(graph.name, graph.params, most_emitted(graph)), path)


def _with_steps(
    line: Measured,
    checked: Checked,
    decoder: Decoder,
    seen: Observed | None,
    device: Device | None,
    folder: Path,
) -> Measured:
    """Return what was measured with what its steps were, and what a device is predicted to take."""
    from nldc.cost.beside import cost_of_observed, rows_of_observed

    if seen is None:
        return line
    rows, forwards = rows_of_observed(checked.graph, seen)
    line = replace(line, observed=seen, rows=rows, forwards=forwards)
    if device is None:
        return line
    dtype = str(decoder.model.backbone.dtype).removeprefix("torch.")
    cost = cost_of_observed(checked.graph, seen, device, folder, dtype)
    return replace(line, floor=cost.floor, predicted=cost.predicted)


def check_brought(given: Mapping[str, Any] | None, graphs: Sequence[Graph]) -> None:
    """Raise PromptError where a request would bring a param that none of the strategies has."""
    known = dict.fromkeys(name for graph in graphs for name in graph.runtime)
    for name in given or {}:
        if name not in known:
            hint = f"the params are {', '.join(known)}" if known else "none has `runtime: true`"
            raise PromptError(f"no strategy here leaves a param {name} to requests", hint)


def _mean_accepted(stats: Sequence[Stats]) -> float:
    cycles = [count for each in stats for count in each.accepted]
    return sum(cycles) / len(cycles) if cycles else 0.0


def _tpf_beyond(stats: Sequence[Stats], length: int) -> float:
    """Return the tokens a forward of the answers that have more than so many tokens."""
    found = [each for each in stats if each.tokens > length]
    forwards = sum(each.nfe for each in found)
    return sum(each.tokens for each in found) / forwards if forwards else 0.0


def environment() -> dict[str, str]:
    """Return what the numbers depend on: hardware and versions."""
    import torch

    device = platform.processor() or platform.machine()
    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
    return {
        "nldc": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "device": device,
        "threads": str(torch.get_num_threads()),
    }
