"""The same prompts through AR and through an artifact: do they give the same tokens?

This is a trial, not a proof: `nldc check` proves the guarantee for every input, `nldc verify` shows
it for some inputs on this machine, in this arithmetic.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nldc import api
from nldc.prompts import Prompt, choose_prompts

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


def on_same_weights(artifact: str | Path, decoder: Decoder, folder: Path) -> Decoder:
    """Return another artifact's decoder that shares a loaded decoder's weights and adapter."""
    kind = api.load(artifact)
    loaded = next(iter(decoder.model.adapters.values()), None)
    adapters = {} if loaded is None else dict.fromkeys(kind.ADAPTERS, loaded)
    return kind(decoder.model.backbone, adapters=adapters, backend=decoder.backend, folder=folder)


def load_pair(artifact: str | Path, model: str | Path | None, **options: Any) -> Pair:
    """Load an artifact and, on the same weights, AR from the library."""
    folder = model_folder(model)
    decoder = load_decoder(artifact, model, **options)
    with tempfile.TemporaryDirectory() as scratch:
        compiled = api.compile("ar", Path(scratch) / "ar")
        return Pair(decoder, on_same_weights(compiled, decoder, folder))


def vocabulary_without_tokenizer(decoder: Decoder, folder: Path) -> int | None:
    """Return the size of the vocabulary if the checkpoint has no tokenizer, else None."""
    from nldc.runtime.tokenizer import Tokenizer

    return None if Tokenizer.exists(folder) else decoder.config.vocab_size


def verify(
    artifact: str | Path,
    model: str | Path | None = None,
    *,
    prompts: str | Path | None = None,
    count: int = 8,
    loading: Mapping[str, Any] | None = None,
    generation: Mapping[str, Any] | None = None,
) -> tuple[Verified, Pair]:
    """Decode the same prompts by AR and by the artifact and compare every token.

    `loading` goes to `Decoder.from_checkpoint`, `generation` to `Decoder.generate`.

    Raises:
        NldcRuntimeError: the artifact, the checkpoint, a prompt or an option cannot be used.
    """
    pair = load_pair(artifact, model, **(loading or {}))
    folder = model_folder(model)
    chosen = choose_prompts(
        prompts, count, folder, vocabulary_without_tokenizer(pair.decoder, folder)
    )
    return compare(pair, chosen, generation or {}), pair


def compare(pair: Pair, prompts: Sequence[Prompt], generation: Mapping[str, Any]) -> Verified:
    """Decode the prompts with both decoders of a pair and compare every token."""
    expected = pair.baseline.generate(prompts, **generation)
    found = pair.decoder.generate(prompts, **generation)
    return Verified(
        strategy=pair.decoder.STRATEGY,
        prompts=len(prompts),
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
