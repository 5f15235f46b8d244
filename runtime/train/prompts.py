"""Held-out prompts: beginnings of lines in held-out files, all of one length in tokens."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import accumulate
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
    files: Iterable[SourceFile], tokenizer: Tokenizer, tokens: int, count: int, per_file: int = 5
) -> list[Prompt]:
    """Return up to `count` prompts of exactly `tokens` tokens, at most `per_file` from one file.

    They are spread over each file, begin at lines that are not blank, and do not overlap. Pieces
    whose text, encoded by itself, has another number of tokens are passed over.
    """
    drawn: list[list[Prompt]] = []
    for file in files:
        found: list[Prompt] = []
        lines = file.text.splitlines(keepends=True)
        starts = [0, *accumulate(map(len, lines))]
        earliest = 0
        for number, line in enumerate(lines):
            if number < max(earliest, len(found) * len(lines) // per_file) or not line.strip():
                continue
            piece = file.text[starts[number] : starts[number] + 8 * tokens]
            encoding = tokenizer.encode(piece)
            if len(encoding.ids) <= tokens:
                continue
            text = piece[: encoding.offsets[tokens - 1][1]]
            if len(tokenizer.encode(text).ids) != tokens:
                continue
            found.append(Prompt(file.path, number + 1, text))
            earliest = number + text.count("\n") + 1
            if len(found) == per_file:
                break
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
