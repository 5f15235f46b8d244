"""What the files beside tokenizer.json say about text: named tokens, added tokens, settings.

Read as transformers reads them. tokenizer_config.json goes first. Where it spells out the added
tokens (`added_tokens_decoder`), it is complete; older checkpoints spread the same over
special_tokens_map.json, which replaces what tokenizer_config.json names, and added_tokens.json.
"""

from __future__ import annotations

import stat
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from nldc.runtime.errors import CheckpointWarning, TokenizerError
from nldc.runtime.json_file import parse_json

TOKENIZER = "tokenizer.json"
CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS = "special_tokens_map.json"
ADDED_TOKENS = "added_tokens.json"
NAMES = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
"""The tokens that every tokenizer names."""
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
LARGEST_FILE = 128 << 20
DAMAGED = "download the file again"


@dataclass(frozen=True)
class TokenizerFiles:
    """What stands beside a tokenizer.json.

    `named` are the texts of `NAME_token` by that name; `declared` the added tokens with the ids
    that a file gives them; `extra` special tokens without a name. In an `older` checkpoint
    tokenizer.json has the last word on an id.
    """

    settings: Mapping[str, Any]
    named: Mapping[str, AddedToken]
    declared: Mapping[int, AddedToken]
    extra: tuple[AddedToken, ...]
    older: bool = False

    @staticmethod
    def load(folder: Path) -> TokenizerFiles:
        """Read what there is in `folder`; every file may be missing.

        Raises:
            TokenizerError: a file is damaged.
        """
        path = folder / CONFIG
        settings = read_object(path)
        declared: dict[int, AddedToken] = {}
        older = settings.get("added_tokens_decoder") is None
        if not older:
            for number, data in _object(settings, "added_tokens_decoder", path).items():
                token = _token(data, "added_tokens_decoder", path)
                declared[_number(number, "added_tokens_decoder", path)] = token
        else:
            settings = {**settings, **_named_in_map(folder / SPECIAL_TOKENS, settings)}
        named, extra = _special(settings, path)
        if older:
            specials = {token.content for token in (*named.values(), *extra)}
            for text, number in read_object(folder / ADDED_TOKENS).items():
                place = folder / ADDED_TOKENS
                special = text in specials
                declared[_number(number, text, place)] = AddedToken(
                    text, normalized=not special, special=special
                )
        return TokenizerFiles(settings, named, declared, extra, older)

    def without(self, taken: Collection[int]) -> TokenizerFiles:
        """Return these files without the ids of an older checkpoint that are taken."""
        if not self.older:
            return self
        left = {number: token for number, token in self.declared.items() if number not in taken}
        return replace(self, declared=left)

    def warn_of_what_is_not_followed(self, folder: Path, model: str, adds: Sequence[int]) -> None:
        """Name settings that would change text, and that have no effect here.

        `model` is the type of tokenizer.json's model, `adds` what its post-processor puts before a
        text.
        """
        found = []
        if self.settings.get("clean_up_tokenization_spaces") is True and model != "BPE":
            found.append("clean_up_tokenization_spaces (no space is taken away)")
        if self.settings.get("fix_mistral_regex"):
            found.append("fix_mistral_regex (text is cut as tokenizer.json says)")
        if self.settings.get("add_bos_token") is True and not adds:
            found.append("add_bos_token (tokenizer.json's post-processor adds none)")
        if found:
            warnings.warn(
                f"{folder / CONFIG}: not followed: {'; '.join(found)}",
                CheckpointWarning,
                stacklevel=4,
            )


