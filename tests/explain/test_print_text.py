"""The short explanation for a terminal: it fits, and a terminal obeys nothing in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nldc import api
from nldc.cost.device import load_device
from nldc.cost.geometry import load_geometry
from nldc.cost.step import Setting
from nldc.explain.build import explained
from nldc.explain.paint import clean
from nldc.explain.print_text import MOST_LINES, print_text
from tests.conftest import Golden
from tests.explain.told import hostile, told

GOLDEN = Path(__file__).parent / "golden"
COLOR = re.compile(r"\x1b\[[0-9;]*m")


@pytest.mark.parametrize("name", ["linear_ss", "quadratic_ss", "block_diffusion"])
def test_the_text_of_a_strategy_is_pinned(name: str, golden: Golden) -> None:
    found = told(name, merge=True, most=MOST_LINES)
    golden(GOLDEN / f"{name}.txt", print_text(found))


def test_the_text_with_costs_is_pinned(golden: Golden) -> None:
    setting = Setting(load_device("h100"), load_geometry("8b"))
    checked = api.check("linear_ss_adaptive", others=False)
    found = explained(checked, setting, most_lines=MOST_LINES, merge=True)
    golden(GOLDEN / "linear_ss_adaptive_h100.txt", print_text(found))


@pytest.mark.parametrize("room", [20, 40, 64, 80, 100])
@pytest.mark.parametrize("name", ["linear_ss", "lookahead", "linear_ss_tree", "slow_fast"])
def test_no_line_is_wider_than_there_is_room(name: str, room: int) -> None:
    text = print_text(told(name, merge=True, most=MOST_LINES), room=room)
    # The names of a table's columns may not be cut further.
    wide = [line for line in text.splitlines() if len(line) > max(room, 52)]
    assert wide == []


def test_colours_add_nothing_but_colours() -> None:
    found = told("quadratic_ss", merge=True, most=40)
    painted = print_text(found, colored=True)
    assert "\x1b[34m" in painted
    plain = [line.rstrip() for line in COLOR.sub("", painted).splitlines()]
    assert plain == [line.rstrip() for line in print_text(found).splitlines()]


def test_a_terminal_obeys_nothing_of_a_file() -> None:
    text = print_text(hostile(told("linear_ss", merge=True, most=40)))
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "\\x1b[31m" in text


def test_wide_characters_do_not_shift_a_picture() -> None:
    assert clean("a\u4e2db") == "a?b"


def test_a_graph_that_does_not_fit_is_listed() -> None:
    found = told("lookahead", merge=True, most=4)
    narrow = print_text(found, room=24)
    assert "  lines  rows: 8 x 1 to…\n" in narrow
    assert "╭" not in narrow
    assert "╭ lines" in print_text(found, room=80)
