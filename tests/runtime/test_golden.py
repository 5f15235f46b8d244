"""Released-layout checkpoints give the golden logits, tokens, forwards and accepted counts."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest
import torch
from handwritten import (
    BIDIRECTIONAL,
    CAUSAL,
    CHECKPOINTS,
    MODES,
    Ar,
    Case,
    LinearSS,
    block_layout,
    cases,
    decoder_for,
)
from safetensors.torch import load_file

from nldc.runtime.cache.kv_cache import KVCache
from nldc.runtime.decoder import Decoder
from nldc.runtime.rows.layout import Layout
from nldc.runtime.step.batch import Batch
from nldc.runtime.step.member import Member


def batch_of(decoder: Decoder, prompts: int = 1, capacity: int = 64) -> Batch:
    backbone = decoder.model.backbone
    cache = KVCache(decoder.config, backbone.dtype, backbone.device)
    slots = [cache.acquire(capacity) for _ in range(prompts)]
    return Batch(decoder.model, cache, [Member(slot, slot, eos=(2,)) for slot in slots])


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-9), ("float32", 2e-3)])
@pytest.mark.parametrize("folder", CHECKPOINTS, ids=lambda path: path.name)
def test_logits_of_causal_and_bidirectional_rows_are_golden(
    folder: Path, dtype: str, tolerance: float
) -> None:
    golden = load_file(folder / "expected_logits.safetensors")
    decoder = LinearSS.from_checkpoint(folder, dtype=dtype, device="cpu", backend="torch")
    batch = batch_of(decoder)
    with torch.inference_mode():
        tokens = golden["tokens"].unsqueeze(0)
        causal = batch.head(batch.forward(tokens, Layout.causal(20), CAUSAL))
        block, rows = golden["block"].unsqueeze(0), block_layout(4)
        plain = batch.head(batch.forward(block, rows, BIDIRECTIONAL))
        lora = batch.head(batch.forward(block, rows, BIDIRECTIONAL, adapter="drafter"))
    for found, name in (
        (causal, "causal"),
        (plain, "block_bidirectional"),
        (lora, "block_bidirectional_lora"),
    ):
        error = (found.values[0].double() - golden[name]).abs().max()
        assert error <= tolerance * golden[name].abs().max(), name


def test_rows_decoded_one_at_a_time_have_the_logits_of_rows_decoded_together() -> None:
    golden = load_file(CHECKPOINTS[0] / "expected_logits.safetensors")
    decoder = Ar.from_checkpoint(CHECKPOINTS[0], dtype="float64", device="cpu", backend="torch")
    batch = batch_of(decoder)
    with torch.inference_mode():
        rows = [
            batch.head(batch.forward(token.view(1, 1), Layout.causal(1), CAUSAL)).values[0, 0]
            for token in golden["tokens"]
        ]
    torch.testing.assert_close(torch.stack(rows), golden["causal"], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("dtype", "first"),  # the others run compiled, in tests/test_strategies.py
    [("float64", 0), ("float32", 1), pytest.param("float32", 0, marks=pytest.mark.long)],
)
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_emits_the_golden_tokens_at_the_golden_cost(
    mode: str, dtype: str, first: int
) -> None:
    for case in cases():
        if case.folder not in CHECKPOINTS[first::2]:
            continue
        want = case.modes[mode]
        decoder = decoder_for(case, mode, dtype=dtype)
        found = decoder.generate([case.prompt], max_new_tokens=case.max_new_tokens)
        assert found.tokens == [want["tokens"]], case
        assert found.stats[0].nfe == want["nfe"], case
        if "accepted" in want:
            assert list(found.stats[0].accepted) == want["accepted"], case


def grouped(mode: str) -> list[list[Case]]:
    """Return cases that one decoder can run: of one checkpoint and one block length."""
    groups: dict[tuple[str, int, str], list[Case]] = defaultdict(list)
    for case in cases():
        key = case.folder.name, case.block_length, str(case.modes[mode]["params"])
        groups[key].append(case)
    return [group for group in groups.values() if len(group) > 1]


@pytest.mark.parametrize("batch_size", [pytest.param(None, marks=pytest.mark.long), 2])
@pytest.mark.parametrize("mode", MODES)
def test_sequences_of_a_mixed_batch_are_what_they_are_alone(
    mode: str, batch_size: int | None
) -> None:
    for group in grouped(mode):
        decoder = decoder_for(group[0], mode, dtype="float64")
        limit = max(case.max_new_tokens for case in group)
        prompts = [case.prompt for case in group] + [group[0].prompt[:1]]
        together = decoder.generate(prompts, max_new_tokens=limit, batch_size=batch_size)
        for place, case in enumerate(group):
            want = case.modes[mode]
            if case.max_new_tokens == limit:
                assert together.tokens[place] == want["tokens"], case
                assert together.stats[place].nfe == want["nfe"], case
            else:
                cut = together.tokens[place][: case.max_new_tokens]
                assert cut == want["tokens"], case
