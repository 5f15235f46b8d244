"""Measure a checkpoint on its held-out prompts: the tables of docs/demo-model.md."""

from dataclasses import dataclass
from pathlib import Path

import torch

from nldc.runtime.abi import ADAPTER_FOLDER
from nldc.runtime.checkpoint.adapter import Adapter
from nldc.runtime.reference.backbone import PlainBackbone, plain
from nldc.runtime.train.evaluate import (
    Acceptance,
    continue_greedily,
    draft_everywhere,
    repeats,
    walk_linear,
    walk_quadratic,
)
from nldc.runtime.train.loop import keep_freed_memory
from nldc.runtime.train.prompts import read_prompts
from nldc.runtime.train.tokenizer import load_tokenizer


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        mode: How drafts are made.
        block_length: Rows of a block.
        every: Acceptance over all prompts.
        others: Acceptance over those whose continuation does not end in a loop.
    """

    mode: str
    block_length: int
    every: Acceptance
    others: Acceptance


@dataclass(frozen=True)
class Report:
    """All lines, and the share of continuations that end in a loop."""

    rows: tuple[Row, ...]
    prompts: int
    repeating: float


def measure(
    checkpoint: Path,
    new_tokens: int = 128,
    lengths: tuple[int, ...] = (8, 16, 32),
    precision: torch.dtype = torch.float32,
    limit: int | None = None,
) -> Report:
    """Measure linear and quadratic self-speculation, without and with the drafter if there is one.

    Loops are easy to draft, so every line also counts the prompts whose continuation ends in none.

    Args:
        checkpoint: A folder with weights, tokenizer and `heldout.jsonl`.
        new_tokens: Greedy tokens a prompt.
        lengths: Block lengths.
        precision: The compute dtype.
        limit: Use only the first so many prompts.

    Raises:
        ValueError: if the prompts are not all of one length in tokens.
    """
    keep_freed_memory()
    backbone = PlainBackbone.load(checkpoint, precision)
    tokenizer = load_tokenizer(checkpoint)
    prompts = [
        tokenizer.encode(prompt.prompt).ids for prompt in read_prompts(checkpoint / "heldout.jsonl")
    ][:limit]
    if len({len(prompt) for prompt in prompts}) != 1:
        raise ValueError("the held-out prompts are not all of one length")
    length = len(prompts[0])
    sequences = torch.cat(
        [
            continue_greedily(backbone, part, new_tokens)
            for part in torch.split(torch.tensor(prompts), 32)
        ]
    )
    loops = repeats(sequences, length)
    adapters: dict[str, Adapter | None] = {"": None}
    if (folder := checkpoint / ADAPTER_FOLDER).exists():
        cpu = torch.device("cpu")
        adapters[" + LoRA"] = Adapter.load(folder, backbone.config, precision, cpu, form=plain)
    ends = backbone.config.eos_token_ids
    rows: list[Row] = []
    for name, known, walk in (("linear", 1, walk_linear), ("quadratic", 0, walk_quadratic)):
        for suffix, adapter in adapters.items():
            for k in lengths:
                drafts = draft_everywhere(backbone, sequences, length, k, known, adapter)
                every = walk(sequences, length, drafts, ends)
                others = walk(sequences[~loops], length, drafts[~loops], ends)
                rows.append(Row(name + suffix, k, every, others))
    return Report(tuple(rows), len(sequences), float(loops.float().mean()))


def as_markdown(report: Report) -> str:
    """Return the report as a Markdown table."""
    lines = [
        f"{report.prompts} prompts, {report.repeating:.0%} of the continuations end in a loop.",
        "",
        "| mode | block | cycles | tokens a cycle | tokens a forward | the same without loops |",
        "|---|---|---|---|---|---|",
    ]
    for row in report.rows:
        a, b = row.every, row.others
        lines.append(
            f"| {row.mode} | {row.block_length} | {a.cycles} | {a.tokens_per_cycle:.2f} "
            f"| {a.tokens_per_forward:.2f} | {b.tokens_per_cycle:.2f}, {b.tokens_per_forward:.2f} |"
        )
    return "\n".join(lines)
