"""Text and tokens: tokenizer.json through the tokenizers library, and text that grows by tokens.

`TextStream` turns tokens into text piece by piece. It never shows half a character, and what it has
shown never changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tokenizers

from nldc.runtime.errors import PromptError, TokenizerError
from nldc.runtime.json_file import read_json

TOKENIZER = "tokenizer.json"
CONFIG = "tokenizer_config.json"
UNFINISHED = "\ufffd"


class Tokenizer:
    """A checkpoint's tokenizer; `settings` is its tokenizer_config.json, {} if there is none."""

    def __init__(self, inner: tokenizers.Tokenizer, settings: dict[str, Any], folder: Path) -> None:
        self.inner = inner
        self.settings = settings
        self.folder = folder

    @staticmethod
    def exists(folder: Path) -> bool:
        """Whether there is a tokenizer in `folder`."""
        return (folder / TOKENIZER).exists()

    @staticmethod
    def load(folder: str | Path) -> Tokenizer:
        """Read the tokenizer in `folder`.

        Raises:
            TokenizerError: tokenizer.json is missing or damaged.
        """
        path = Path(folder) / TOKENIZER
        if not path.exists():
            raise TokenizerError(
                f"{path} is missing", f"put the model's {TOKENIZER} there, or give token ids"
            )
        try:
            inner = tokenizers.Tokenizer.from_file(str(path))
        except Exception as problem:  # the library raises plain Exception
            raise TokenizerError(
                f"{path} cannot be read: {problem}", "download the file again"
            ) from problem
        return Tokenizer(inner, _settings(Path(folder) / CONFIG), Path(folder))

    def id_of(self, name: str) -> int | None:
        """Return the id of a special token by the settings `NAME_token_id` or `NAME_token`."""
        number = self.settings.get(f"{name}_token_id")
        if isinstance(number, int) and not isinstance(number, bool):
            return number
        text = self.settings.get(f"{name}_token")
        if isinstance(text, dict):
            text = text.get("content")
        found: int | None = self.inner.token_to_id(text) if isinstance(text, str) else None
        return found

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Return the ids of `text`; `special` adds what the model expects around a prompt.

        Raises:
            PromptError: the text has parts that are no characters.
        """
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise PromptError(
                "the prompt is not UTF-8 text", "use a terminal in UTF-8, or give it in a file"
            )
        return list(self.inner.encode(text, add_special_tokens=special).ids)

    def exceeds(self, text: str, tokens: int) -> bool:
        """Whether the beginning of `text` alone has clearly more than so many tokens.

        A text that is far too long is refused without being encoded, which takes minutes.
        """
        beginning = text[: 32 * tokens]
        return len(beginning) < len(text) and len(self.encode(beginning)) > tokens + 64

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of `tokens`, special ones left out."""
        return self.inner.decode(list(tokens), skip_special_tokens=True)


class TextStream:
    """The text of one sequence as its tokens come."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        self._start = 0
        self._shown = 0

    def feed(self, tokens: Sequence[int]) -> str:
        """Return the text that `tokens` complete.

        Decoders treat the first token specially (a leading space, say), so each piece is decoded
        together with the tokens of the piece before and the difference is shown.
        """
        return "".join(self._one(token) for token in tokens)

    def _one(self, token: int) -> str:
        self._tokens.append(token)
        before = self._tokenizer.decode(self._tokens[self._start : self._shown])
        now = self._tokenizer.decode(self._tokens[self._start :])
        if len(now) <= len(before) or now.endswith(UNFINISHED):
            return ""
        self._start, self._shown = self._shown, len(self._tokens)
        return now[len(before) :]

    def flush(self) -> str:
        """Return the text held back, now that no more tokens come; half a character is dropped."""
        before = self._tokenizer.decode(self._tokens[self._start : self._shown])
        now = self._tokenizer.decode(self._tokens[self._start :])
        self._start = self._shown = len(self._tokens)
        return now[len(before) :].rstrip(UNFINISHED)


def _settings(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        settings = read_json(path)
    except ValueError as problem:
        raise TokenizerError(
            f"{path} cannot be read as JSON: {problem}", "download the file again"
        ) from problem
    if not isinstance(settings, dict):
        raise TokenizerError(f"{path} holds no JSON object", "download the file again")
    return settings
