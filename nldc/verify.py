"""The same prompts through AR and through an artifact: do they give the same tokens?

This is a trial, not a proof: `nldc check` proves the guarantee for every input, `nldc verify` shows
it for some inputs on this machine, in this arithmetic. Of an artifact with several strategies each
exact one is tried, and then all of them, taking turns at every step.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nldc import api
from nldc.prompts import choose_prompts

if TYPE_CHECKING:
    from nldc.runtime.decoder import Decoder, Result

CONTEXT = 8
"""How many tokens before a difference are shown."""


@dataclass(frozen=True)
class Difference:
    """The first place where the two disagree: token `place` of prompt `prompt`, both from 0.

    `expected` is AR's token and `found` the artifact's; None is the end. `before` are the tokens
    that lead there, the same in both.
    """

    prompt: int
    place: int
    before: tuple[int, ...]
    expected: int | None
    found: int | None


@dataclass(frozen=True)
class Verified:
    """What a trial found. `nfe` are forwards of AR and of the artifact, over all prompts."""

    strategy: str
    prompts: int
    tokens: int
    nfe: tuple[int, int]
    differences: tuple[Difference, ...]

    @property
    def same(self) -> bool:
        """Whether every token was the same."""
        return not self.differences


@dataclass(frozen=True)
class Pair:
    """A decoder and AR on the same weights."""

    decoder: Decoder
    baseline: Decoder


def model_folder(model: str | Path | None) -> Path:
    """Return the checkpoint's folder; None is the demo model that comes with the package."""
    return Path(str(files("nldc"))) / "demo" if model is None else Path(model)


def load_decoder(artifact: str | Path, model: str | Path | None, **options: Any) -> Decoder:
    """Return the artifact's decoder with the checkpoint's weights.

    `options` are those of `Decoder.from_checkpoint`.
    """
    return api.load(artifact).from_checkpoint(model, **options)


def named_strategy(decoder: Decoder, text: str | None) -> dict[str, Any]:
    """Return the option of `Decoder.generate` that a `--strategy` stands for.

    Raises:
        PromptError: the text is no strategy of the decoder, and no schedule of some.
    """
    from nldc.runtime.engine.handover import schedule

    return {} if text is None else {"strategy": schedule(text, tuple(decoder.strategies()))}


def on_same_weights(artifact: str | Path, decoder: Decoder, adapter: Any = "auto") -> Decoder:
    """Return another artifact's decoder that shares a loaded decoder's weights.

    `adapter` is that of `Decoder.from_checkpoint`, for those that declare one.
    """
    return api.load(artifact).beside(decoder, adapter)


def compile_baseline(folder: Path) -> Path:
    """Compile AR of the library into a folder, and return it."""
    return api.compile("ar", folder, certify=False)


def load_baseline(
    compiled: Path, model: str | Path | None, loading: Mapping[str, Any], declared: Sequence[str]
) -> tuple[Decoder, Any]:
    """Return AR with the checkpoint's weights, and the adapter that was asked for.

    `compiled` is AR's artifact, see `compile_baseline`; `declared` are the adapters of all
    strategies that are to share the weights.

    Raises:
        AdapterError: an adapter is given that none of them declares.
    """
    from nldc.runtime.errors import AdapterError

    options = dict(loading)
    adapter = options.pop("adapter", "auto")
    if declared and isinstance(adapter, Mapping):
        for name in adapter:
            if name not in declared:
                known = ", ".join(f"`{each}`" for each in dict.fromkeys(declared))
                message = f"none of the strategies declares an adapter `{name}`"
                raise AdapterError(message, f"they declare {known}")
    return load_decoder(compiled, model, adapter=None if declared else adapter, **options), adapter


def load_pair(artifact: str | Path, model: str | Path | None, **options: Any) -> Pair:
    """Load an artifact and, on the same weights, AR from the library."""
    decoder = load_decoder(artifact, model, **options)
    with tempfile.TemporaryDirectory() as scratch:
        compiled = compile_baseline(Path(scratch) / "ar")
        return Pair(decoder, on_same_weights(compiled, decoder))


@dataclass(frozen=True)
class Trial:
    """One way to run a decoder: what it is called, and the options of `Decoder.generate`."""

    name: str
    options: Mapping[str, Any]


