"""The sampler's training: examples mean what they say, and it learns more than confidence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from nldc.runtime.checkpoint.sampler import SamplerWeights
from nldc.runtime.errors import AdapterError, NldcRuntimeError
from nldc.runtime.reference.backbone import PlainBackbone
from nldc.runtime.reference.sampler import reference
from nldc.runtime.train.sampler import Examples, SamplerRecipe, draw_examples, fit, train_sampler

TINY = SamplerRecipe(
    width=16, layers=1, heads=2, top=4, block_length=6, texts=4, prompt_length=8,
    sequence_length=32, sequences=3, blocks=2, draws=2, rounds=3, steps=4, batch=4,
    precision="float32", threads=0,
)  # fmt: skip


def test_examples_are_rounds_in_which_known_rows_become_more(checkpoint: Path) -> None:
    backbone = PlainBackbone.load(checkpoint, torch.float32)
    text = torch.randint(
        backbone.config.vocab_size, (4, 32), generator=torch.Generator().manual_seed(0)
    )
    first = draw_examples(TINY, backbone, text)
    again = draw_examples(TINY, backbone, text)
    assert torch.equal(first.features, again.features)
    blocks = TINY.sequences * TINY.blocks
    assert first.masked[:blocks].tolist() == [[False, *[True] * 5]] * blocks
    assert not first.masked[:, 0].any()  # the known token
    assert first.masked.any(1).all()  # full blocks give no examples
    later = first.masked[blocks : 2 * blocks].sum(1)
    assert (later < 5).all()


def test_a_flag_of_the_rows_is_learnt_where_confidence_says_nothing(tmp_path: Path) -> None:
    """Rows whose neighbour is unsure are wrong: only who looks at neighbours can tell."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(400, 6, TINY.top + 8, generator=generator) * 0.1
    unsure = torch.rand(400, 6, generator=generator) < 0.3
    x[..., 7] = unsure.float()
    right = ~torch.roll(unsure, 1, dims=1)
    masked = torch.ones(400, 6, dtype=torch.bool)
    recipe = replace(TINY, width=32, layers=2, steps=300, batch=32, learning_rate=5e-3)
    told: list[tuple[int, int]] = []
    weights = fit(recipe, Examples(x, masked, right), tmp_path, lambda *each: told.append(each))
    assert told == [(step, 300) for step in range(300)]
    found = reference(weights.shape, weights.tensors, x)
    loss = F.binary_cross_entropy_with_logits(found, right.float())
    share = right.float().mean()
    alone = -(share * share.log() + (1 - share) * (1 - share).log())
    assert loss < 0.5 * alone


def test_a_trained_sampler_is_a_folder_that_decoders_load(checkpoint: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    train_sampler(TINY, checkpoint, tmp_path / "out")
    assert {path.name: path.read_bytes() for path in checkpoint.iterdir()} == before
    weights = SamplerWeights.load(tmp_path / "out" / "commit_sampler", torch.device("cpu"))
    assert (weights.shape.rows, weights.shape.width) == (6, 16)
    train_sampler(TINY, checkpoint, tmp_path / "out")  # its own are replaced


def test_a_sampler_that_was_not_trained_here_is_not_replaced(checkpoint: Path) -> None:
    (checkpoint / "commit_sampler").mkdir()
    with pytest.raises(AdapterError, match="was not written by `nldc train`"):
        train_sampler(TINY, checkpoint, checkpoint)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_length": 25}, "block_length = 25 does not lie between 2 and the 24 tokens"),
        ({"block_length": 1}, "block_length = 1"),
        ({"heads": 3}, "3 heads do not share a width of 16"),
        ({"sequence_length": 10**6}, "more than the model's context"),
    ],
)
def test_numbers_that_contradict_one_another_are_named(
    checkpoint: Path, tmp_path: Path, changes: dict[str, int], message: str
) -> None:
    with pytest.raises(NldcRuntimeError, match=message):
        train_sampler(replace(TINY, **changes), checkpoint, tmp_path / "out")
    assert not (tmp_path / "out").exists()
