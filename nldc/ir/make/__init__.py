"""From the keys of a node to a typed op: one function an op."""

from __future__ import annotations

from nldc.diagnostics import InternalError
from nldc.ir.make.choices import make_mix, make_sample, make_score, make_select
from nldc.ir.make.forward import make_forward
from nldc.ir.make.loops import make_denoise
from nldc.ir.make.rows import make_rows
from nldc.ir.make.tokens import make_accept, make_fill, make_join, make_lookup
from nldc.ir.reader import Made, Reader
from nldc.ir.scope import Scope
from nldc.schema import (
    AcceptOp,
    DenoiseOp,
    FillOp,
    ForwardOp,
    JoinOp,
    LookupOp,
    MixOp,
    OpModel,
    RowsOp,
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
        case SelectOp():
            return make_select(reader, path, model, scope)
        case MixOp():
            return make_mix(reader, path, model, scope)
        case LookupOp():
            return make_lookup(reader, path, model)
        case FillOp():
            return make_fill(reader, path, model, scope)
        case JoinOp():
            return make_join(reader, (*path, "parts"), model.parts, scope)
        case AcceptOp():
            return make_accept(reader, path, model, scope)
        case DenoiseOp():
            return make_denoise(reader, path, full, model, scope)
        case _:
            place = "CONTRIBUTING.md lists its places"
            raise InternalError(f"nldc/ir/make was not told of the op {model.op}: {place}")
