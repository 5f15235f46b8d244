"""How fast strategies decode on this machine, and what a forward of each brings.

A number is reported only beside the answer to whether the tokens are those of AR.
"""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from nldc import __version__, api
from nldc.acceptance import has_drafts
from nldc.acceptance import write_acceptance as write_profile
from nldc.observed import Observed, observe
from nldc.prompts import Prompt, choose_prompts
from nldc.runtime.errors import ProfileError
from nldc.verify import (
    load_baseline,
    model_folder,
    on_same_weights,
    vocabulary_without_tokenizer,
)

if TYPE_CHECKING:
    from nldc.api import Checked
    from nldc.cost.device import Device
    from nldc.ir.graph import Graph
    from nldc.runtime.decoder import Decoder, Result


@dataclass(frozen=True)
class Measured:
    """One strategy's run over all prompts; times are medians over the repeats, in seconds.

    `same` says whether the tokens were AR's, `agreement` what share of AR's tokens stand at their
    place; `accepted` is the mean number of tokens a cycle; `adapters` are those that were loaded.
    `observed` is what its steps were, `floor` and `predicted` the seconds of one on a device, where
    that was asked for.
    """

    strategy: str
    guarantee: str
    same: bool
    agreement: float
    tokens: int
    nfe: int
    accepted: float
    seconds: float
    time_to_first_token: float
    adapters: tuple[str, ...] = ()
    observed: Observed | None = None
    floor: float | None = None
    predicted: float | None = None

    @property
    def tpf(self) -> float:
        """Tokens per forward."""
        return self.tokens / self.nfe if self.nfe else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Tokens per second, all prompts together."""
        return self.tokens / self.seconds if self.seconds else 0.0


def bench(
    strategies: Sequence[str],
    model: str | Path | None = None,
    *,
    settings: api.Settings | None = None,
    prompts: str | Path | None = None,
    count: int = 8,
    repeats: int = 3,
    loading: Mapping[str, Any] | None = None,
    generation: Mapping[str, Any] | None = None,
    clock: Callable[[], float] | None = None,
    write_acceptance: str | Path | None = None,
    device: str | Path | None = None,
) -> list[Measured]:
    """Compile each strategy and time it on the same prompts; AR comes first, as the measure.

    Each strategy runs once to warm up and then `repeats` times. Settings go to the strategies that
    have such a param; params that follow a checkpoint are as this one has them. Into the file
    `write_acceptance` goes what the one strategy accepted; with `device`, the name or the file of
    one, a step is predicted for it. Either takes one more run.

    Raises:
        StrategyError: a strategy has mistakes.
        ProfileError: there is no such device, not one strategy to write a profile of, or its
            profile would tell nothing or cannot be written.
        NldcRuntimeError: the checkpoint, a prompt or an option cannot be used.
    """
    import time

    if write_acceptance is not None and len(strategies) != 1:
        hint = "measure each with a file of its own"
        raise ProfileError(f"a profile is that of one strategy, not of {len(strategies)}", hint)
    figures = None if device is None else _device(device)
    now = clock or time.perf_counter
    folder = model_folder(model)
    chosen_settings = {
        file: api.follow(file, _own(file, settings), folder) for file in ("ar", *strategies)
    }
    checked = {file: api.check(file, own, others=False) for file, own in chosen_settings.items()}
    most_drafted = 0 if write_acceptance is None else _most_drafted(checked[strategies[0]].graph)
    results: list[Measured] = []
    truth: list[list[int]] = []
    with tempfile.TemporaryDirectory() as scratch:
        artifacts = {
            file: api.write([each], Path(scratch) / str(number), certify=False)
            for number, (file, each) in enumerate(checked.items())
        }
        declared = [each.name for own in checked.values() for each in own.graph.adapters]
        loaded, adapter = load_baseline(artifacts["ar"], model, loading or {}, declared)
        chosen = choose_prompts(
            prompts,
            count,
            folder,
            vocabulary_without_tokenizer(loaded, folder),
            chat=bool((generation or {}).get("chat")),
        )
        for file, strategy in checked.items():
            decoder = on_same_weights(artifacts[file], loaded, adapter)
            warm = decoder.generate(chosen, **(generation or {}))
            truth = truth or warm.tokens
            times, waits = [], []
            for _ in range(repeats):
                begun = now()
                result = decoder.generate(chosen, **(generation or {}))
                times.append(now() - begun)
                waits.append(median(s.time_to_first_token for s in result.stats))
            seen = None
            to = write_acceptance if file in strategies else None
            if to is not None or figures is not None:
                most = most_drafted if file in strategies else 0
                seen = _observed(decoder, strategy, chosen, generation or {}, most)
            if to is not None and seen is not None:
                _write_profile(strategy, seen, to)
            floor, predicted = _predicted(decoder, strategy, seen, figures, folder)
            results.append(
                Measured(
                    strategy=strategy.graph.name,
                    guarantee=strategy.guarantee,
                    same=warm.tokens == truth,
                    agreement=agreement(truth, warm.tokens),
                    tokens=sum(map(len, warm.tokens)),
                    nfe=sum(stats.nfe for stats in warm.stats),
                    accepted=_mean_accepted(warm),
                    seconds=median(times),
                    time_to_first_token=median(waits),
                    adapters=tuple(decoder.model.adapters),
                    observed=seen,
                    floor=floor,
                    predicted=predicted,
                )
            )
    return results


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


def _observed(
    decoder: Decoder,
    checked: Checked,
    prompts: Sequence[Prompt],
    generation: Mapping[str, Any],
    most_drafted: int,
) -> Observed | None:
    from nldc.cost.step import loops

    return observe(decoder, prompts, generation, loops(checked.graph), most_drafted)


def _write_profile(checked: Checked, seen: Observed, path: str | Path) -> None:
    from nldc.cost.step import most_emitted

    graph = checked.graph
    write_profile(seen.acceptance(graph.name, graph.params, most_emitted(graph)), path)


def _predicted(
    decoder: Decoder, checked: Checked, seen: Observed | None, device: Device | None, folder: Path
) -> tuple[float | None, float | None]:
    """Return the seconds of a step's floor and of its prediction, where one was asked for."""
    from nldc.cost.beside import cost_of_observed

    if seen is None or device is None:
        return None, None
    dtype = str(decoder.model.backbone.dtype).removeprefix("torch.")
    cost = cost_of_observed(checked.graph, seen, device, folder, dtype)
    return cost.floor, cost.predicted


def _own(file: str, settings: api.Settings | None) -> api.Settings:
    params = api.params_of(file) if settings else frozenset()
    return {name: value for name, value in (settings or {}).items() if name in params}


def agreement(expected: Sequence[Sequence[int]], found: Sequence[Sequence[int]]) -> float:
    """Return the share of the expected tokens that were found at the same place."""
    equal = sum(
        a == b
        for one, other in zip(expected, found, strict=True)
        for a, b in zip(one, other, strict=False)
    )
    total = sum(map(len, expected))
    return equal / total if total else 1.0


def _mean_accepted(result: Result) -> float:
    cycles = [count for stats in result.stats for count in stats.accepted]
    return sum(cycles) / len(cycles) if cycles else 0.0


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
