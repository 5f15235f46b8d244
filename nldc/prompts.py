"""Where `verify` and `bench` get their prompts from: a file, the checkpoint, or a small stock.

A prompt file has one prompt a line: text, a JSON list of token ids, or a JSON object with the key
`prompt`, to which `images` may belong, or `messages` for a conversation. Files of pictures are
looked for beside it. A checkpoint may bring such a file, `heldout.jsonl`.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from nldc.pictures import beside, with_pictures
from nldc.runtime.errors import PromptError

if TYPE_CHECKING:
    from nldc.runtime.vision.picture import PicturePrompt

Message: TypeAlias = dict[str, Any]
Prompt: TypeAlias = "str | list[int] | list[Message] | PicturePrompt"

HELD_OUT = "heldout.jsonl"
MAX_BYTES = 64 << 20
STOCK = (
    "def fibonacci(n):\n",
    "The capital of France is",
    "import json\n\n\nclass Config:\n",
    "Once upon a time there was a",
    "for name, value in sorted(items):\n",
    "In 1905, Albert Einstein published",
    "def test_parse_rejects_an_empty_line() -> None:\n",
    "Dear Sir or Madam,\n\n",
)


def _read(path: str | Path) -> str:
    """Return the text of a file, - is standard input.

    Raises:
        PromptError: it cannot be read, is too large, or is not UTF-8 text.
    """
    name = "standard input" if str(path) == "-" else str(path)
    try:
        if str(path) == "-":
            data = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with open(path, "rb") as file:
                data = file.read(MAX_BYTES + 1)
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise PromptError(f"cannot read {name}: {error.strerror}", None) from None
    except UnicodeDecodeError:
        raise PromptError(f"{name} is not UTF-8 text", "save the file as UTF-8") from None
    if len(data) > MAX_BYTES:
        raise PromptError(f"{name} is larger than {MAX_BYTES >> 20} MiB", "use fewer prompts")
    return text


def read_json_file(path: str | Path) -> Any:
    """Return the data in a JSON file.

    Raises:
        PromptError: the file cannot be read, is too large, or is no JSON.
    """
    try:
        return json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise PromptError(f"{path} cannot be read as JSON: {reason}", None) from None


def read_messages(path: str | Path) -> list[Message]:
    """Return the conversation in a file: a JSON list of messages, or a message a line.

    An object with the key `messages` is as good as the list in it.

    Raises:
        PromptError: the file cannot be read, is too large, or holds no conversation.
    """
    text = _read(path)
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        data = [_message(line, place) for line, place in _lines(text, path)]
    if isinstance(data, dict):
        data = data.get("messages", [data])
    if not _is_conversation(data):
        raise PromptError(f"{path} holds no conversation", _CONVERSATION)
    return beside(data, folder_of(path))


_CONVERSATION = 'write [{"role": "user", "content": "…"}, …], or one such message a line'


def _message(line: str, place: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise PromptError(f"{place} is no message: {error}", _CONVERSATION) from None


def _is_conversation(data: Any) -> bool:
    return isinstance(data, list) and bool(data) and all(_is_message(each) for each in data)


def _is_message(data: Any) -> bool:
    return isinstance(data, dict) and isinstance(data.get("role"), str)


def _lines(text: str, path: str | Path) -> Iterator[tuple[str, str]]:
    """Yield the lines that are not empty, with their places."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield line, f"{path}:{number}"


def lines_of(path: str | Path) -> Iterator[tuple[str, str]]:
    """Yield the lines of a file that are not empty, with their places.

    Raises:
        PromptError: it cannot be read, is too large, or is not UTF-8 text.
    """
    yield from _lines(_read(path), path)


def read_prompts(path: str | Path, *, chat: bool = False) -> list[Prompt]:
    """Return the prompts of a file, one a line; empty lines are skipped.

    Conversations are prompts for `chat` only.

    Raises:
        PromptError: the file cannot be read, is too large, or a line is no prompt.
    """
    folder = folder_of(path)
    prompts = [prompt_of(line, place, folder, chat=chat) for line, place in lines_of(path)]
    if not prompts:
        raise PromptError(f"{path} has no prompts", "write one prompt a line")
    return prompts


def folder_of(path: str | Path) -> Path:
    """Return the folder in which a file names others; standard input's is the current one."""
    return Path() if str(path) == "-" else Path(path).parent


def prompt_of(line: str, place: str, folder: Path, *, chat: bool) -> Prompt:
    """Return the prompt in a line of a file in `folder`; messages name the line's `place`.

    Raises:
        PromptError: it is none, or is a conversation, which is for `chat` only.
    """
    if line.lstrip()[0] not in "{[":
        return line.rstrip("\r")
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        return line.rstrip("\r")
    if isinstance(data, dict) and data.get("images") is not None and "messages" not in data:
        try:
            return with_pictures(data.get("prompt"), data["images"], folder)
        except PromptError as problem:
            raise PromptError(f"{place}: {problem.message}", problem.hint) from None
    if isinstance(data, dict):
        data = data["messages"] if "messages" in data else data.get("prompt")
    if _is_conversation(data):
        if not chat:
            raise PromptError(f"{place} is a conversation", "ask for chat as well")
        return beside(data, folder)
    if isinstance(data, str):
        return data
    if isinstance(data, list) and all(type(token) is int for token in data):
        return data
    raise PromptError(
        f"{place} is no prompt", 'write text, a list of ids, or {"prompt": "…"} on each line'
    )


def parse_ids(text: str) -> list[int]:
    """Return the token ids in `1,17,42` or `1 17 42`.

    Raises:
        PromptError: something in it is not a number.
    """
    words = text.replace(",", " ").split()
    if not words or not all(word.isascii() and word.isdigit() and len(word) < 10 for word in words):
        raise PromptError(f"{text!r} is no list of token ids", "write them as in 1,17,42")
    return [int(word) for word in words]


def choose_prompts(
    path: str | Path | None,
    count: int,
    folder: Path,
    vocabulary: int | None,
    *,
    chat: bool = False,
) -> list[Prompt]:
    """Return `count` prompts: of the file at `path`, else of the checkpoint in `folder`.

    A checkpoint without prompts of its own gets the stock, again and again; one without a
    tokenizer (`vocabulary` is then its size) random token ids, the same every time.

    Raises:
        PromptError: the file has no `count` prompts, or cannot be read.
    """
    if path is not None:
        prompts = read_prompts(path, chat=chat)
        if count > len(prompts):
            raise PromptError(f"{path} has {len(prompts)} prompts, not {count}", "lower the count")
        return prompts[:count]
    if vocabulary is not None:
        return random_prompts(count, vocabulary)
    if (folder / HELD_OUT).exists():
        held_out = read_prompts(folder / HELD_OUT, chat=chat)
        return _spread(held_out, count) if count <= len(held_out) else _again(held_out, count)
    return _again(STOCK, count)


def random_prompts(count: int, vocabulary: int, seed: int = 0) -> list[Prompt]:
    """Return prompts of 1 to 24 random token ids."""
    draw = random.Random(seed)
    return [[draw.randrange(vocabulary) for _ in range(draw.randint(1, 24))] for _ in range(count)]


def _again(prompts: Iterable[Prompt], count: int) -> list[Prompt]:
    return list(islice(cycle(prompts), count))


def _spread(prompts: Sequence[Prompt], count: int) -> list[Prompt]:
    return [prompts[place * len(prompts) // count] for place in range(count)]
