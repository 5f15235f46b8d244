"""Triton's interpreter does much that changes nothing: here it is left out, or done once.

It exchanges its language for each launch and each call of a device function; to look through the
language for what is to be exchanged takes longer than what most functions do. It computes whether
whole numbers overflow and, unless it debugs, drops the answer. It lists numpy's types for each
question about one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from triton import language as tl
from triton.runtime import interpreter


class _Stays:
    def restore(self) -> None:
        """Put nothing back: a process that interprets does nothing else."""


def patch_once() -> None:
    """Let what is exchanged stay exchanged, and compute no answer that nobody hears."""
    patch, done = interpreter._patch_lang, set[int]()
    of_type, types = interpreter._get_np_dtype, dict[str, Any]()

    def once(function: Any) -> _Stays:
        held = function.__globals__.values()
        modules = {id(each) for each in held if each is tl or each is tl.core}
        if not modules <= done:
            patch(function)
            done.update(modules)
        return _Stays()

    def once_for_each(dtype: Any) -> Any:
        if dtype.name not in types:
            types[dtype.name] = of_type(dtype)
        return types[dtype.name]

    interpreter._patch_lang = once
    interpreter._get_np_dtype = once_for_each
    builder = interpreter.interpreter_builder
    if not builder.options.debug:
        builder.options = replace(builder.options, sanitize_overflow=False)
