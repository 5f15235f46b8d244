"""Where `verify` and `bench` get their prompts from: a file, the checkpoint, or a small stock.

A prompt file has one prompt a line: text, a JSON list of token ids, or a JSON object with the key
`prompt`. A checkpoint may bring such a file, `heldout.jsonl`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import TypeAlias

from nldc.runtime.errors import PromptError

Prompt: TypeAlias = str | list[int]

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


def read_prompts(path: str | Path) -> list[Prompt]:
    """Return the prompts of a file, one a line; empty lines are skipped.

    Raises:
        PromptError: the file cannot be read, is too large, or a line is no prompt.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
        text = data.decode("utf-8")
    except OSError as error:
        raise PromptError(f"cannot read {path}: {error.strerror}", None) from None
    except UnicodeDecodeError:
        raise PromptError(f"{path} is not UTF-8 text", "save the file as UTF-8") from None
    if len(data) > MAX_BYTES:
        raise PromptError(f"{path} is larger than {MAX_BYTES >> 20} MiB", "use fewer prompts")
    lines = enumerate(text.split("\n"), start=1)
    prompts = [_prompt(line, f"{path}:{number}") for number, line in lines if line.strip()]
    if not prompts:
        raise PromptError(f"{path} has no prompts", "write one prompt a line")
    return prompts


def _prompt(line: str, place: str) -> Prompt:
    if line.lstrip()[0] not in "{[":
        return line.rstrip("\r")
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        return line.rstrip("\r")
    if isinstance(data, dict):
        data = data.get("prompt")
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
    path: str | Path | None, count: int, folder: Path, vocabulary: int | None
) -> list[Prompt]:
    """Return `count` prompts: of the file at `path`, else of the checkpoint in `folder`.

    A checkpoint without prompts of its own gets the stock, again and again; one without a
    tokenizer (`vocabulary` is then its size) random token ids, the same every time.

    Raises:
        PromptError: the file has no `count` prompts, or cannot be read.
    """
    if path is not None:
        prompts = read_prompts(path)
        if count > len(prompts):
            raise PromptError(f"{path} has {len(prompts)} prompts, not {count}", "lower the count")
        return prompts[:count]
    if vocabulary is not None:
        return random_prompts(count, vocabulary)
    if (folder / HELD_OUT).exists():
        held_out = read_prompts(folder / HELD_OUT)
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
