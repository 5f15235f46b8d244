"""Triton's interpreter exchanges its language for each launch and each call of a device function.

To look through the language for what is to be exchanged takes longer than what most functions do.
"""

from __future__ import annotations

from typing import Any

from triton import language as tl
from triton.runtime import interpreter


class _Stays:
    def restore(self) -> None:
        """Put nothing back: a process that interprets does nothing else."""


def patch_once() -> None:
    """Let what is exchanged stay exchanged, and not be looked for again."""
    patch, done = interpreter._patch_lang, set[int]()

    def once(function: Any) -> _Stays:
        held = function.__globals__.values()
        modules = {id(each) for each in held if each is tl or each is tl.core}
        if not modules <= done:
            patch(function)
            done.update(modules)
        return _Stays()

    interpreter._patch_lang = once