def _named_in_map(path: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = dict(read_object(path))
    before = settings.get("extra_special_tokens")
    if before is None:
        before = settings.get("additional_special_tokens")
    extra = found.get("extra_special_tokens")
    if isinstance(extra, list):
        known = before if isinstance(before, list) else []
        found["extra_special_tokens"] = [*known, *(token for token in extra if token not in known)]
    if before is not None:
        found.pop("additional_special_tokens", None)
    return found


def _special(
    settings: Mapping[str, Any], path: Path
) -> tuple[dict[str, AddedToken], tuple[AddedToken, ...]]:
    """Return the named special tokens and the others."""
    named = {}
    for name, value in settings.items():
        fits = isinstance(value, str | Mapping)
        if name in NAMES and value is not None and not fits:
            raise TokenizerError(f"{path}: {name} = {value!r}", "give the token's text")
        if name.endswith("_token") and fits:
            named[name] = _token(value, name, path, special=True)
    more = settings.get("extra_special_tokens")
    if more is None:
        more = settings.get("additional_special_tokens")
    if isinstance(more, Mapping):
        named |= {name: _token(value, name, path, special=True) for name, value in more.items()}
        more = ()
    if more is not None and not isinstance(more, list | tuple):
        raise TokenizerError(f"{path}: extra_special_tokens = {more!r}", "give a list of tokens")
    texts = [_token(value, "extra_special_tokens", path, special=True) for value in more or ()]
    return named, tuple(texts)


def _token(data: Any, name: str, path: Path, *, special: bool = False) -> AddedToken:
    if isinstance(data, str):
        return AddedToken(data, special=special, normalized=not special)
    text = data.get("content") if isinstance(data, Mapping) else None
    if not isinstance(text, str):
        raise TokenizerError(f"{path}: {name} holds {data!r}", "give the text of a token")
    flags = {flag: data[flag] for flag in FLAGS if flag in data}
    if not all(isinstance(value, bool) for value in flags.values()):
        raise TokenizerError(f"{path}: `{text}` of {name} has a flag that is not true or false")
    if special:
        flags["special"] = True
    return AddedToken(text, **flags)


def _number(value: Any, name: str, path: Path) -> int:
    text = str(value)
    if isinstance(value, bool) or not text.isascii() or not text.isdigit() or len(text) > 9:
        raise TokenizerError(f"{path}: `{name}` has the id {value!r}", "an id is a whole number")
    return int(text)


def _object(settings: Mapping[str, Any], name: str, path: Path) -> Mapping[str, Any]:
    value = settings[name]
    if not isinstance(value, Mapping):
        raise TokenizerError(f"{path}: {name} is no JSON object", DAMAGED)
    return value


def read_object(path: Path) -> Mapping[str, Any]:
    """Return the JSON object in `path`, {} if there is no such file.

    Raises:
        TokenizerError: it cannot be read, or holds something else.
    """
    data = read_bytes(path)
    if data is None:
        return {}
    try:
        found = parse_json(data)
    except ValueError as problem:
        raise TokenizerError(f"{path} cannot be read as JSON: {problem}", DAMAGED) from problem
    if not isinstance(found, dict):
        raise TokenizerError(f"{path} holds no JSON object", DAMAGED)
    return found


def read_bytes(path: Path) -> bytes | None:
    """Return the content of a file, None if there is none; a pipe or a device is refused unread.

    Raises:
        TokenizerError: it cannot be read, is no file, or is too large.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise TokenizerError(f"{path} is no file", "put the file itself there")
        if found.st_size > LARGEST_FILE:
            raise TokenizerError(f"{path} is larger than {LARGEST_FILE >> 20} MiB", DAMAGED)
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as problem:
        reason = (problem.strerror or str(problem)).lower()
        raise TokenizerError(f"{path} cannot be read: {reason}", DAMAGED) from None


def read_text(path: Path) -> str | None:
    """Return the text in `path` with plain line ends, None if there is no such file.

    Raises:
        TokenizerError: it cannot be read, or is not UTF-8 text.
    """
    data = read_bytes(path)
    try:
        text = None if data is None else data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise TokenizerError(f"{path} cannot be read: it is not UTF-8 text", DAMAGED) from None
    return None if text is None else text.replace("\r\n", "\n").replace("\r", "\n")
