"""Prompts from files, from checkpoints and from the stock."""

from __future__ import annotations

from pathlib import Path

import pytest

from nldc.prompts import HELD_OUT, STOCK, choose_prompts, parse_ids, read_prompts
from nldc.runtime.errors import PromptError


def test_a_line_is_text_or_ids_or_json_with_a_prompt(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text(
        'plain text\n\n[1, 2]\n{"file": "a.py", "prompt": "def f"}\n{"prompt": [3]}\n{odd\n'
    )
    assert read_prompts(path) == ["plain text", [1, 2], "def f", [3], "{odd"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "has no prompts"),
        (b"\xff", "is not UTF-8 text"),
        (b'ok\n{"text": "a"}\n', ":2 is no prompt"),
        (b"[1, true]\n", ":1 is no prompt"),
    ],
)
def test_a_file_without_prompts_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes(data)
    with pytest.raises(PromptError, match=message):
        read_prompts(path)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="No such file"):
        read_prompts(tmp_path / "none")


def test_ids_are_separated_by_commas_or_spaces() -> None:
    assert parse_ids("1,17, 42 3") == [1, 17, 42, 3]


@pytest.mark.parametrize("text", ["", "1,x", "-1", "1.5", "9" * 30, "٣"])
def test_what_is_no_list_of_ids_is_refused(text: str) -> None:
    with pytest.raises(PromptError):
        parse_ids(text)


def test_a_file_with_too_few_prompts_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("a\nb\n")
    assert choose_prompts(path, 2, tmp_path, None) == ["a", "b"]
    with pytest.raises(PromptError, match="has 2 prompts, not 3"):
        choose_prompts(path, 3, tmp_path, None)


def test_held_out_prompts_of_the_checkpoint_are_spread(tmp_path: Path) -> None:
    lines = [f'{{"prompt": "p{n}"}}\n' for n in range(10)]
    (tmp_path / HELD_OUT).write_text("".join(lines))
    assert choose_prompts(None, 5, tmp_path, None) == ["p0", "p2", "p4", "p6", "p8"]
    assert len(choose_prompts(None, 12, tmp_path, None)) == 12


def test_without_any_prompts_the_stock_is_used_again_and_again(tmp_path: Path) -> None:
    found = choose_prompts(None, len(STOCK) + 1, tmp_path, None)
    assert found == [*STOCK, STOCK[0]]


def test_without_a_tokenizer_prompts_are_the_same_random_ids_every_time(tmp_path: Path) -> None:
    found = choose_prompts(None, 4, tmp_path, 50)
    assert found == choose_prompts(None, 4, tmp_path, 50)
    assert all(0 <= token < 50 for prompt in found for token in prompt)
