"""What was measured of one strategy: its tokens, forwards and seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from nldc.bench.figures import Figures
from nldc.observed import Observed


@dataclass(frozen=True)
class InCategory:
    """One category of a prompt file, decoded by itself: as `Measured`, of its prompts alone."""

    category: str
    figures: Figures
    same: bool
    agreement: float
    times: tuple[float, ...]

    @property
    def tokens_per_second(self) -> float:
        """Tokens per second, the median over the repeats."""
        return _rate(self.figures.tokens, median(self.times))


@dataclass(frozen=True)
class Measured:
    """One strategy's run over all prompts; times are medians over the repeats, in seconds.

    `same` says whether the tokens were AR's, `agreement` what share of AR's tokens stand at their
    place; `accepted` is the mean number of tokens a cycle; `adapters` are those that were loaded.
    `longer` has for lengths the tokens a forward of the answers that are longer, 0 if none is.
    `observed` is what its steps were, `floor` and `predicted` the seconds of one on a device, where
    that was asked for; `rows` are those of one of its forwards, all sequences together, and
    `forwards` how many a step takes. `settings` are what the grid chose, `times` the repeats'
    seconds, `figures` what its steps came to, `categories` the same for each category.
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
    longer: tuple[tuple[int, float], ...] = ()
    settings: Mapping[str, int | float] = field(default_factory=dict)
    times: tuple[float, ...] = ()
    figures: Figures = field(default_factory=Figures)
    categories: tuple[InCategory, ...] = ()
    rows: float | None = None
    forwards: float | None = None

    @property
    def tpf(self) -> float:
        """Tokens per forward, as the strategy counts forwards."""
        return self.tokens / self.nfe if self.nfe else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Tokens per second, all prompts together."""
        return _rate(self.tokens, self.seconds)

    @property
    def slowest_and_fastest(self) -> tuple[float, float]:
        """Tokens per second of the slowest and of the fastest repeat."""
        times = self.times or (self.seconds,)
        return _rate(self.tokens, max(times)), _rate(self.tokens, min(times))

    @property
    def name(self) -> str:
        """The strategy with what the grid chose, as in `linear_ss block_length=8`."""
        return named(self.strategy, self.settings)


def named(strategy: str, settings: Mapping[str, int | float]) -> str:
    """Return what a run is called: its strategy, and what the grid chose."""
    return " ".join([strategy, *(f"{name}={value}" for name, value in settings.items())])


def _rate(tokens: int, seconds: float) -> float:
    return tokens / seconds if seconds else 0.0


def agreement(expected: Sequence[Sequence[int]], found: Sequence[Sequence[int]]) -> float:
    """Return the share of the expected tokens that were found at the same place."""
    equal = sum(
        a == b
        for one, other in zip(expected, found, strict=True)
        for a, b in zip(one, other, strict=False)
    )
    total = sum(map(len, expected))
    return equal / total if total else 1.0
