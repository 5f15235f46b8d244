"""Prompt files with categories and turns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nldc.runtime.errors import PromptError
from nldc.suite import UNNAMED, Row, categories_of, read_rows


def rows_of(folder: Path, *lines: Any, count: int = 9, chat: bool = True) -> list[Row]:
    path = folder / "asked.jsonl"
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text(text, "utf-8")
    return read_rows(path, count, chat=chat)


def test_a_row_of_speed_bench_has_turns_and_a_category(tmp_path: Path) -> None:
    row = {
        "question_id": "7", "category": "math", "sub_category": "x", "turns": ["one", "two"],
        "source": "s", "src_id": "1", "difficulty": "easy", "multiturn": True,
    }  # fmt: skip
    assert rows_of(tmp_path, row) == [Row(None, ("one", "two"), "math")]


def test_other_rows_may_have_a_category_too(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "hello"}]
    found = rows_of(
        tmp_path, {"prompt": "a", "category": "x"}, {"messages": messages, "category": "y"}, "plain"
    )
    assert found == [Row("a", (), "x"), Row(messages, (), "y"), Row("plain")]
    assert categories_of(found) == ["x", "y", UNNAMED]


def test_without_categories_the_first_rows_are_taken(tmp_path: Path) -> None:
    found = rows_of(tmp_path, "a", "b", "c", count=2)
    assert categories_of(found) == [None, None]
    with pytest.raises(PromptError, match="has 3 prompts, not 4"):
        rows_of(tmp_path, "a", "b", "c", count=4)


def test_with_categories_so_many_of_each_are_taken(tmp_path: Path) -> None:
    lines = [{"prompt": f"{name}{n}", "category": name} for n in range(3) for name in "ab"]
    found = rows_of(tmp_path, *lines, {"prompt": "c0", "category": "c"}, count=2)
    assert [row.prompt for row in found] == ["a0", "b0", "a1", "b1", "c0"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"turns": []}, "asked.jsonl:1: turns are no list of 1 to 64 texts"),
        ({"turns": ["a", ""]}, "turns are no list"),
        ({"turns": ["a", 3]}, "turns are no list"),
        ({"turns": "a"}, "turns are no list"),
        ({"turns": ["a"] * 65}, "turns are no list"),
        ({"turns": ["a"], "prompt": "b"}, "has turns and another prompt"),
        ({"prompt": "a", "category": 3}, "asked.jsonl:1: category is 3"),
        ({"prompt": "a", "category": ""}, "category is ''"),
        ({"prompt": "a", "category": "\x1b[31m"}, "category is"),
    ],
)
def test_what_is_no_row_is_refused_at_its_place(tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(PromptError, match=message.replace("[", r"\[")):
        rows_of(tmp_path, row)


def test_turns_are_for_chat(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="is a conversation"):
        rows_of(tmp_path, {"turns": ["a"]}, chat=False)


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="has no prompts"):
        rows_of(tmp_path, "")
