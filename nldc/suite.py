"""A file of prompts in categories, of one turn or several, as SPEED-Bench has them.

A line is one that any prompt file may have (`nldc.prompts`), or a JSON object whose `turns` are a
user's messages, each answered before the next is asked. `category` may say of a line of JSON what
it belongs to; other keys (`question_id`, `sub_category`, `source`, ...) are passed over.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nldc.prompts import Prompt, folder_of, lines_of, prompt_of
from nldc.runtime.errors import PromptError

MOST_TURNS = 64
UNNAMED = "(none)"
"""The category of lines that name none, in a file where others do."""
_EXAMPLE = '{"category": "math", "turns": ["…", "…"]}'


@dataclass(frozen=True)
class Row:
    """A prompt, or the messages of a user, one a turn; its category, if it has one."""

    prompt: Prompt | None
    turns: tuple[str, ...] = ()
    category: str | None = None


def read_rows(path: str | Path, count: int, *, chat: bool) -> list[Row]:
    """Return the first `count` rows of a file; of one with categories, of each at most so many.

    Raises:
        PromptError: the file cannot be read, a line is no row, or there are not so many.
    """
    folder = folder_of(path)
    rows = [_row(line, place, folder, chat=chat) for line, place in lines_of(path)]
    if not rows:
        raise PromptError(f"{path} has no prompts", "write one prompt a line")
    if all(row.category is None for row in rows):
        if count > len(rows):
            raise PromptError(f"{path} has {len(rows)} prompts, not {count}", "lower the count")
        return rows[:count]
    seen: Counter[str | None] = Counter()
    chosen = []
    for row in rows:
        if seen[row.category] < count:
            chosen.append(row)
        seen[row.category] += 1
    return chosen


def _row(line: str, place: str, folder: Path, *, chat: bool) -> Row:
    data: Any = None
    if line.lstrip().startswith("{"):
        try:
            data = json.loads(line)
        except (ValueError, RecursionError):
            data = None
    if not isinstance(data, dict):
        return Row(prompt_of(line, place, folder, chat=chat))
    category = data.get("category")
    if category is not None and not _is_name(category):
        message = f"{place}: category is {category!r:.60}"
        raise PromptError(message, "give a short text, as in " + _EXAMPLE)
    if "turns" not in data:
        return Row(prompt_of(line, place, folder, chat=chat), (), category)
    if "prompt" in data or "messages" in data:
        raise PromptError(f"{place} has turns and another prompt", "give one of them")
    turns = data["turns"]
    if not _are_turns(turns):
        message = f"{place}: turns are no list of 1 to {MOST_TURNS} texts"
        raise PromptError(message, "write " + _EXAMPLE)
    if not chat:
        raise PromptError(f"{place} is a conversation", "ask for chat as well")
    return Row(None, tuple(turns), category)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 64 and value.isprintable()


def _are_turns(value: Any) -> bool:
    is_list = isinstance(value, list) and 0 < len(value) <= MOST_TURNS
    return is_list and all(isinstance(turn, str) and turn for turn in value)


def categories_of(rows: Sequence[Row]) -> list[str | None]:
    """Return the category of each row: all None where none has one."""
    if all(row.category is None for row in rows):
        return [None] * len(rows)
    return [row.category or UNNAMED for row in rows]
