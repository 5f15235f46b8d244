"""Weights load from one file or shards; whatever is wrong with a file is said by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from handwritten import CHECKPOINTS, Ar
from safetensors.torch import load_file, save_file

from nldc.runtime.errors import CheckpointError

NORM = "encoder.layers.0.input_layernorm.weight"
Damage = Callable[[Path], None]


def load(folder: Path, **options: str) -> Ar:
    return Ar.from_checkpoint(folder, device="cpu", backend="torch", **options)  # type: ignore[arg-type]


@pytest.fixture
def single(tmp_path: Path) -> Path:
    return Path(shutil.copytree(CHECKPOINTS[0], tmp_path / "single"))


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return Path(shutil.copytree(CHECKPOINTS[1], tmp_path / "sharded"))


def test_shards_and_one_file_are_the_same_model(sharded: Path) -> None:
    shards = load(sharded).model.backbone.weights
    tensors: dict[str, torch.Tensor] = {}
    for shard in sharded.glob("model-*.safetensors"):
        tensors |= load_file(shard)
        shard.unlink()
    (sharded / "model.safetensors.index.json").unlink()
    save_file(tensors, sharded / "model.safetensors")
    whole = load(sharded).model.backbone.weights
    assert torch.equal(shards.head.to_dense(), whole.head.to_dense())
    assert torch.equal(shards.layers[2].qkv.to_dense(), whole.layers[2].qkv.to_dense())


def test_a_tied_head_is_the_embedding(single: Path) -> None:
    config = json.loads((single / "config.json").read_text())
    (single / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    tensors = load_file(single / "model.safetensors")
    del tensors["diffusion_head.weight"]
    save_file(tensors, single / "model.safetensors")
    weights = load(single).model.backbone.weights
    assert torch.equal(weights.head.to_dense(), weights.embedding)


def test_a_head_that_is_stored_beside_a_tied_embedding_is_not_used(single: Path) -> None:
    config = json.loads((single / "config.json").read_text())
    (single / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    weights = load(single).model.backbone.weights
    stored = load_file(single / "model.safetensors")["diffusion_head.weight"]
    assert torch.equal(weights.head.to_dense(), weights.embedding)
    assert not torch.equal(weights.embedding, stored)


def test_stored_rotary_frequencies_are_no_foreign_tensor(single: Path) -> None:
    tensors = load_file(single / "model.safetensors")
    tensors["encoder.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(tensors, single / "model.safetensors")
    load(single)


def edit(change: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return damage


def write(text: bytes) -> Damage:
    return lambda folder: (folder / "model.safetensors").write_bytes(text) and None


def cut(size: int) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:size])

    return damage


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (edit(lambda t: t.pop(NORM)), f"tensor `{NORM}` is in none of the weight files"),
        (edit(lambda t: t.update({NORM: torch.ones(3)})), f"`{NORM}` has the shape [3], not [40]"),
        (edit(lambda t: t.update({"x.y": torch.ones(3)})), "tensor `x.y` does not belong"),
        (
            edit(lambda t: t.update({NORM: torch.ones(40, dtype=torch.int8)})),
            f"tensor `{NORM}` holds I8",
        ),
        (cut(100_000), "model.safetensors is truncated: tensor `"),
        (cut(500), "model.safetensors is truncated inside its header"),
        (cut(0), "model.safetensors is truncated: 0 bytes"),
        (write(b"PK\x03\x04" + b"\x00" * 100), "model.safetensors is no safetensors file"),
        (write(b"version https://git-lfs.github.com/spec/v1\n"), "is no safetensors file"),
        (lambda f: (f / "model.safetensors").unlink(), "holds no model.safetensors"),
        (pickled, "pytorch_model.bin is no safetensors file"),
    ],
)
def test_a_damaged_file_is_named_with_what_is_wrong_and_a_remedy(
    single: Path, damage: Damage, message: str
) -> None:
    damage(single)
    with pytest.raises(CheckpointError) as caught:
        load(single)
    assert message in caught.value.message
    assert str(single) in caught.value.message
    assert caught.value.hint


def missing_shard(folder: Path) -> None:
    (folder / "model-00002-of-00002.safetensors").unlink()


def swapped(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    data = json.loads(index.read_text())
    data["weight_map"]["encoder.norm.weight"] = "model-00001-of-00002.safetensors"
    index.write_text(json.dumps(data))


def shard(name: str) -> Damage:
    def damage(folder: Path) -> None:
        index = folder / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": {"encoder.norm.weight": name}}))

    return damage


def billion_layers(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 10**9}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (missing_shard, "model-00002-of-00002.safetensors is missing"),
        (swapped, "model-00001-of-00002.safetensors: tensor `encoder.norm.weight` is missing"),
        (shard("../model.safetensors"), "no file of its folder: '../model.safetensors'"),
        (shard(".."), "no file of its folder: '..'"),
        (shard(""), "no file of its folder: ''"),
        (shard("a\0b"), "no file of its folder: 'a\\x00b'"),
        (billion_layers, ".input_layernorm.weight` is in none of the weight files"),
        (
            lambda f: (f / "model.safetensors.index.json").write_text("[" * 100_000) and None,
            "model.safetensors.index.json holds no weight_map",
        ),
        (
            lambda f: (f / "model.safetensors.index.json").write_text("{}") and None,
            "model.safetensors.index.json holds no weight_map",
        ),
    ],
)
def test_a_damaged_index_or_shard_is_named(sharded: Path, damage: Damage, message: str) -> None:
    damage(sharded)
    with pytest.raises(CheckpointError) as caught:
        load(sharded)
    assert message in caught.value.message
    assert caught.value.hint


def test_an_unknown_dtype_lists_those_there_are() -> None:
    with pytest.raises(CheckpointError, match="float32, float64, float16, bfloat16"):
        load(CHECKPOINTS[0], dtype="int8")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sixteen_bit_models_decode(dtype: str) -> None:
    found = load(CHECKPOINTS[2], dtype=dtype).generate([[1, 5, 9]], max_new_tokens=8, eos=())
    assert len(found.tokens[0]) == 8
