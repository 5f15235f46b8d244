"""Text and tokens: tokenizer.json through the tokenizers library, and text that grows by tokens.

`TextStream` turns tokens into text piece by piece. It never shows half a character, and what it has
shown never changes; all pieces together are what `Tokenizer.decode` makes of all tokens.
"""

from __future__ import annotations

import codecs
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tokenizers

from nldc.runtime.errors import CheckpointWarning, PromptError, TokenizerError
from nldc.runtime.json_file import parse_json
from nldc.runtime.text.tokenizer_check import Unfit, check_tokenizer
from nldc.runtime.text.tokenizer_files import DAMAGED, TOKENIZER, TokenizerFiles, read_bytes

T = TypeVar("T")
BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
BAD_BYTE = "\ufffd"
SPACE = "\u2581"
"""What stands for a space in tokenizers that do not spell it."""
WINDOW = 64
"""How many tokens of white space are decoded again with each that follows."""


class Tokenizer:
    """A checkpoint's tokenizer; `settings` are what the files beside it say, {} if there are none.

    `markers` are the special tokens, id to text: those that `decode` leaves out unless it is told
    to keep them.
    """

    def __init__(
        self, inner: tokenizers.Tokenizer, settings: Mapping[str, Any], folder: Path
    ) -> None:
        self.inner = inner
        self.settings = settings
        self.folder = folder
        self.file = str(folder / TOKENIZER)  # messages name it, once a token
        self.markers: dict[int, str] = {
            number: token.content
            for number, token in inner.get_added_tokens_decoder().items()
            if token.special
        }
        state = inner.decoder.__getstate__() if inner.decoder is not None else b""
        self._by_bytes = b'"ByteLevel"' in state
        self._falls_back = b'"ByteFallback"' in state
        self._marks_spaces = SPACE.encode() in state or b'"Metaspace"' in state

    @staticmethod
    def exists(folder: Path) -> bool:
        """Whether there is a tokenizer in `folder`."""
        return (folder / TOKENIZER).exists()

    @staticmethod
    def load(folder: str | Path) -> Tokenizer:
        """Read the tokenizer in `folder`, and what the files beside it say about tokens.

        A length that the file would cut or fill texts to is not followed: a prompt is what it is.

        Raises:
            TokenizerError: tokenizer.json is missing, damaged, or cannot be used safely; or a file
                beside it is damaged.
        """
        path = Path(folder) / TOKENIZER
        data = read_bytes(path)
        if data is None:
            raise TokenizerError(
                f"{path} is missing", f"put the model's {TOKENIZER} there, or give token ids"
            )
        data = data.removeprefix(codecs.BOM_UTF8)
        try:
            content = parse_json(data)
        except ValueError as problem:
            raise TokenizerError(f"{path} cannot be read: {problem}", DAMAGED) from problem
        try:
            check_tokenizer(content)
        except Unfit as problem:
            raise TokenizerError(f"{path} {problem}", "take the released model's file") from None
        files = TokenizerFiles.load(Path(folder))
        inner = _guarded(
            lambda: tokenizers.Tokenizer.from_buffer(data), f"{path} cannot be read", DAMAGED
        )
        inner.no_truncation()
        inner.no_padding()
        inner.encode_special_tokens = files.settings.get("split_special_tokens") is True
        taken = {token.get("id") for token in content.get("added_tokens") or ()}
        _add_tokens(inner, files.without(taken), Path(folder))
        named = {name: token.content for name, token in files.named.items()}
        made = Tokenizer(inner, {**files.settings, **named}, Path(folder))
        model = content["model"].get("type") or "BPE"
        files.warn_of_what_is_not_followed(Path(folder), model, made.encode(""))
        return made

    def warn_if_larger(self, vocabulary: int) -> None:
        """Say so if there are tokens here that a model with such a vocabulary does not have."""
        added = self.inner.get_added_tokens_decoder()
        size = max(self.inner.get_vocab_size(), max(added, default=-1) + 1)
        if size > vocabulary:
            warnings.warn(
                f"{self.file} has {size} tokens, and the model {vocabulary}: is it "
                "another model's?",
                CheckpointWarning,
                stacklevel=3,
            )

    def check_fits(self, tokens: Sequence[int], vocabulary: int, name: str) -> None:
        """Raise TokenizerError if the tokens of a prompt's text are none of the model's."""
        wrong = next((token for token in tokens if token >= vocabulary), None)
        if wrong is not None:
            raise TokenizerError(
                f"{name} holds `{self._text_of(wrong)}`, which {self.file} makes "
                f"token {wrong}; the model has {vocabulary} tokens",
                "take the released model's tokenizer, or leave this out of the prompt",
            )

    def id_of(self, name: str) -> int | None:
        """Return the id of a special token by the settings `NAME_token_id` or `NAME_token`."""
        number = self.settings.get(f"{name}_token_id")
        if isinstance(number, int) and not isinstance(number, bool):
            return number
        text = self.settings.get(f"{name}_token")
        if isinstance(text, Mapping):
            text = text.get("content")
        return self.id_of_text(text) if isinstance(text, str) else None

    def id_of_text(self, text: str) -> int | None:
        """Return the id of the token whose text is exactly this, None if there is none."""
        found: int | None = self.inner.token_to_id(text)
        return found

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Return the ids of `text`; `special` adds what the model expects around a prompt.

        Raises:
            PromptError: the text has parts that are no characters.
            TokenizerError: tokenizer.json cannot encode it.
        """
        return list(self._encoded(text, special=special).ids)

    def starts(self, text: str) -> list[int]:
        """Return the character of `text` at which each of the tokens that `encode` makes begins.

        What is added around it takes no room. Raises what `encode` does.
        """
        starts, furthest = [], 0
        for start, end in self._encoded(text, special=True).offsets:
            starts.append(max(start, furthest) if end else furthest)
            furthest = starts[-1] if end else furthest
        return starts

    def _encoded(self, text: str, *, special: bool) -> tokenizers.Encoding:
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise PromptError(
                "the prompt is not UTF-8 text", "use a terminal in UTF-8, or give it in a file"
            )
        return _guarded(
            lambda: self.inner.encode(text, add_special_tokens=special),
            f"{self.file} fails on the prompt",
            "take the released model's file",
        )

    def encode_chat(self, text: str) -> list[int]:
        """Return the ids of a rendered conversation: as of any text, but nothing begins twice.

        Where the template has written what goes before a text, it is not added again.
        """
        plain, whole = self.encode(text, special=False), self.encode(text)
        for start in range(1, len(whole) - len(plain) + 1):
            if whole[start : start + len(plain)] == plain:
                return whole[start:] if plain[:start] == whole[:start] else whole
        return whole

    def exceeds(self, text: str, tokens: int) -> bool:
        """Whether the beginning of `text` alone has clearly more than so many tokens.

        A text that is far too long is refused without being encoded, which takes minutes.
        """
        beginning = text[: 32 * tokens]
        return len(beginning) < len(text) and len(self.encode(beginning)) > tokens + 64

    def decode(self, tokens: Sequence[int], *, keep_special_tokens: bool = False) -> str:
        """Return the text of `tokens`, special ones left out unless they are to be kept.

        Where a tokenizer spells characters out in bytes (`<0xE2>`), a byte that is part of no
        character is one U+FFFD, and its neighbours keep theirs.
        """
        if not self._falls_back:
            return _guarded(
                lambda: self.inner.decode(
                    list(tokens), skip_special_tokens=not keep_special_tokens
                ),
                f"{self.file} fails on tokens",
                "take the released model's file",
            )
        shown = [token for token in tokens if keep_special_tokens or token not in self.markers]
        texts = [text for token in shown if (text := self._text_of(token)) is not None]
        return _guarded(
            lambda: str(self.inner.decoder.decode(_without_bad_bytes(texts))),
            f"{self.file} fails on tokens",
            "take the released model's file",
        )

    def has(self, token: int) -> bool:
        """Whether there is a token of this id."""
        return self._text_of(token) is not None

    def unfinished(self, before: bytes, token: int) -> bytes:
        """Return the bytes of a character that is not complete, behind `token`.

        `before` are those behind the token before it. A token that spells whole characters leaves
        none.
        """
        text = self._text_of(token) or ""
        if not self._by_bytes and not (self._falls_back and BYTE_TOKEN.fullmatch(text)):
            return b""
        reader = _UTF8(errors="replace")
        reader.decode(before + self.bytes_of(token))
        return reader.getstate()[0]

    def bytes_of(self, token: int) -> bytes:
        """Return what a token spells in UTF-8: whole characters or part of one; b"": no such token.

        A space at its beginning is there, though `decode` may leave it out at a text's.
        """
        text = self._text_of(token) or ""
        if self._by_bytes:
            letters = [_BYTES.get(letter) for letter in text]
            return bytes(letters) if None not in letters else text.encode()  # type: ignore[arg-type]
        if self._falls_back and (byte := BYTE_TOKEN.fullmatch(text)):
            return bytes.fromhex(byte[1])
        return (text.replace(SPACE, " ") if self._marks_spaces else text).encode()

    def _text_of(self, token: int) -> str | None:
        found: str | None = self.inner.id_to_token(token)
        return found


class TextStream:
    """The text of one sequence as its tokens come."""

    def __init__(self, tokenizer: Tokenizer, *, keep_special_tokens: bool = False) -> None:
        self._tokenizer = tokenizer
        self._keep = keep_special_tokens
        self._tokens: list[int] = []
        self._start = 0
        self._shown = 0
        self._unfinished = b""

    def feed(self, tokens: Sequence[int]) -> str:
        """Return the text that `tokens` complete.

        Decoders treat the first token specially (a leading space, say), so each piece is decoded
        together with the tokens of the piece before and the difference is shown.
        """
        return "".join(self._one(token) for token in tokens)

    def _one(self, token: int) -> str:
        tokenizer = self._tokenizer
        if not tokenizer.has(token) or (token in tokenizer.markers and not self._keep):
            return ""
        self._tokens.append(token)
        self._unfinished = tokenizer.unfinished(self._unfinished, token)
        return "" if self._unfinished else self._take()

    def _take(self) -> str:
        """Return the text of the tokens that are not shown, and show them."""
        before, now = self._around()
        piece = now[len(before) :]
        if not piece or not now.startswith(before):
            return ""
        if piece.strip() or len(self._tokens) - self._start > WINDOW:
            self._start = self._shown
        self._shown = len(self._tokens)
        del self._tokens[: self._start]
        self._shown -= self._start
        self._start = 0
        return piece

    def _around(self) -> tuple[str, str]:
        texts = [
            self._tokenizer.decode(tokens, keep_special_tokens=self._keep)
            for tokens in (self._tokens[self._start : self._shown], self._tokens[self._start :])
        ]
        return texts[0], texts[1]

    def held(self) -> str:
        """Return the text that is held back as it would be if no more tokens came."""
        before, now = self._around()
        return now[len(before) :]

    def flush(self) -> str:
        """Return the text held back, now that no more tokens come.

        What has become of half a character then is what `decode` makes of it: U+FFFD.
        """
        rest = self.held()
        self._shown = len(self._tokens)
        self._unfinished = b""
        return rest


_UTF8 = codecs.getincrementaldecoder("utf-8")


def _letters() -> dict[str, int]:
    """Return the byte behind each letter that byte-level tokenizers write for one."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {
        chr(256 + number): byte for number, byte in enumerate(others)
    }


