"""The drafter: its loss, its training, and the verifier it must leave alone."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from nldc.runtime.checkpoint.adapter import Adapter
from nldc.runtime.errors import AdapterError, CheckpointError
from nldc.runtime.reference.backbone import PlainBackbone, plain
from nldc.runtime.train.drafter import (
    DrafterRecipe,
    drafter_losses,
    init_lora,
    train_drafter,
)
from nldc.runtime.train.evaluate import continue_greedily, measure_linear
from nldc.runtime.train.texts import own_text, training_stream

TINY = DrafterRecipe(
    rank=8,
    alpha=32.0,
    steps=50,
    sequences=8,
    blocks=4,
    block_length=4,
    learning_rate=1e-2,
    texts=8,
    prompt_lengths=(8,),
    sequence_length=32,
    precision="float32",
    threads=0,
)


def _naive_loss(draft: torch.Tensor, verifier: torch.Tensor, recipe: DrafterRecipe) -> float:
    total = 0.0
    for block, truth in zip(draft, verifier, strict=True):
        for q_row, p_row in zip(block, truth, strict=True):
            total += float(F.cross_entropy(q_row[None], p_row.argmax()[None]))
            union = set(q_row.topk(recipe.top).indices.tolist())
            union |= set(p_row.topk(recipe.top).indices.tolist())
            kept = sorted(union)
            p = (p_row[kept] / recipe.temperature).softmax(0)
            q = (q_row[kept] / recipe.temperature).softmax(0)
            share = float(torch.exp(-recipe.eta * torch.minimum(p, q).sum()))
            kl = float((p * (p / q).log()).sum())
            total += share * kl + (1 - share) * float((p - q).abs().sum()) / 2
            if q_row.argmax() != p_row.argmax():
                break
    return total


def test_the_loss_is_the_one_written_out_on_deciding_rows_only() -> None:
    generator = torch.Generator().manual_seed(0)
    verifier = torch.randn(9, 3, 12, generator=generator)
    draft = verifier + 0.6 * torch.randn(9, 3, 12, generator=generator)
    recipe = DrafterRecipe(top=4)
    loss, matches = drafter_losses(draft, verifier, recipe)
    assert float(loss) == pytest.approx(_naive_loss(draft, verifier, recipe), rel=1e-5)
    assert matches.min() == 0
    assert matches.max() == 3


def test_rows_behind_the_first_rejected_one_take_no_gradient() -> None:
    verifier = torch.eye(5)[None, :3] * 4
    draft = torch.eye(5)[[0, 2, 2]][None] * 4
    draft.requires_grad_()
    loss, matches = drafter_losses(draft, verifier, DrafterRecipe(top=5))
    torch.autograd.backward(loss)
    assert draft.grad is not None
    assert matches.tolist() == [1]
    assert draft.grad[0, :2].abs().sum() > 0
    assert draft.grad[0, 2].abs().sum() == 0


def test_a_perfect_draft_has_no_distance_left() -> None:
    logits = torch.randn(2, 3, 12, generator=torch.Generator().manual_seed(0))
    loss, matches = drafter_losses(logits, logits, DrafterRecipe(top=4))
    hard = F.cross_entropy(logits.flatten(0, 1), logits.argmax(-1).flatten(), reduction="sum")
    torch.testing.assert_close(loss, hard)
    assert matches.tolist() == [3, 3]


def test_training_raises_acceptance_and_leaves_the_verifier_bitwise_alone(
    checkpoint: Path, tmp_path: Path
) -> None:
    before = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    backbone = PlainBackbone.load(checkpoint, torch.float32)
    stream = training_stream(checkpoint, backbone.config)
    sequences, _ = own_text(TINY, backbone, stream)
    train_drafter(TINY, checkpoint, tmp_path / "out")
    assert {path.name: path.read_bytes() for path in checkpoint.iterdir()} == before
    folder = tmp_path / "out" / "linear_spec_lora"
    adapter = Adapter.load(folder, backbone.config, torch.float32, torch.device("cpu"), form=plain)
    again = PlainBackbone.load(checkpoint, torch.float32)
    assert torch.equal(own_text(TINY, again, stream)[0], sequences)
    bare = measure_linear(backbone, sequences, 8, 4)
    helped = measure_linear(backbone, sequences, 8, 4, adapter)
    assert helped.tokens_per_cycle > bare.tokens_per_cycle + 0.2


def test_a_fresh_adapter_changes_nothing(checkpoint: Path) -> None:
    backbone = PlainBackbone.load(checkpoint, torch.float32)
    sequences = continue_greedily(backbone, torch.arange(16).view(2, 8) + 10, 40)
    fresh = init_lora(backbone.config, TINY).adapter(torch.float32)
    assert measure_linear(backbone, sequences, 8, 4, fresh) == measure_linear(
        backbone, sequences, 8, 4
    )


def test_the_adapter_has_the_layout_of_the_released_one(checkpoint: Path, tmp_path: Path) -> None:
    train_drafter(DrafterRecipe(**{**vars(TINY), "steps": 1}), checkpoint, tmp_path / "out")
    folder = tmp_path / "out" / "linear_spec_lora"
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert (settings["peft_type"], settings["r"], settings["lora_alpha"]) == ("LORA", 8, 32)
    assert settings["target_modules"] == ["o_proj"]
    shapes = {
        name: tuple(value.shape)
        for name, value in load_file(folder / "adapter_model.safetensors").items()
    }
    at = "base_model.model.encoder.layers.{}.self_attn.o_proj.lora_{}.weight"
    assert shapes == {
        at.format(layer, part): shape
        for layer in range(2)
        for part, shape in (("A", (8, 48)), ("B", (32, 8)))
    }


@pytest.mark.parametrize("name", ["linear_spec_lora/adapter_config.json", "drafter.csv"])
def test_an_adapter_that_was_not_trained_here_is_not_replaced(
    checkpoint: Path, tmp_path: Path, name: str
) -> None:
    (checkpoint / name).parent.mkdir(exist_ok=True)
    (checkpoint / name).write_text("released")
    once = DrafterRecipe(**{**vars(TINY), "steps": 1})
    with pytest.raises(AdapterError, match="was not written by `nldc train`"):
        train_drafter(once, checkpoint, checkpoint)
    assert (checkpoint / name).read_text() == "released"
    train_drafter(once, checkpoint, tmp_path / "out")
    train_drafter(once, checkpoint, tmp_path / "out")


def test_a_checkpoint_that_cannot_be_trained_is_named(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "model-00001-of-00001.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"model-00001-of-00001\.safetensors is truncated"):
        train_drafter(TINY, checkpoint, tmp_path / "out")
    (checkpoint / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"config\.json: `hidden_size` is missing"):
        train_drafter(TINY, checkpoint, tmp_path / "out")
    assert not (tmp_path / "out").exists()
