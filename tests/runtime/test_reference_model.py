"""The cache-free reference gives the golden logits, whatever order its rows come in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from handwritten import CHECKPOINTS, Case, cases
from safetensors.torch import load_file

from nldc.runtime.reference.model import ReferenceModel


@dataclass(frozen=True)
class Row:
    token: int
    position: int
    sees: tuple[int, ...]
    adapter: str | None = None


def model_of(folder: Path) -> ReferenceModel:
    return ReferenceModel.load(folder, {"drafter": folder / "linear_spec_lora"})


@pytest.mark.parametrize("folder", CHECKPOINTS, ids=lambda folder: folder.name)
def test_causal_and_block_logits_are_the_golden_ones(folder: Path) -> None:
    golden = load_file(folder / "expected_logits.safetensors")
    tokens, block = golden["tokens"].tolist(), golden["block"].tolist()
    rows = [Row(token, place, tuple(range(place + 1))) for place, token in enumerate(tokens)]
    total = len(tokens) + len(block)
    for adapter, name in ((None, "block_bidirectional"), ("drafter", "block_bidirectional_lora")):
        seen = tuple(range(total))
        masks = [
            Row(token, len(tokens) + place, seen, adapter) for place, token in enumerate(block)
        ]
        found = torch.tensor(model_of(folder).logits([*rows, *masks]), dtype=torch.float64)
        torch.testing.assert_close(found[: len(tokens)], golden["causal"].double())
        torch.testing.assert_close(found[len(tokens) :], golden[name].double())


@pytest.mark.parametrize("folder", CHECKPOINTS[:2], ids=lambda folder: folder.name)
def test_the_order_of_the_rows_does_not_matter(folder: Path) -> None:
    model = model_of(folder)
    rows = [Row(5 + place, place, tuple(range(place + 1))) for place in range(6)]
    turned = [
        Row(row.token, row.position, tuple(5 - seen for seen in row.sees)) for row in rows[::-1]
    ]
    straight, backwards = model.logits(rows), model.logits(turned)
    for one, other in zip(straight, backwards[::-1], strict=True):
        torch.testing.assert_close(torch.tensor(one), torch.tensor(other))


def test_a_row_that_sees_nothing_has_logits_all_the_same() -> None:
    (logits,) = model_of(CHECKPOINTS[0]).logits([Row(5, 0, ())])
    assert all(map(torch.isfinite, map(torch.tensor, logits)))


@pytest.mark.parametrize("case", list(cases()), ids=str)
def test_the_most_likely_tokens_one_after_another_are_the_golden_ones(case: Case) -> None:
    model, tokens = ReferenceModel.load(case.folder), list(case.prompt)
    want = case.modes["ar"]["tokens"]
    while len(tokens) < len(case.prompt) + case.max_new_tokens:
        rows = [Row(token, place, tuple(range(place + 1))) for place, token in enumerate(tokens)]
        logits = model.logits(rows)[-1]
        tokens.append(logits.index(max(logits)))
        if tokens[-1] in model.eos:
            break
    assert tokens[len(case.prompt) :] == want
