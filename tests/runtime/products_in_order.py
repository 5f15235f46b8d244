"""Products whose terms are added one after another, as tensor cores add them.

Triton's interpreter takes numpy's product, whose order depends on the shape of a tile.
"""

from __future__ import annotations

from typing import Any

import pytest


def add_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the interpreter's products add their terms in order."""
    from triton.runtime import interpreter

    def create_dot(_self: Any, a: Any, b: Any, d: Any, *_options: Any) -> Any:
        total = d.data.copy()
        for term in range(a.data.shape[1]):
            total += a.data[:, term : term + 1] * b.data[term : term + 1]
        return interpreter.TensorHandle(total, d.dtype.scalar)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)
