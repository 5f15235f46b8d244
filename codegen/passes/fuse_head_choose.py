"""A head that is computed for one choice alone becomes part of it, so that a backend may do both.

So do the raw scores that are computed beside it, where nobody else reads the head. A head that is
computed for a single score or mix becomes part of that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from nldc.codegen.program import (
    Choose,
    ChooseScored,
    Head,
    Instruction,
    Loop,
    Method,
    Program,
    RawScore,
    Score,
    Use,
    changed,
    uses,
    walk,
    writes,
)


def fuse_head_choose(program: Program) -> Program:
    """Return the program in which only heads with several uses stand alone."""
    return replace(
        program,
        prefill=_fused(_scored(program.prefill)),
        steps=tuple(_fused(_scored(step)) for step in program.steps),
    )


def _fused(method: Method) -> Method:
    counts = _counts(method)
    alone = {
        each.name: each.of
        for each in walk(method.body)
        if isinstance(each, Head) and counts[each.name] == 1
    }

    def change(part: Any) -> Any:
        if isinstance(part, Use) and part.register in alone:
            return alone[part.register]
        if isinstance(part, Method | Loop):
            left = (each for each in part.body if each.name not in alone)
            return replace(part, body=tuple(left))
        return part

    fused: Method = changed(method, change)
    return fused


def _scored(method: Method) -> Method:
    """Return the method in which a choice and the raw scores of its head are one instruction."""
    counts = _counts(method)

    def change(part: Any) -> Any:
        if not isinstance(part, Method | Loop):
            return part
        body = part.body
        for place, head in enumerate(part.body):
            if isinstance(head, Head):
                readers = [each for each in body if _reads(each, head.name)]
                one = _together(head, readers, part.body[place:])
                if one is not None and len(readers) == counts[head.name]:
                    kept = [one if each is head else each for each in body if each not in readers]
                    body = tuple(kept)
        return replace(part, body=body)

    scored: Method = changed(method, change)
    return scored


def _together(
    head: Head, readers: Sequence[Instruction], behind: Sequence[Instruction]
) -> ChooseScored | None:
    """Return what a head and its readers are together, if they are one choice and raw scores.

    It stands in the head's place: what is given to scores must be known before those `behind`.
    """
    choices = [each for each in readers if isinstance(each, Choose)]
    scores = [each for each in readers if isinstance(each, Score) and each.of == "raw"]
    counted = {each.mask_token for each in scores}
    if len(choices) != 1 or len(choices) + len(scores) != len(readers) or len(counted) != 1:
        return None
    (choice,), (mask_token_scored,) = choices, counted
    given = {each.tokens for each in scores if each.tokens is not None}
    if len(given) > 1:
        return None
    tokens = next(iter(given), None)
    if tokens == Use(choice.name):
        tokens = None
    written = {name for each in behind for name in writes(each)}
    if not written.isdisjoint(use.register for use in uses(tokens)):
        return None
    return ChooseScored(
        choice.name,
        choice.origin,
        head.of,
        tuple(RawScore(each.name, each.origin, each.by) for each in scores),
        tokens,
        choice.mask_token,
        mask_token_scored,
        choice.temperature,
    )


def _reads(each: Instruction, register: str) -> bool:
    return any(use.register == register for use in uses(each))


def _counts(method: Method) -> Counter[str]:
    return Counter(use.register for each in walk(method.body) for use in uses(each))
