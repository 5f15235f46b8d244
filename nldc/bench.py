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
from nldc.acceptance import longest_draft, profile_of, write_profile
from nldc.prompts import choose_prompts
from nldc.verify import (
    load_baseline,
    model_folder,
    on_same_weights,
    vocabulary_without_tokenizer,
)

if TYPE_CHECKING:
    from nldc.runtime.decoder import Result


@dataclass(frozen=True)
class Measured:
    """One strategy's run over all prompts; times are medians over the repeats, in seconds.

    `same` says whether the tokens were AR's, `agreement` what share of AR's tokens stand at their
    place; `accepted` is the mean number of tokens a cycle; `adapters` are those that were loaded.
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
    write_acceptance: str | Path | None = None,
    prompts: str | Path | None = None,
    count: int = 8,
    repeats: int = 3,
    loading: Mapping[str, Any] | None = None,
    generation: Mapping[str, Any] | None = None,
    clock: Callable[[], float] | None = None,
) -> list[Measured]:
    """Compile each strategy and time it on the same prompts; AR comes first, as the measure.

    Each strategy runs once to warm up and then `repeats` times. Settings go to the strategies that
    have such a param; params that follow a checkpoint are as this one has them.
    `write_acceptance` is the file to which the acceptance profile of the last strategy goes.

    Raises:
        StrategyError: a strategy has mistakes, or a profile of it would tell nothing.
        NldcRuntimeError: the checkpoint, a prompt or an option cannot be used.
    """
    import time

    now = clock or time.perf_counter
    folder = model_folder(model)
    chosen_settings = {
        file: api.follow(file, _own(file, settings), folder) for file in ("ar", *strategies)
    }
    checked = {file: api.check(file, own, others=False) for file, own in chosen_settings.items()}
    longest = 0
    if write_acceptance is not None:
        longest = longest_draft([*checked.values()][-1].graph)
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
            if write_acceptance is not None and file == [*checked][-1]:
                accepted = [stats.accepted for stats in warm.stats]
                profile = profile_of(accepted, longest)
                write_profile(write_acceptance, profile, strategy.graph.name)
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
                )
            )
    return results


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
