"""Decoders written by hand as generated code looks, and the golden cases to hold them against."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from nldc.runtime.decoder import Decoder
from nldc.runtime.rows.layout import Layout
from nldc.runtime.rows.pattern import Pattern, RowFacts
from nldc.runtime.rows.table import Table
from nldc.runtime.step import ops
from nldc.runtime.step.batch import Batch
from nldc.runtime.step.values import Emit

GOLDEN = Path(__file__).parent.parent / "golden_checkpoints"
CHECKPOINTS = sorted(path for path in GOLDEN.iterdir() if path.is_dir())
LAST = slice(-1, None)


def _causal(q: RowFacts, k: RowFacts) -> Tensor:
    return k.position <= q.position


def _bidirectional(_q: RowFacts, _k: RowFacts) -> bool:
    return True


DRAFT, MASK = 0, 1


def _quadratic(q: RowFacts, k: RowFacts) -> Tensor:
    drafted = (k.kind == DRAFT) & (k.group <= q.group)
    return k.prefix | drafted | ((k.kind == MASK) & (q.kind == MASK) & (k.group == q.group))


def _quadratic_start(q: RowFacts, k: RowFacts) -> Tensor:
    return (q.kind == MASK) | (k.position <= q.position)


CAUSAL = Pattern("causal", _causal, sees_prefix=True)
BIDIRECTIONAL = Pattern("bidirectional", _bidirectional, sees_prefix=True)
QUADRATIC = Pattern("quadratic", _quadratic, sees_prefix=True)
QUADRATIC_START = Pattern("quadratic_start", _quadratic_start, sees_prefix=True)
ONE = Layout.causal(1)


def block_layout(size: int) -> Layout:
    return Layout.causal(size, append=False, predicts_next=False)


def quadratic_layout(size: int) -> Layout:
    rows = [(DRAFT, i, 0, i) for i in range(size)]
    rows += [(MASK, i, 1 + j, i + 1 + j) for i in range(size) for j in range(size)]
    kind, group, index, offset = zip(*rows, strict=True)
    masked = [k == MASK for k in kind]
    return Layout.of(kind, group, index, range(len(rows)), offset, [not m for m in masked], size)


class Ar(Decoder):
    STRATEGY = "ar"

    def prefill(self, batch: Batch, prompt: Tensor) -> Emit:
        context = batch.forward(prompt, Layout.causal(prompt.shape[1]), CAUSAL)
        seed = batch.sample(batch.head(context.take(LAST)))
        return Emit(seed, carry={"seed": seed})

    def step(self, batch: Batch, carry: dict[str, Tensor]) -> Emit:
        choice = batch.sample(batch.head(batch.forward(carry["seed"], ONE, CAUSAL)))
        return Emit(choice, carry={"seed": choice})


class LinearSS(Decoder):
    STRATEGY = "linear_ss"
    ADAPTERS = ("drafter",)
    BLOCK = 4
    THRESHOLD = 0.0

    @property
    def SCRATCH_ROWS(self) -> int:  # type: ignore[override]  # noqa: N802
        return self.BLOCK

    def prefill(self, batch: Batch, prompt: Tensor) -> Emit:
        return Ar.prefill(self, batch, prompt)  # type: ignore[arg-type]

    def draft(self, batch: Batch, seed: Tensor) -> Tensor:
        layout = block_layout(self.BLOCK)
        block = ops.begun(ops.rows(batch, seed, self.BLOCK - 1))
        active = batch.everyone()
        for _ in batch.rounds(active, self.BLOCK - 1, least=1):
            seen = batch.forward(
                block.tokens, layout, BIDIRECTIONAL, adapter="drafter", active=active
            )
            logits = batch.head(seen)
            guess = batch.sample(logits)
            if self.THRESHOLD <= 0:
                where = block.masked
            else:
                score = batch.probability(logits, guess)
                where = ops.select(block.masked, score, at_least=self.THRESHOLD, always_best=1)
            ops.advance(active, block, ops.fill(block, where, guess))
            active &= ops.unfinished(batch, block)
        return block.tokens

    def step(self, batch: Batch, carry: dict[str, Tensor]) -> Emit:
        draft = self.draft(batch, carry["seed"])
        checked = batch.forward(draft, Layout.causal(self.BLOCK), CAUSAL)
        kept = ops.accept_longest_prefix(draft, batch.sample(batch.head(checked)), 1)
        return Emit(kept.tokens, kept.rows, kept.rows, {"seed": kept.bonus})


class QuadraticSS(Decoder):
    STRATEGY = "quadratic_ss"
    ADAPTERS = ("drafter",)
    BLOCK = 4
    AR_WEIGHT: float | None = None

    @property
    def SCRATCH_ROWS(self) -> int:  # type: ignore[override]  # noqa: N802
        return self.BLOCK * (self.BLOCK + 1)

    def prefill(self, batch: Batch, prompt: Tensor) -> Emit:
        size, length = self.BLOCK, prompt.shape[1]
        total = length + size
        masked = [False] * length + [True] * size
        layout = Layout.of(
            [-1] * length + [MASK] * size,
            [0] * total,
            range(total),
            range(total),
            range(total),
            [not m for m in masked],
            length,
        )
        block = ops.rows(batch, prompt, size)
        seen = batch.forward(
            block.tokens, layout, QUADRATIC_START, adapter="drafter", adapter_rows=masked
        )
        seed = batch.sample(batch.head(seen.take([length - 1])))
        rest = batch.sample(batch.head(seen.take(slice(length + 1, None))))
        return Emit(prompt[:, :0], carry={"draft": ops.join(seed, rest)})

    def step(self, batch: Batch, carry: dict[str, Tensor]) -> Emit:
        size = self.BLOCK
        layout = quadratic_layout(size)
        tokens = ops.rows(batch, carry["draft"], size * size).tokens
        seen = batch.forward(
            tokens,
            layout,
            QUADRATIC,
            adapter="drafter",
            adapter_rows=(layout.kind == MASK).tolist(),
        )
        logits = batch.head(seen.take(slice(0, size)))
        if self.AR_WEIGHT is not None:
            first = batch.head(seen.take([size + i * size for i in range(size)]))
            logits = batch.mix((logits, first), (self.AR_WEIGHT, 1 - self.AR_WEIGHT))
        kept = ops.accept_longest_prefix(carry["draft"], batch.sample(logits), 1)
        table = Table.of([[size + g * size + j for j in range(1, size)] for g in range(size)])
        masks = seen.gather(ops.choose_rows(table, kept.rows, 1))
        draft = ops.join(kept.bonus, batch.sample(batch.head(masks)))
        return Emit(kept.drafted, kept.rows, kept.rows, {"draft": draft})


class BlockDiffusion(Decoder):
    STRATEGY = "block_diffusion"
    BLOCK = 4
    THRESHOLD: float | None = 0.4
    STEPS = 2

    @property
    def SCRATCH_ROWS(self) -> int:  # type: ignore[override]  # noqa: N802
        return self.BLOCK

    def prefill(self, batch: Batch, prompt: Tensor) -> Emit:
        context = batch.forward(prompt, Layout.causal(prompt.shape[1]), CAUSAL, counted=False)
        seed = batch.sample(batch.head(context.take(LAST)))
        return Emit(prompt[:, :0], carry={"seed": seed})

    def step(self, batch: Batch, carry: dict[str, Tensor]) -> Emit:
        size = self.BLOCK
        layout = block_layout(size)
        block = ops.begun(ops.rows(batch, carry["seed"], size - 1))
        active = batch.everyone()
        for number in batch.rounds(active, size - 1, least=1, apart=True):
            seen = batch.forward(block.tokens, layout, BIDIRECTIONAL, active=active)
            logits = batch.head(seen)
            guess = batch.sample(logits)
            score = batch.probability(logits, guess)
            if self.THRESHOLD is None:
                share = (size - 1) // self.STEPS + (number < (size - 1) % self.STEPS)
                where = ops.select(block.masked, score, best=share)
            else:
                where = ops.select(block.masked, score, at_least=self.THRESHOLD, always_best=1)
            ops.advance(active, block, ops.fill(block, where, guess))
            active &= ops.unfinished(batch, block)
        context = batch.forward(block.tokens, Layout.causal(size), CAUSAL)
        seed = batch.sample(batch.head(context.take(LAST)))
        return Emit(block.tokens, carry={"seed": seed})


@dataclass(frozen=True)
class Case:
    folder: Path
    number: int
    prompt: list[int]
    max_new_tokens: int
    block_length: int
    modes: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.folder.name}.{self.number}"


def cases() -> Iterator[Case]:
    for folder in CHECKPOINTS:
        for number, case in enumerate(json.loads((folder / "expected.json").read_text())):
            yield Case(
                folder,
                number,
                case["prompt"],
                case["max_new_tokens"],
                case["block_length"],
                case["modes"],
            )


MODES: dict[str, tuple[type[Decoder], dict[str, str], bool]] = {
    "ar": (Ar, {}, False),
    "block_diffusion": (BlockDiffusion, {"threshold": "THRESHOLD"}, False),
    "block_diffusion_steps": (BlockDiffusion, {"steps": "STEPS"}, False),
    "linear_ss": (LinearSS, {}, False),
    "linear_ss_lora": (LinearSS, {}, True),
    "linear_ss_iterative": (LinearSS, {"threshold": "THRESHOLD"}, False),
    "quadratic_ss": (QuadraticSS, {}, False),
    "quadratic_ss_lora": (QuadraticSS, {}, True),
    "quadratic_ss_ensemble": (QuadraticSS, {"ar_weight": "AR_WEIGHT"}, False),
}


def decoder_for(case: Case, mode: str, **options: Any) -> Decoder:
    base, params, lora = MODES[mode]
    wanted = case.modes[mode]["params"]
    fields: dict[str, Any] = {params[name]: value for name, value in wanted.items()}
    if mode == "block_diffusion_steps":
        fields["THRESHOLD"] = None
    made = type(base.__name__, (base,), {"BLOCK": case.block_length, "KERNELS": True, **fields})
    options = {"adapter": "auto" if lora else None, "device": "cpu", "backend": "torch", **options}
    return made.from_checkpoint(case.folder, **options)
