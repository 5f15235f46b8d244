"""A block diffusion strategy with its attributes open, and a checkpoint as the interpreter's model.

The mask token of the checkpoint is one that it often chooses, so that every attribute matters.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from nldc.interpret import Choose, Entry, View
from nldc.runtime import Decoder
from nldc.runtime.reference.attention import over
from nldc.runtime.reference.backbone import PlainBackbone
from nldc.runtime.step.sampling import Sampling, choose, filtered

CHECKPOINT = Path(__file__).parent.parent / "golden_checkpoints" / "random-1"

SEEDED = """nldc: 1
name: seeded
summary: A block with its attributes open.
guarantee: none
prefill:
  context: {{op: forward, tokens: $prompt, attention: causal, cache: append, counted: false}}
  seed:    {{op: sample, logits: context.last}}
carry: {{seed: prefill.seed}}
step:
  block: {{op: rows, segments: [{{tokens: seed}}, {{masks: 5}}]{rows}}}
  filled:
    op: repeat
    on: block
    until: full
    at_least: {at_least}
    at_most: {at_most}{repeat}
    body:
      seen:  {{op: forward, tokens: block, attention: bidirectional, cache: read}}
      pick:  {{op: sample, logits: seen{sample}}}
      sure:  {{op: score, logits: seen, {by}{score}}}
      take:  {{op: select, among: block.masked, score: sure, {rule}, always: best 1}}
      block: {{op: fill, rows: block, where: take, tokens: pick}}
{later}  refresh: {{op: forward, tokens: {last}, attention: causal, cache: append}}
  after:   {{op: sample, logits: refresh.last}}
  emit:    {{tokens: {last}, cache: keep all, next: {{seed: after}}}}
"""

KEPT = """nldc: 1
name: kept
summary: Blocks without a seed whose keys are those of their last forward.
guarantee: none
prefill:
  context: {op: forward, tokens: $prompt, attention: causal, cache: append, counted: false}
step:
  block:  {op: rows, segments: [{masks: 5}]}
  filled:
    op: denoise
    rows: block
    attention: bidirectional
    commit: {confidence: THRESHOLD}
    keys: kept
  emit:   {tokens: filled, cache: keep all}
"""


def seeded(
    *,
    rows: str = "",
    repeat: str = "",
    sample: str = "",
    score: str = "",
    by: str = "tokens: pick, by: probability",
    rule: str = "at_least: 0.7",
    at_most: int = 6,
    at_least: int = 1,
    later: str = "",
) -> str:
    """Return the strategy with what is written added to its nodes.

    `later` is a node after the loop, and its rows are then the block.
    """
    return SEEDED.format(
        rows=f", {rows}" if rows else "",
        repeat=f"\n    {repeat}" if repeat else "",
        sample=f", {sample}" if sample else "",
        score=f", {score}" if score else "",
        by=by,
        rule=rule,
        at_most=at_most,
        at_least=at_least,
        later=f"  {later}\n" if later else "",
        last=later.split(":")[0] or "filled",
    )


def with_mask_token(folder: Path, token: int) -> Path:
    """Return a copy of the checkpoint in which `token` is the mask token."""
    shutil.copytree(CHECKPOINT, folder)
    config = json.loads((CHECKPOINT / "config.json").read_text(encoding="utf-8"))
    config["mask_token_id"] = token
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@dataclass
class Reference:
    """The plain backbone on a decoder's checkpoint: every entry ever made, under a dense mask.

    Of adapters, one at most is used.
    """

    decoder: Decoder
    eos: tuple[int, ...]

    def __post_init__(self) -> None:
        self.vocabulary = self.decoder.config.vocab_size
        self.mask_token_id = self.decoder.config.mask_token_id
        assert self.decoder.folder is not None
        dtype = self.decoder.model.backbone.dtype
        self.plain = PlainBackbone.load(self.decoder.folder, dtype)

    @torch.inference_mode()
    def logits(self, entries: Sequence[Entry]) -> Sequence[Sequence[float]]:
        """Return the logits of every entry."""
        plain = self.plain
        sees = torch.zeros(len(entries), len(entries), dtype=torch.bool)
        for number, entry in enumerate(entries):
            sees[number, list(entry.sees)] = True
        (name,) = {entry.adapter for entry in entries if entry.adapter} or {""}
        states = plain.forward(
            plain.embed(torch.tensor([entry.token for entry in entries])),
            torch.tensor([entry.position for entry in entries]),
            over(sees, plain.dtype),
            self.decoder.model.adapters.get(name),
            torch.tensor([entry.adapter == name for entry in entries]),
        )
        logits: list[list[float]] = plain.head(states).tolist()
        return logits


def sampled(options: Sampling, sequence: int) -> tuple[Choose, dict[str, View]]:
    """Return what the interpreter needs to sample as the runtime does."""
    keys = torch.tensor([sequence])

    def pick(logits: Sequence[float], position: int) -> int:
        row = torch.tensor([[list(logits)]], dtype=torch.float64)
        return int(choose(row, torch.tensor([[position]]), keys, options))

    def processed(logits: Sequence[float], position: int) -> Sequence[float]:
        del position
        row = torch.tensor(list(logits), dtype=torch.float64)
        if not options.temperature:
            return logits
        values: list[float] = filtered(row, options).tolist()
        return values

    def left(logits: Sequence[float], position: int) -> Sequence[float]:
        drawn = processed(logits, position)
        return [
            old if math.isfinite(new) else -math.inf for old, new in zip(logits, drawn, strict=True)
        ]

    return pick, {"processed": processed, "filtered": left}
