"""What ends one request early, in words."""

from __future__ import annotations

from nldc.runtime.engine.request import Request
from nldc.runtime.errors import (
    CheckpointError,
    NldcRuntimeError,
    OutOfMemoryError,
    PromptError,
    is_out_of_memory,
)
from nldc.runtime.step.sampling import NOTHING_ALLOWED

BOOKS = ("nldc.runtime.cache.", "nldc.runtime.step.state", "nldc.runtime.step.carry")


def in_words(problem: BaseException) -> BaseException:
    """Return what a request ends with: memory that ran out says so, whoever ran out of it."""
    if isinstance(problem, NldcRuntimeError):
        return problem
    if not isinstance(problem, Exception):
        name = type(problem).__name__
        said = NldcRuntimeError(
            f"decoding was interrupted by {name} where it cannot be taken up again",
            "what came before stands; submit the rest as a request of its own",
        )
    elif is_out_of_memory(problem):
        lines = str(problem).strip().splitlines()
        said = OutOfMemoryError(
            f"there is not enough memory: {lines[0] if lines else 'what was asked is too large'}",
            "use a smaller batch_size, shorter prompts, or a smaller dtype",
        )
    else:
        return problem
    said.__cause__ = problem
    return said


def tears_the_books(problem: BaseException) -> bool:
    """Whether an interrupt struck where the books of the cache or of steps are written."""
    trace = problem.__traceback__
    while trace is not None:
        module = trace.tb_frame.f_globals.get("__name__", "")
        if module.startswith(BOOKS):
            return True
        trace = trace.tb_next
    return False


def without_token(request: Request, code: int) -> NldcRuntimeError:
    """Return the error that ends a sequence whose next token could not be chosen."""
    number = len(request.tokens)
    processed = bool(request.sampling.processors)
    if code == NOTHING_ALLOWED and processed:
        return PromptError(
            f"the processors allow no token at all for prompt {request.place}, token {number}",
            "leave at least one logit above -inf",
        )
    after = "" if number == 0 else f" after {number} tokens"
    return CheckpointError(
        f"the model's logits for prompt {request.place} are no numbers{after}",
        "the weights are damaged, or too large for this dtype: try bfloat16 or float32"
        + ("; or a processor made them so" if processed else ""),
    )
