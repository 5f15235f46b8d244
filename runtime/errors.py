"""Mistakes that a user of a generated decoder can make, each with what would put it right.

NldcRuntimeError
├── CheckpointError   the model's folder: config.json, tensors, dtype
├── AdapterError      the LoRA folder, or an adapter that does not fit the model
├── TokenizerError    tokenizer.json, the chat template
├── PromptError       prompts and options of `generate` and `stream`
├── QueueFullError    an engine whose queue has no place for one more request
├── BackendError      a device or kernel backend that cannot run here
├── OutOfMemoryError  the machine or the device has no room for what is asked
├── ProfileError      a device's figures, or a profile of what a strategy accepts
├── TraceError        a trace of a run, or two runs that cannot be compared
└── ArtifactError     the generated folder: other compiler version, edited by hand
"""

from __future__ import annotations

LONGEST = 1200
"""Characters of a message; what it quotes of a file may be of any length."""
_NO_MEMORY = ("can't allocate memory", "cannot allocate", "not enough memory", "out of memory")


def _shortened(text: str) -> str:
    half = LONGEST // 2
    return text if len(text) <= LONGEST else f"{text[:half]} … {text[-half:]}"


class NldcRuntimeError(Exception):
    """A mistake with a one-sentence `message` and, if there is one, a `hint` that helps."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        message = _shortened(message)
        super().__init__(message if hint is None else f"{message} ({hint})")
        self.message = message
        self.hint = hint


class CheckpointError(NldcRuntimeError):
    """The checkpoint is missing, damaged, or not of the model that its config describes."""


class CheckpointWarning(UserWarning):
    """A checkpoint can be loaded, but something in it was passed over that may matter."""


class GraphWarning(UserWarning):
    """A step could not be captured as a graph, or did something else then: it is launched anew."""


class AdapterError(NldcRuntimeError):
    """The adapter is missing, damaged, or made for another model."""


class TokenizerError(NldcRuntimeError):
    """The tokenizer or the chat template is missing or damaged."""


class PromptError(NldcRuntimeError):
    """A prompt or an option of generation that cannot be used."""


class QueueFullError(NldcRuntimeError):
    """So many requests wait for an engine that it takes no more now."""


class BackendError(NldcRuntimeError):
    """The device or the kernel backend asked for cannot run here."""


class OutOfMemoryError(NldcRuntimeError):
    """The machine or the device has no room for what was asked for."""


class ProfileError(NldcRuntimeError):
    """Figures of a device, or a profile of what a strategy accepts, that cannot be used."""


class TraceError(NldcRuntimeError):
    """A trace that cannot be read or written, or that is not of what it is held against."""


class ArtifactError(NldcRuntimeError):
    """The generated folder is damaged, edited, or made by another version of the compiler."""


def is_out_of_memory(problem: BaseException) -> bool:
    """Whether what was raised says that there is no memory, on the machine or the device."""
    if isinstance(problem, MemoryError) or type(problem).__name__ == "OutOfMemoryError":
        return True
    text = str(problem).lower()
    return isinstance(problem, RuntimeError) and any(words in text for words in _NO_MEMORY)
