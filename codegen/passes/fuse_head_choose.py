"""A head that is computed for one choice alone becomes part of it, so that a backend may do both.

So does one that is computed for a single score or mix.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

from nldc.codegen.program import Head, Loop, Method, Program, Use, changed, uses, walk


def fuse_head_choose(program: Program) -> Program:
    """Return the program in which only heads with several uses stand alone."""
    return replace(
        program,
        prefill=_fused(program.prefill),
        steps=tuple(_fused(step) for step in program.steps),
    )


def _fused(method: Method) -> Method:
    counts = Counter(use.register for each in walk(method.body) for use in uses(each))
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
