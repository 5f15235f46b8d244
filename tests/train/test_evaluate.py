"""Acceptance read off one table equals acceptance counted in a decoding loop."""

import torch
from torch import Tensor

from nldc.runtime.checkpoint.adapter import Adapter
from nldc.runtime.reference.attention import causal, over
from nldc.runtime.reference.backbone import PlainBackbone
from nldc.runtime.train.evaluate import (
    Acceptance,
    continue_greedily,
    measure_linear,
    measure_quadratic,
    repeats,
)
from nldc.runtime.train.geometry import Geometry, model_config
from nldc.runtime.train.model import OutputLora, computed, init_params
from nldc.runtime.train.tokenizer import EOS, MASK

SMALL = model_config(
    Geometry(
        vocab_size=6,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=10,
    ),
    block_size=4,
)
PROMPT, NEW, BLOCK = 5, 40, 4


def _backbone() -> PlainBackbone:
    params = {name: value * 3 for name, value in init_params(SMALL, 1).items()}
    at = "diffusion_head.weight"
    params[at][EOS] = params[at][5] / 2  # so that it is never the best token
    return computed(params, SMALL, torch.float32)


def _causal(backbone: PlainBackbone, ids: list[int]) -> list[int]:
    look = over(causal(len(ids)), torch.float32)
    states = backbone.forward(backbone.embed(torch.tensor([ids])), torch.arange(len(ids)), look)
    logits: Tensor = backbone.head(states)[0]
    return [int(token) for token in logits.argmax(-1)]


def _block(
    backbone: PlainBackbone, prefix: list[int], block: list[int], adapter: Adapter | None = None
) -> list[int]:
    start, stop = len(prefix), len(prefix) + len(block)
    visible = torch.ones(stop, stop, dtype=torch.bool).tril()
    visible[start:, start:] = True
    order = [*range(start, stop), *range(start)]
    look = over(visible[order][:, order], torch.float32)
    states = backbone.forward(
        backbone.embed(torch.tensor([block + prefix])),
        torch.tensor(order),
        look,
        adapter,
        torch.tensor(order) >= start,
    )
    logits: Tensor = backbone.head(states)[0, : len(block)]
    return [int(token) for token in logits.argmax(-1)]


def _emitted_by_linear(
    backbone: PlainBackbone, prompt: list[int], cycles: int, adapter: Adapter | None = None
) -> list[int]:
    ids = [*prompt, _causal(backbone, prompt)[-1]]
    emitted = []
    for _ in range(cycles):
        draft = _block(backbone, ids[:-1], [ids[-1]] + [MASK] * (BLOCK - 1), adapter)[1:]
        verified = _causal(backbone, ids + draft)[len(ids) - 1 :]
        matches = 0
        while matches < BLOCK - 1 and verified[matches] == draft[matches]:
            matches += 1
        ids += verified[: matches + 1]
        emitted.append(matches + 1)
    return emitted


def _emitted_by_quadratic(backbone: PlainBackbone, prompt: list[int], cycles: int) -> list[int]:
    ids = list(prompt)
    masks = _block(backbone, ids, [MASK] * BLOCK)
    emitted = []
    for _ in range(cycles):
        draft = [_causal(backbone, ids)[-1], *masks[1:]]
        verified = _causal(backbone, ids + draft)[len(ids) - 1 :]
        taken = 1
        while taken < BLOCK and verified[taken] == draft[taken]:
            taken += 1
        ids += draft[:taken]
        masks = _block(backbone, ids, [MASK] * BLOCK)
        emitted.append(taken)
    return emitted


def _histogram(emitted: list[int], width: int) -> tuple[int, ...]:
    return tuple(emitted.count(n) for n in range(width + 2))


def _check(measured: Acceptance, loop: list[int], width: int) -> None:
    counted = loop[: measured.cycles]
    assert measured.cycles > 5
    assert measured.histogram == _histogram(counted, width)
    assert measured.tokens == sum(counted)


def test_greedy_continuation_with_a_cache_equals_full_forwards() -> None:
    backbone = _backbone()
    prompts = torch.tensor([[4, 5, 1, 0, 4], [5, 5, 0, 1, 1]])
    sequences = continue_greedily(backbone, prompts, 12)
    for row in sequences.tolist():
        assert _causal(backbone, row)[PROMPT - 1 : -1] == row[PROMPT:]


def test_linear_acceptance_equals_a_decoding_loop() -> None:
    backbone, prompt = _backbone(), [4, 5, 1, 0, 4]
    sequences = continue_greedily(backbone, torch.tensor([prompt]), NEW)
    measured = measure_linear(backbone, sequences, PROMPT, BLOCK)
    _check(measured, _emitted_by_linear(backbone, prompt, 60), BLOCK - 1)
    assert measured.forwards == 2 * measured.cycles


def test_an_adapter_touches_the_draft_and_not_the_verifier() -> None:
    backbone, prompt = _backbone(), [4, 5, 1, 0, 4]
    generator = torch.Generator().manual_seed(0)
    lora = OutputLora(
        down=tuple(torch.randn(2, 40, generator=generator) for _ in range(2)),
        up=tuple(torch.randn(24, 2, generator=generator) for _ in range(2)),
        scale=2.0,
    )
    adapter = lora.adapter(torch.float32)
    sequences = continue_greedily(backbone, torch.tensor([prompt]), NEW)
    measured = measure_linear(backbone, sequences, PROMPT, BLOCK, adapter)
    _check(measured, _emitted_by_linear(backbone, prompt, 60, adapter), BLOCK - 1)


def test_quadratic_acceptance_equals_a_decoding_loop() -> None:
    backbone, prompt = _backbone(), [4, 5, 1, 0, 4]
    sequences = continue_greedily(backbone, torch.tensor([prompt]), NEW)
    measured = measure_quadratic(backbone, sequences, PROMPT, BLOCK)
    _check(measured, _emitted_by_quadratic(backbone, prompt, 60), BLOCK - 1)
    assert measured.forwards == measured.cycles


def test_loops_are_told_from_text_that_goes_on() -> None:
    loop = torch.tensor([[9] * 4 + [1, 2, 3] * 40])
    text = torch.arange(124)[None]
    assert repeats(torch.cat((loop, text)), 4).tolist() == [True, False]
