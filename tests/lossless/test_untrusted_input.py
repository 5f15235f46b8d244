"""A strategy file is untrusted: it is refused, or what is made of it is plain."""

from __future__ import annotations

import contextlib
import time

import pytest

from nldc.diagnostics import StrategyError
from nldc.expr import ExprError, parse
from nldc.reuse import parse as parse_source
from tests.lossless.fuzz import HOSTILE, accepted, run
from tests.lossless.mutants import base_text, built


def test_whatever_comes_in_is_answered() -> None:
    tally = run(300)
    assert tally.tried["strategy"] == 100
    assert tally.taken["strategy"] > 2


@pytest.mark.long
def test_whatever_comes_in_is_answered_thousands_of_times() -> None:
    run(30_000, seed=1)


@pytest.mark.parametrize("text", HOSTILE)
def test_what_tries_to_escape_is_text_or_refused(text: str) -> None:
    start = time.process_time()
    with contextlib.suppress(ExprError):
        parse(text)
    quoted = (
        text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    )
    assert accepted(base_text("ar").replace("One causal forward a token", f"{quoted} x")) in (
        True,
        False,
    )
    named = base_text("ar").replace("summary: ", f'summary: "{quoted}" #')
    assert accepted(named) in (True, False)
    assert time.process_time() - start < 5


def test_params_that_make_a_layout_of_a_million_rows_are_refused_at_once() -> None:
    text = base_text("quadratic_ss").replace("max: 32", "max: 4000")
    start = time.process_time()
    with pytest.raises(ValueError, match="rows"):
        built(text, {"block_length": 2000})
    assert time.process_time() - start < 2


def test_a_yaml_bomb_is_refused_at_once() -> None:
    bomb = "a: &a [x, x, x]\n" + "".join(f"{n}: &{n} [*a, *a, *a]\n" for n in "bcdefghij")
    start = time.process_time()
    with pytest.raises(StrategyError):
        parse_source(bomb)
    with pytest.raises(StrategyError):
        parse_source("[" * 5000)
    with pytest.raises(StrategyError):
        parse_source("x: " + "y" * 400_000)
    assert time.process_time() - start < 2
