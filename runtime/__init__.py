"""What generated decoders import: backbone, cache, sampling, session. Knows no YAML.

The names below are loaded when first used, so that `nldc.runtime.abi`, `artifact` and `errors` can
be imported without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nldc.runtime.attention import Pattern, RowFacts
    from nldc.runtime.batch import Batch, Emit, Hidden, Logits, Rows
    from nldc.runtime.decoder import Decoder, Result
    from nldc.runtime.embeddings import PromptEmbeddings
    from nldc.runtime.errors import (
        AdapterError,
        ArtifactError,
        BackendError,
        CheckpointError,
        NldcRuntimeError,
        OutOfMemoryError,
        PromptError,
        TokenizerError,
    )
    from nldc.runtime.handover import Handover, Progress
    from nldc.runtime.layout import Layout
    from nldc.runtime.processors import sees_tokens
    from nldc.runtime.stats import Stats
    from nldc.runtime.switching import SwitchingDecoder

__all__ = [
    "AdapterError",
    "ArtifactError",
    "BackendError",
    "Batch",
    "CheckpointError",
    "Decoder",
    "Emit",
    "Handover",
    "Hidden",
    "Layout",
    "Logits",
    "NldcRuntimeError",
    "OutOfMemoryError",
    "Pattern",
    "Progress",
    "PromptEmbeddings",
    "PromptError",
    "Result",
    "RowFacts",
    "Rows",
    "Stats",
    "SwitchingDecoder",
    "TokenizerError",
    "sees_tokens",
]

_HOME = {
    "AdapterError": "errors",
    "ArtifactError": "errors",
    "BackendError": "errors",
    "Batch": "batch",
    "CheckpointError": "errors",
    "Decoder": "decoder",
    "Emit": "batch",
    "Handover": "handover",
    "Hidden": "batch",
    "Layout": "layout",
    "Logits": "batch",
    "NldcRuntimeError": "errors",
    "OutOfMemoryError": "errors",
    "Pattern": "attention",
    "Progress": "handover",
    "PromptEmbeddings": "embeddings",
    "PromptError": "errors",
    "Result": "decoder",
    "RowFacts": "attention",
    "Rows": "batch",
    "Stats": "stats",
    "SwitchingDecoder": "switching",
    "TokenizerError": "errors",
    "sees_tokens": "processors",
}


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
