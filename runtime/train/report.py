"""Measure a checkpoint on its held-out prompts: the tables of docs/demo-model.md."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nldc.runtime.train.drafter import FOLDER, read_adapter
from nldc.runtime.train.evaluate import (
    Acceptance,
    continue_greedily,
    measure_linear,
    measure_quadratic,
    repeats,
)
from nldc.runtime.train.export import read_checkpoint
from nldc.runtime.train.loop import keep_freed_memory
from nldc.runtime.train.model import Adapter
from nldc.runtime.train.prompts import read_prompts
from nldc.runtime.train.tokenizer import load_tokenizer


@dataclass(frozen=True)
class Row:
    """One line of the table: a way of drafting, a block length, and which prompts."""

    mode: str
    block_length: int
    prompts: int
    acceptance: Acceptance


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
    """Measure linear and quadratic self-speculation, and linear with the drafter if there is one.

    Every line is given twice: over all prompts, and over those whose continuation does not end
    in a loop, since loops are easy to draft.

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
    masters, geometry = read_checkpoint(checkpoint)
    params = {name: value.to(precision) for name, value in masters.items()}
    tokenizer = load_tokenizer(checkpoint)
    prompts = [
        tokenizer.encode(prompt.prompt).ids for prompt in read_prompts(checkpoint / "heldout.jsonl")
    ][:limit]
    if len({len(prompt) for prompt in prompts}) != 1:
        raise ValueError("the held-out prompts are not all of one length")
    length = len(prompts[0])
    sequences = torch.cat(
        [
            continue_greedily(params, geometry, part, new_tokens)
            for part in torch.split(torch.tensor(prompts), 32)
        ]
    )
    loops = repeats(sequences, length)
    adapters: dict[str, Adapter | None] = {"linear": None}
    if (checkpoint / FOLDER).exists():
        adapters["linear + LoRA"] = read_adapter(checkpoint / FOLDER, precision)
    rows: list[Row] = []

    def add(mode: str, k: int, some: Tensor, adapter: Adapter | None) -> None:
        how = measure_quadratic if mode == "quadratic" else measure_linear
        rows.append(Row(mode, k, len(some), how(params, geometry, some, length, k, adapter)))

    for some in (sequences, sequences[~loops]):
        for k in lengths:
            for mode, adapter in adapters.items():
                add(mode, k, some, adapter)
            add("quadratic", k, some, None)
    return Report(tuple(rows), len(sequences), float(loops.float().mean()))


def as_markdown(report: Report) -> str:
    """Return the report as a Markdown table."""
    lines = [
        f"{report.prompts} prompts, {report.repeating:.0%} of the continuations end in a loop",
        "",
        "| mode | block | prompts | cycles | tokens a cycle | tokens a forward |",
        "|---|---|---|---|---|---|",
    ]
    for row in report.rows:
        a = row.acceptance
        lines.append(
            f"| {row.mode} | {row.block_length} | {row.prompts} | {a.cycles} "
            f"| {a.tokens_per_cycle:.2f} | {a.tokens_per_forward:.2f} |"
        )
    return "\n".join(lines)
