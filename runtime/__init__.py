"""What generated decoders import: backbone, cache, sampling, session. Knows no YAML.

The names below are loaded when first used, so that `nldc.runtime.abi`, `artifact` and `errors` can
be imported without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nldc.runtime.decoder import Decoder, Result, Score
    from nldc.runtime.engine.embeddings import PromptEmbeddings
    from nldc.runtime.engine.engine import Engine
    from nldc.runtime.engine.handover import Handover, Progress
    from nldc.runtime.engine.observe import SequenceStep, StepRecord
    from nldc.runtime.engine.options import GenerateOptions
    from nldc.runtime.engine.request import Event, Request
    from nldc.runtime.engine.stats import Stats
    from nldc.runtime.errors import (
        AdapterError,
        ArtifactError,
        BackendError,
        CheckpointError,
        NldcRuntimeError,
        OutOfMemoryError,
        PromptError,
        QueueFullError,
        TokenizerError,
    )
    from nldc.runtime.rows.layout import Layout
    from nldc.runtime.rows.pattern import Pattern, RowFacts
    from nldc.runtime.rows.table import Table
    from nldc.runtime.step import ops
    from nldc.runtime.step.batch import Batch
    from nldc.runtime.step.logprobs import TokenLogprob
    from nldc.runtime.step.params import Param, Worth
    from nldc.runtime.step.processors import sees_tokens
    from nldc.runtime.step.values import Emit, Hidden, Logits, Rows
    from nldc.runtime.switching import SwitchingDecoder
    from nldc.runtime.vision.picture import Picture, PicturePrompt

__all__ = [
    "AdapterError",
    "ArtifactError",
    "BackendError",
    "Batch",
    "CheckpointError",
    "Decoder",
    "Emit",
    "Engine",
    "Event",
    "GenerateOptions",
    "Handover",
    "Hidden",
    "Layout",
    "Logits",
    "NldcRuntimeError",
    "OutOfMemoryError",
    "Param",
    "Pattern",
    "Picture",
    "PicturePrompt",
    "Progress",
    "PromptEmbeddings",
    "PromptError",
    "QueueFullError",
    "Request",
    "Result",
    "RowFacts",
    "Rows",
    "Score",
    "SequenceStep",
    "Stats",
    "StepRecord",
    "SwitchingDecoder",
    "Table",
    "TokenLogprob",
    "TokenizerError",
    "Worth",
    "ops",
    "sees_tokens",
]

_HOME = {
    "AdapterError": "errors",
    "ArtifactError": "errors",
    "BackendError": "errors",
    "Batch": "step.batch",
    "CheckpointError": "errors",
    "Decoder": "decoder",
    "Emit": "step.values",
    "Engine": "engine.engine",
    "Event": "engine.request",
    "GenerateOptions": "engine.options",
    "Handover": "engine.handover",
    "Hidden": "step.values",
    "Layout": "rows.layout",
    "Logits": "step.values",
    "NldcRuntimeError": "errors",
    "OutOfMemoryError": "errors",
    "Param": "step.params",
    "Pattern": "rows.pattern",
    "Picture": "vision.picture",
    "PicturePrompt": "vision.picture",
    "Progress": "engine.handover",
    "PromptEmbeddings": "engine.embeddings",
    "PromptError": "errors",
    "QueueFullError": "errors",
    "Request": "engine.request",
    "Result": "decoder",
    "RowFacts": "rows.pattern",
    "Rows": "step.values",
    "Score": "decoder",
    "SequenceStep": "engine.observe",
    "Stats": "engine.stats",
    "StepRecord": "engine.observe",
    "SwitchingDecoder": "switching",
    "Table": "rows.table",
    "TokenLogprob": "step.logprobs",
    "TokenizerError": "errors",
    "Worth": "step.params",
    "sees_tokens": "step.processors",
}


def __getattr__(name: str) -> object:
    if name == "ops":
        return import_module(f"{__name__}.step.ops")
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
