"""From the keys of a node to a typed op: one function an op."""

from __future__ import annotations

from nldc.diagnostics import InternalError
from nldc.ir.make.choices import (
    make_candidates,
    make_mix,
    make_noise,
    make_sample,
    make_score,
    make_select,
)
from nldc.ir.make.counts import make_leading
from nldc.ir.make.forward import make_forward
from nldc.ir.make.loops import make_denoise
from nldc.ir.make.rows import make_rows
from nldc.ir.make.safety import make_safety
from nldc.ir.make.tokens import (
    make_accept,
    make_fill,
    make_join,
    make_lookup,
    make_mask,
    make_recall,
)
from nldc.ir.reader import Made, Reader
from nldc.ir.scope import Scope
from nldc.schema import (
    AcceptOp,
    CandidatesOp,
    DenoiseOp,
    FillOp,
    ForwardOp,
    JoinOp,
    LeadingOp,
    LookupOp,
    MaskOp,
    MixOp,
    NoiseOp,
    OpModel,
    RecallOp,
    RowsOp,
    SafetyOp,
    SampleOp,
    ScoreOp,
    SelectOp,
)
from nldc.source import Path


def make(reader: Reader, path: Path, full: str, model: OpModel, scope: Scope) -> Made | None:
    """Return the op and its type, or None after adding what is wrong with it."""
    match model:
        case RowsOp():
            return make_rows(reader, path, full, model, scope)
        case ForwardOp():
            return make_forward(reader, path, model, scope)
        case SampleOp():
            return make_sample(reader, path, model, scope)
        case ScoreOp():
            return make_score(reader, path, model, scope)
        case SafetyOp():
            return make_safety(reader, path, model, scope)
        case NoiseOp():
            return make_noise(reader, path, full, model, scope)
        case SelectOp():
            return make_select(reader, path, model, scope)
        case MixOp():
            return make_mix(reader, path, model, scope)
        case LookupOp():
            return make_lookup(reader, path, model)
        case FillOp():
            return make_fill(reader, path, model, scope)
        case MaskOp():
            return make_mask(reader, path, model, scope)
        case JoinOp():
            return make_join(reader, (*path, "parts"), model.parts, scope, model.times)
        case CandidatesOp():
            return make_candidates(reader, path, model, scope)
        case RecallOp():
            return make_recall(reader, path, model, scope)
        case AcceptOp():
            return make_accept(reader, path, model, scope)
        case LeadingOp():
            return make_leading(reader, path, model, scope)
        case DenoiseOp():
            return make_denoise(reader, path, full, model, scope)
        case _:
            place = "CONTRIBUTING.md lists its places"
            raise InternalError(f"nldc/ir/make was not told of the op {model.op}: {place}")
