"""Processors of logits as they are given: asked in one place, and held to their word.

One that is called with `(logits, positions)` decides by place alone. One that also wants the text
says so, by `sees_tokens`, and is called with `(logits, positions, tokens)`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from nldc.runtime.errors import NldcRuntimeError, PromptError
from nldc.runtime.step.sampling import Processor
from nldc.runtime.step.sight import UNSEEN, Sight

TokenProcessor = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Maps logits [B, n, V], positions [B, n] and tokens, int64 [B, n, length], to logits [B, n, V].

`tokens[b, i, p]` is the token at position p of the prompt and the text behind it, as row i saw it
when it was computed: -1 from its own position on, and where a token was not known yet.
"""
P = TypeVar("P", bound=Callable[..., Any])
_MARK = "sees_tokens"


def sees_tokens(processor: P) -> P:
    """Mark a processor as one that is called with `(logits, positions, tokens)`; a decorator."""
    setattr(processor, _MARK, True)
    return processor


def wants_tokens(processor: object) -> bool:
    """Whether a processor is called with the tokens, too."""
    return bool(getattr(processor, _MARK, False))


def ask(
    processors: Sequence[Processor | TokenProcessor],
    logits: Tensor,
    positions: Tensor,
    sight: Sight | None,
) -> Tensor:
    """Return what processors, one after another, make of the logits [B, n, V] of rows.

    `positions` [B, n] are what they are told of the rows, which saw `sight` of the text. Each gets
    copies of its own, which it may change.

    Raises:
        NldcRuntimeError: one of them fails, or returns something else.
    """
    seen: Tensor | None = None
    for processor in processors:
        given: tuple[Tensor, ...] = (logits.clone(), positions.clone())
        if wants_tokens(processor):
            if seen is None:
                seen = _text(sight, positions)
            given = (*given, seen.clone())
        try:
            found: object = processor(*given)
        except NldcRuntimeError:
            raise
        except Exception as problem:
            raise PromptError(
                f"{_named(processor)} fails: {type(problem).__name__}: {problem}",
                f"it was given logits {list(logits.shape)} and positions {list(positions.shape)}",
            ) from problem
        _check(processor, logits, found)
        assert isinstance(found, Tensor)
        logits = found
    return logits


def _text(sight: Sight | None, positions: Tensor) -> Tensor:
    """Return the text as rows at these positions saw it, and nothing from those on."""
    if sight is None:
        raise PromptError("these rows have no text that a processor could see", None)
    text = sight.text()
    place = torch.arange(text.shape[2], device=text.device)
    return text.masked_fill(place >= positions.unsqueeze(2), UNSEEN)


def _check(processor: object, logits: Tensor, found: object) -> None:
    """Raise PromptError unless a processor returned logits like those that it was given."""
    wanted = f"logits {list(logits.shape)} of {logits.dtype} on {logits.device}"
    if not isinstance(found, Tensor):
        raise PromptError(
            f"{_named(processor)} returned {type(found).__name__}", f"return {wanted}"
        )
    if (found.shape, found.dtype, found.device) != (logits.shape, logits.dtype, logits.device):
        what = f"a tensor {list(found.shape)} of {found.dtype} on {found.device}"
        raise PromptError(f"{_named(processor)} returned {what}", f"return {wanted}")


def _named(processor: object) -> str:
    name = getattr(processor, "__name__", None) or type(processor).__name__
    return f"the processor `{name}`"
