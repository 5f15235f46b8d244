"""Triton's interpreter exchanges its language at every call of a device function; once will do.

To look through the language for what is to be exchanged takes longer than what most functions do.
"""

from __future__ import annotations

from typing import Any

from triton import language as tl
from triton.runtime import interpreter


def patch_once() -> None:
    """Let what a launch has exchanged stay so until it ends, and not be looked for in between."""
    patch = interpreter._patch_lang
    done = set[int]()

    def once(function: Any) -> Any:
        held = function.__globals__.values()
        modules = {id(each) for each in held if each is tl or each is tl.core}
        if modules <= done:
            return None  # a call within a launch: what it gets is not put back
        scope = patch(function)
        if not done and hasattr(scope, "restore"):
            restore = scope.restore

            def restore_all() -> None:
                done.clear()
                restore()

            scope.restore = restore_all
        done.update(modules)
        return scope

    interpreter._patch_lang = once