_BYTES = _letters()


def _without_bad_bytes(texts: Sequence[str]) -> list[str]:
    """Return the tokens with those bytes that are part of no character replaced by U+FFFD."""
    found = list(texts)
    bytes_ = [int(byte[1], 16) if (byte := BYTE_TOKEN.fullmatch(text)) else None for text in texts]
    place = 0
    while place < len(found):
        lead = bytes_[place]
        size = 1 if lead is None or lead < 0x80 else 2 + (lead >= 0xE0) + (lead >= 0xF0)
        if lead is not None and not _is_character(bytes_[place : place + size]):
            found[place] = BAD_BYTE
            size = 1
        place += size
    return found


def _is_character(data: Sequence[int | None]) -> bool:
    whole = [byte for byte in data if byte is not None]
    try:
        return len(whole) == len(data) and len(bytes(whole).decode()) == 1
    except UnicodeDecodeError:
        return False


def _add_tokens(inner: tokenizers.Tokenizer, files: TokenizerFiles, folder: Path) -> None:
    """Make known what other files call a token, in the order in which transformers does."""
    known = {token.content: token for token in inner.get_added_tokens_decoder().values()}
    same = {repr(token) for token in known.values()}
    fresh = {
        token.content: token
        for _, token in sorted(files.declared.items())
        if repr(token) not in same
    }
    for token in files.named.values():
        own = fresh.get(token.content) or known.get(token.content) or token
        if not own.special or own is token:
            fresh[token.content] = _as_special(own)
    for token in files.extra:
        if token.content not in fresh and token.content not in known:
            fresh[token.content] = token
    if not fresh:
        return
    _guarded(
        lambda: inner.add_tokens(list(fresh.values())),
        f"{folder}: the added tokens cannot be used",
        DAMAGED,
    )
    wrong = [
        f"`{token.content}` is {inner.token_to_id(token.content)}, not {number}"
        for number, token in sorted(files.declared.items())
        if inner.token_to_id(token.content) != number
    ]
    if wrong:
        warnings.warn(
            f"{folder}: added tokens get other ids than they are said to have: "
            + "; ".join(wrong[:4]),
            CheckpointWarning,
            stacklevel=3,
        )


def _as_special(token: tokenizers.AddedToken) -> tokenizers.AddedToken:
    return tokenizers.AddedToken(
        token.content,
        single_word=token.single_word,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        normalized=token.normalized,
        special=True,
    )


def _guarded(call: Callable[[], T], what: str, hint: str) -> T:
    """Return what a call into the tokenizers library returns, its panics made errors."""
    try:
        return call()
    except Exception as problem:  # the library raises plain Exception
        raise TokenizerError(f"{what}: {problem}", hint) from problem
    except BaseException as problem:
        if type(problem).__name__ != "PanicException":
            raise
        raise TokenizerError(f"{what}: {problem}", hint) from None