def trials(artifact: str | Path, decoder: Decoder, strategy: str | None) -> tuple[Trial, ...]:
    """Return how an artifact is tried: as it is, by the strategy named, or by every exact one.

    Raises:
        PromptError: `strategy` is none of the artifact's, and no schedule of some.
    """
    from nldc.runtime.artifact import check_artifact
    from nldc.runtime.engine.handover import in_turn
    from nldc.runtime.switching import SwitchingDecoder

    if strategy is not None:
        return (Trial(strategy, named_strategy(decoder, strategy)),)
    if not isinstance(decoder, SwitchingDecoder):
        return (Trial(decoder.STRATEGY, {}),)
    parts: Mapping[str, Any] = check_artifact(artifact)["strategies"]
    exact = [name for name, part in parts.items() if part["guarantee"]["proved"] == "exact"]
    found = [Trial(name, {"strategy": name}) for name in exact or [next(iter(parts))]]
    if len(exact) > 1:
        turns = in_turn(decoder.HANDOVERS, exact)
        found.append(Trial(f"{', '.join(exact)} in turn", {"strategy": turns}))
    return tuple(found)


def own_params(decoder: Decoder, generation: Mapping[str, Any]) -> dict[str, Any]:
    """Return options in which are the params alone that a decoder's strategies leave to requests.

    Others are for the strategies beside it.
    """
    given = generation.get("params")
    if given is None:
        return dict(generation)
    names = {param.name for param in decoder.runtime_params()}
    return {**generation, "params": {name: given[name] for name in given if name in names}}


def vocabulary_without_tokenizer(decoder: Decoder, folder: Path) -> int | None:
    """Return the size of the vocabulary if the checkpoint has no tokenizer, else None."""
    from nldc.runtime.text.tokenizer import Tokenizer

    return None if Tokenizer.exists(folder) else decoder.config.vocab_size


def verify(
    artifact: str | Path,
    model: str | Path | None = None,
    *,
    prompts: str | Path | None = None,
    count: int = 8,
    loading: Mapping[str, Any] | None = None,
    generation: Mapping[str, Any] | None = None,
    strategy: str | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> tuple[tuple[Verified, ...], Pair]:
    """Decode the same prompts by AR and by the artifact and compare every token.

    `strategy` names one of an artifact's several; without it all exact ones are tried, see
    `trials`. `loading` goes to `Decoder.from_checkpoint`, `generation` to `Decoder.generate`.
    `progress` is told how many tokens of how many at most are there, of AR's and all trials'.

    Raises:
        NldcRuntimeError: the artifact, the checkpoint, a prompt or an option cannot be used.
    """
    pair = load_pair(artifact, model, **(loading or {}))
    folder = model_folder(model)
    chosen = choose_prompts(
        prompts,
        count,
        folder,
        vocabulary_without_tokenizer(pair.decoder, folder),
        chat=bool((generation or {}).get("chat")),
    )
    tried = trials(artifact, pair.decoder, strategy)

    def share(number: int) -> Callable[[int, int], object] | None:
        if progress is None:
            return None
        return lambda done, most: progress(number * most + done, (len(tried) + 1) * most)

    own = own_params(pair.baseline, generation or {})
    expected = pair.baseline.generate(chosen, progress=share(0), **own)
    found = tuple(
        compare(
            trial.name,
            expected,
            pair.decoder.generate(
                chosen, progress=share(number), **{**(generation or {}), **trial.options}
            ),
        )
        for number, trial in enumerate(tried, 1)
    )
    return found, pair


def compare(name: str, expected: Result, found: Result) -> Verified:
    """Compare every token of what AR gave and what a strategy gave for the same prompts."""
    return Verified(
        strategy=name,
        prompts=len(expected.tokens),
        tokens=sum(map(len, expected.tokens)),
        nfe=(_forwards(expected), _forwards(found)),
        differences=tuple(
            difference
            for number, (ours, theirs) in enumerate(zip(expected.tokens, found.tokens, strict=True))
            if (difference := first_difference(number, ours, theirs)) is not None
        ),
    )


def first_difference(
    prompt: int, expected: Sequence[int], found: Sequence[int]
) -> Difference | None:
    """Return the first place where two token lists differ, or None."""
    for place, (ours, theirs) in enumerate(zip_longest(expected, found)):
        if ours != theirs:
            before = tuple(expected[max(0, place - CONTEXT) : place])
            return Difference(prompt, place, before, ours, theirs)
    return None


def _forwards(result: Result) -> int:
    return sum(stats.nfe for stats in result.stats)
