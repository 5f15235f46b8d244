"""Scores of a trained sampler."""

from __future__ import annotations

from nldc.ir import ops
from nldc.ir.make.forward import declares
from nldc.ir.reader import WRONG_SIZE, Made, Reader, size_of
from nldc.ir.scope import Scope
from nldc.ir.types import Logits, Rows, Scores, Unknown
from nldc.schema import SafetyOp
from nldc.source import Path


def make_safety(reader: Reader, path: Path, model: SafetyOp, scope: Scope) -> Made | None:
    """Scores from logits and the rows that they are of."""
    logits = reader.reference((*path, "logits"), model.logits, scope, Logits)
    rows = reader.reference((*path, "rows"), model.rows, scope, Rows)
    if not declares(reader, model.sampler, "sampler", (*path, "sampler")):
        return None
    if logits is None or rows is None or isinstance(logits[1], Unknown):
        return None
    if isinstance(rows[1], Unknown):
        return None
    if not reader.same_size(path, ("logits", logits), ("rows", rows)):
        return None
    if size_of(logits[1]).prompts:
        reader.error(
            WRONG_SIZE, "a sampler knows blocks, whose length is known", (*path, "logits"),
            f"this is {logits[1]}",
        )  # fmt: skip
        return None
    return ops.Safety(logits[0], rows[0], model.sampler), Scores(size_of(logits[1]), "safety")
