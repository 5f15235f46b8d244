"""A hundred requests through one engine; `many_requests` sends any number."""

from __future__ import annotations

import re
from dataclasses import replace
from random import Random

import pytest
from many_requests import Answer, DifferenceError, Held, Run, check_nothing_is_left, run

from nldc.runtime import Decoder, Engine


def test_a_hundred_requests_give_what_each_gives_alone_and_leave_nothing() -> None:
    said = run(110, seed=3, pool=40, say=lambda _: None)
    assert "110 requests as alone" in said
    for end in ("length", "stop", "cancelled", "error"):
        assert f" {end}" in said


@pytest.mark.parametrize(
    ("count", "pool"), [(60, 4), pytest.param(500, 100, marks=pytest.mark.long)]
)
def test_requests_whose_steps_overlap_give_what_each_gives_alone(count: int, pool: int) -> None:
    said = run(count, seed=5, pool=pool, say=lambda _: None, graphs=True)
    assert f"{count} requests as alone" in said
    overlapped = re.search(r"(\d+) overlapped", said)
    assert overlapped is not None
    assert int(overlapped[1]) > count / 12


def test_a_difference_and_a_leak_are_found(decoder: Decoder, engine: Engine) -> None:
    from many_requests import Asked, lone

    from nldc.runtime import GenerateOptions

    asked = [Asked([3, 4], GenerateOptions(max_new_tokens=6, eos=()))]
    right = lone(decoder, asked[0])
    Run(decoder, engine, asked, [right], Random(0), lambda _: None)([0] * 8)
    for wrong in (
        replace(right, tokens=(*right.tokens[:-1], 0)),
        replace(right, text="x"),
        replace(right, finish="stop"),
        replace(right, nfe=1),
        Answer((), "", "error", 0, "KeyError: 1"),
    ):
        with pytest.raises(DifferenceError):
            Run(decoder, decoder.new_engine(), asked, [wrong], Random(0), lambda _: None)([0] * 8)
    held = Held(10, 1, 100.0)
    check_nothing_is_left(engine, held, held)
    for more in (Held(51, 1, 100.0), Held(10, 2, 100.0), Held(10, 1, 300.0)):
        with pytest.raises(DifferenceError, match="left when all was done: 1"):
            check_nothing_is_left(engine, held, more)
    engine.submit(decoder.request([3], max_new_tokens=5, eos=()))
    engine.step()
    with pytest.raises(DifferenceError, match="1 live sequences, 1 slots, 1 pages"):
        check_nothing_is_left(engine, held, held)
