"""Held-out prompts: beginnings of lines in held-out files, all of one length in tokens."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from tokenizers import Tokenizer

from nldc.runtime.train.corpus import SourceFile


@dataclass(frozen=True)
class Prompt:
    """A piece of a held-out file: its path, the line it begins on (from 1), and the text."""

    file: str
    line: int
    prompt: str


def draw_prompts(
    files: Iterable[SourceFile], tokenizer: Tokenizer, tokens: int, count: int, per_file: int
) -> list[Prompt]:
    """Return up to `count` prompts of exactly `tokens` tokens, at most `per_file` from one file.

    They are spread evenly over each file and do not overlap. Pieces whose text, encoded by itself,
    has another number of tokens are passed over.
    """
    drawn: list[list[Prompt]] = []
    for file in files:
        found: list[Prompt] = []
        lines = file.text.splitlines(keepends=True)
        stride = max(1, len(lines) // per_file)
        offset = sum(map(len, lines[:0]))
        starts = [0]
        for line in lines:
            offset += len(line)
            starts.append(offset)
        free_from = 0
        for first in range(len(lines)):
            if len(found) == per_file or first < max(free_from, len(found) * stride):
                continue
            if not lines[first].strip():
                continue
            piece = file.text[starts[first] : starts[first] + 8 * tokens]
            encoding = tokenizer.encode(piece)
            if len(encoding.ids) <= tokens + 8:
                continue
            text = piece[: encoding.offsets[tokens - 1][1]]
            if len(tokenizer.encode(text).ids) != tokens:
                continue
            found.append(Prompt(file.path, first + 1, text))
            free_from = first + text.count("\n") + 1
        drawn.append(found)
    turns = max(map(len, drawn), default=0)
    ordered = [found[turn] for turn in range(turns) for found in drawn if turn < len(found)]
    return sorted(ordered[:count], key=lambda prompt: (prompt.file, prompt.line))


def write_prompts(prompts: Iterable[Prompt], at: Path) -> None:
    """Write one JSON object a line."""
    lines = [json.dumps(asdict(prompt)) + "\n" for prompt in prompts]
    at.write_text("".join(lines), encoding="utf-8")


def read_prompts(at: Path) -> list[Prompt]:
    """Read what `write_prompts` wrote."""
    return [Prompt(**json.loads(line)) for line in at.read_text(encoding="utf-8").splitlines()]
