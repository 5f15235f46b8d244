"""Weights load from one file or shards; whatever is wrong with a file is said by name."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from handwritten import CHECKPOINTS, Ar
from random_model import random_checkpoint
from safetensors.torch import load_file, save_file

from nldc.runtime.checkpoint.tensors import TensorFile
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


LARGE: dict[str, Any] = {
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 10,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 4096,
    "torch_dtype": "bfloat16",
}


def in_sixteen_bits(folder: Path, shards: int = 1, **settings: Any) -> Path:
    """Write a random checkpoint as released ones are stored: bfloat16, in one file or several."""
    random_checkpoint(folder, **settings)
    tensors = {
        name: values.bfloat16() for name, values in load_file(folder / "model.safetensors").items()
    }
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
        return folder
    (folder / "model.safetensors").unlink()
    places: dict[str, str] = {}
    for number in range(shards):
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        part = dict(list(tensors.items())[number::shards])
        save_file(part, folder / file)
        places |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return folder


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(("shards", "dtype"), [(1, "float32"), (3, "bfloat16")])
def test_loading_takes_little_more_memory_than_what_stays(
    shards: int, dtype: str, tmp_path: Path
) -> None:
    folder = in_sixteen_bits(tmp_path / "large", shards, **LARGE)
    warm = in_sixteen_bits(tmp_path / "warm", **{**LARGE, "num_hidden_layers": 1})
    script = Path(__file__).parent / "loading_peak.py"
    done = subprocess.run(
        [sys.executable, script, folder, dtype, warm], capture_output=True, text=True, check=True
    )
    stays, peak = map(int, done.stdout.split())
    assert stays > 60e6
    assert peak < 1.15 * stays


def test_progress_is_told_after_every_tensor_up_to_all_of_them(sharded: Path) -> None:
    seen: list[tuple[int, int]] = []
    Ar.from_checkpoint(
        sharded, device="cpu", backend="torch", progress=lambda *place: seen.append(place)
    )
    done, totals = zip(*seen, strict=True)
    assert len(seen) > 20
    assert list(done) == sorted(set(done))
    assert set(totals) == {done[-1]}


def test_weights_do_not_follow_the_file_that_they_came_from(single: Path) -> None:
    decoder = load(single)
    before = decoder.generate([[1, 5, 9]], max_new_tokens=8, eos=()).tokens
    file = single / "model.safetensors"
    with file.open("r+b") as out:
        out.seek(file.stat().st_size // 2)
        out.write(bytes(file.stat().st_size // 3))
        out.truncate(file.stat().st_size // 2)
    assert decoder.generate([[1, 5, 9]], max_new_tokens=8, eos=()).tokens == before


def test_the_dtype_is_the_checkpoint_s_own_unless_another_is_asked_for(tmp_path: Path) -> None:
    folder = in_sixteen_bits(tmp_path / "named", torch_dtype="float16")
    assert load(folder).model.backbone.dtype == torch.float16
    assert load(folder, dtype="float32").model.backbone.dtype == torch.float32
    stored = in_sixteen_bits(tmp_path / "stored")
    assert load(stored).model.backbone.dtype == torch.bfloat16
    assert load(stored).model.backbone.weights.embedding.dtype == torch.bfloat16


def test_the_demo_model_is_computed_in_float32() -> None:
    assert Ar.from_checkpoint(device="cpu", backend="torch").model.backbone.dtype == torch.float32


def test_a_shape_that_follows_from_a_default_is_not_blamed_on_the_weights(single: Path) -> None:
    config = json.loads((single / "config.json").read_text())
    del config["head_dim"]
    (single / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError) as caught:
        load(single)
    assert caught.value.hint is not None
    assert "config.json leaves out" in caught.value.hint
    assert "head_dim = 128" in caught.value.hint


def test_weights_that_no_memory_holds_are_an_error_and_not_torch_s(
    single: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_place: object, **_options: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9")

    monkeypatch.setattr(TensorFile, "read", full)
    with pytest.raises(CheckpointError, match="more than there is room for on cpu") as caught:
        load(single)
    assert caught.value.hint


@pytest.mark.parametrize("places", [{"t": 1}, {"t": None}, {}, ["t"], "t", {"t": ["a"]}])
def test_an_index_of_anything_else_is_named(sharded: Path, places: object) -> None:
    index = sharded / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    with pytest.raises(CheckpointError, match="holds no weight_map"):
        load(sharded)


def test_a_vision_part_is_foreign_to_a_model_of_text(single: Path) -> None:
    tensors = load_file(single / "model.safetensors")
    tensors["encoder.vision_tower.patch_conv.weight"] = torch.ones(4, 3, 2, 2)
    save_file(tensors, single / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"vision_tower\.patch_conv.* does not belong"):
        load(single)
    config = json.loads((single / "config.json").read_text())
    config["model_type"] = "nemotron_labs_diffusion_vlm"
    (single / "config.json").write_text(json.dumps(config))
    assert load(single).generate([[1, 5]], max_new_tokens=2).tokens
