"""What ends a text: the ids that any file of a checkpoint names, and those that a caller asks for.

transformers' `generate` ends at the `eos_token_id` of generation_config.json, or of config.json
where there is no such file; the snippets of released models pass the tokenizer's `eos_token`. The
files of one checkpoint do not always agree, and a text that ran on behind any of these would be
wrong for somebody: each of them ends it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nldc.runtime.errors import CheckpointError, CheckpointWarning, PromptError, TokenizerError
from nldc.runtime.text.tokenizer import Tokenizer
from nldc.runtime.text.tokenizer_files import CONFIG, read_object
from nldc.runtime.whole_numbers import as_whole, shown

GENERATION = "generation_config.json"
HARMLESS: Mapping[str, tuple[Any, ...]] = {
    "stop_strings": (None, []),
    "forced_bos_token_id": (None,),
    "forced_eos_token_id": (None,),
    "suppress_tokens": (None, []),
    "begin_suppress_tokens": (None, []),
    "bad_words_ids": (None, []),
    "sequence_bias": (None, [], {}),
    "repetition_penalty": (None, 1, 1.0),
    "no_repeat_ngram_size": (None, 0),
    "exponential_decay_length_penalty": (None,),
    "min_length": (None, 0),
    "min_new_tokens": (None, 0),
    "guidance_scale": (None, 1, 1.0),
    "num_beams": (None, 1),
}
"""Settings of generation_config.json that choose other tokens, but for these values."""
Eos = int | str | Iterable[int | str]
"""Ids, or texts, of the tokens that end a sequence."""


@dataclass(frozen=True)
class Endings:
    """The `ids` that end a text, in the order in which files name them, and which file names each.

    `outside` are texts and ids of tokens that are said to end a text and that the model cannot
    write.
    """

    ids: tuple[int, ...]
    sources: tuple[str, ...]
    outside: tuple[str, ...] = ()

    def warn(self, folder: Path | None) -> None:
        """Name what cannot end a text, and say so if nothing does."""
        if self.outside:
            warnings.warn(
                f"{folder}: the model has no token {', '.join(self.outside)}, which is said to end "
                "a text",
                CheckpointWarning,
                stacklevel=3,
            )
        if not self.ids:
            warnings.warn(
                f"{folder or 'the model'}: nothing ends a text but its length: neither config.json "
                f"nor {GENERATION} has an eos_token_id, and {CONFIG} no eos_token; name the token "
                "with the option eos",
                CheckpointWarning,
                stacklevel=3,
            )


def find_endings(
    folder: Path | None,
    configured: Sequence[int],
    vocabulary: int,
    tokenizer: Tokenizer | None,
) -> Endings:
    """Return what ends the texts of the checkpoint in `folder`.

    `configured` are the ids in config.json, `vocabulary` is the size of the model's.

    Raises:
        CheckpointError: generation_config.json is damaged, or names no token of the model.
    """
    found: dict[int, str] = {}
    outside = []
    if folder is not None:
        for token in _generation_ids(folder / GENERATION, vocabulary):
            found.setdefault(token, GENERATION)
    for token in configured:
        found.setdefault(token, "config.json")
    text = None if tokenizer is None else tokenizer.settings.get("eos_token")
    if tokenizer is not None and isinstance(text, str):
        own = tokenizer.id_of_text(text)
        if own is None or own >= vocabulary:
            outside.append(f"`{text}`" if own is None else f"`{text}` ({own})")
        else:
            found.setdefault(own, CONFIG)
    return Endings(tuple(found), tuple(found.values()), tuple(outside))


def _generation_ids(path: Path, vocabulary: int) -> list[int]:
    try:
        settings = read_object(path)
    except TokenizerError as problem:
        raise CheckpointError(problem.message, problem.hint) from None
    value = settings.get("eos_token_id")
    ids = [] if value is None else value if isinstance(value, list) else [value]
    for token in ids:
        if not isinstance(token, int) or isinstance(token, bool):
            raise CheckpointError(
                f"{path}: eos_token_id = {value!r}", "give a token id or a list of them"
            )
        if not 0 <= token < vocabulary:
            raise CheckpointError(
                f"{path}: eos_token_id {token} is not in the vocabulary of {vocabulary}",
                f"ids lie between 0 and {vocabulary - 1}",
            )
    _warn_of_settings(path, settings)
    return ids


def _warn_of_settings(path: Path, settings: Mapping[str, Any]) -> None:
    names = [
        name
        for name, harmless in HARMLESS.items()
        if name in settings and settings[name] not in harmless
    ]
    if names:
        warnings.warn(
            f"{path}: not followed: {', '.join(names)}; ask for what you want of them in the call",
            CheckpointWarning,
            stacklevel=4,
        )


def chosen_ends(
    given: Iterable[object], tokenizer: Tokenizer | None, vocabulary: int
) -> tuple[int, ...]:
    """Return the ids that a caller's `eos` stands for; a text is that of one token.

    Raises:
        PromptError: it holds something else, or a token that there is not.
    """
    return tuple(dict.fromkeys(_end(each, tokenizer, vocabulary) for each in given))


def _end(value: Any, tokenizer: Tokenizer | None, vocabulary: int) -> int:
    if isinstance(value, str):
        if tokenizer is None:
            raise PromptError(
                f"eos holds the text {value!r}, and the checkpoint has no tokenizer", "give an id"
            )
        found = tokenizer.id_of_text(value)
        if found is None or found >= vocabulary:
            raise PromptError(
                f"eos holds {value!r}, which is no token of this model",
                "give the whole text of one token, such as </s>, or its id",
            )
        return found
    number = as_whole(value)
    if number is None:
        raise PromptError(f"eos holds {shown(value)}", "token ids are whole numbers")
    if not 0 <= number < vocabulary:
        raise PromptError(
            f"eos holds the token id {number}",
            f"ids of this model lie between 0 and {vocabulary - 1}",
        )
    return number
