"""Whole numbers that callers give, of whatever kind: Python's, numpy's, torch's."""

from __future__ import annotations

import operator

import torch
from torch import Tensor

from nldc.runtime.errors import PromptError


def as_whole(value: object) -> int | None:
    """Return a whole number as an int; None: it is something else, such as a truth value."""
    if isinstance(value, bool) or type(value).__name__ in ("bool_", "bool"):
        return None
    if isinstance(value, Tensor) and (value.dim() or value.dtype == torch.bool):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def whole(value: object, name: str, known: range, hint: str) -> int:
    """Return a whole number within its range; raise PromptError where it is something else."""
    number = as_whole(value)
    if number is None or number not in known:
        raise PromptError(f"{name} {shown(value)} is not allowed", hint)
    return number


def shown(value: object) -> str:
    """Return a value as messages show it: short, and whatever its `repr` does."""
    try:
        text = repr(value)
    except Exception:
        text = f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:60]} … ({type(value).__name__})"
