"""Tiny runs: losses fall, resuming changes nothing, the export is a released checkpoint."""

import csv
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from nldc.runtime.checkpoint.config import ModelConfig
from nldc.runtime.errors import CheckpointError
from nldc.runtime.train import loop
from nldc.runtime.train.corpus import SourceFile
from nldc.runtime.train.export import export_checkpoint
from nldc.runtime.train.geometry import Geometry
from nldc.runtime.train.loop import train
from nldc.runtime.train.model import init_params, parameter_shapes
from nldc.runtime.train.noise import NoiseLaw
from nldc.runtime.train.recipe import Recipe, Rollouts, Stage

BLOCKS = NoiseLaw(block_lengths=(4,), length_weights=(1.0,))
TINY = Recipe(
    geometry=Geometry(
        vocab_size=270,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=24,
    ),
    stages=(
        Stage("ar", 6, 0.0, (1e-2, 1e-2)),
        Stage("joint", 50, 0.3, (1e-2, 1e-2), noise=BLOCKS),
        Stage("own-text", 4, 0.6, (1e-2, 0.0), rollout_share=0.5, noise=BLOCKS),
    ),
    rollouts=Rollouts(count=6, prompt_lengths=(8,), batch=4),
    sequence_length=24,
    batch=4,
    micro_batch=2,
    warmup_steps=2,
    precision="float32",
    evaluate_every=5,
    save_every=7,
    threads=0,
)


@pytest.fixture(autouse=True, scope="module")
def _small_corpus() -> Iterator[None]:
    def read_files(_root: Path, *, held_out: bool) -> list[SourceFile]:
        return [SourceFile("a.py", f"def f{int(held_out)}(x):\n    return x + 1\n" * 30)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "read_files", read_files)
        patch.setattr(loop, "EVALUATION_WINDOWS", 4)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a tiny model from the first step to the last; return where it lies."""
    out = tmp_path_factory.mktemp("whole")
    train(TINY, out, resume=False)
    return out


def _log(out: Path) -> list[dict[str, str]]:
    with (out / "log.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_tiny_run_lowers_both_held_out_losses(whole: Path) -> None:
    rows = _log(whole)
    assert [row["step"] for row in rows] == [str(step) for step in range(5, 65, 5)]
    assert float(rows[-1]["held_out_ar"]) < float(rows[0]["held_out_ar"]) - 0.3
    assert float(rows[-1]["held_out_diffusion"]) < float(rows[0]["held_out_diffusion"]) - 0.3


@pytest.mark.parametrize("stopped_at", [7, 56], ids=["in the joint stage", "in the last stage"])
def test_a_resumed_run_is_the_run_that_was_not_stopped(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped_at: int
) -> None:
    save = loop.save_state

    def save_and_stop(run: loop.Run, recipe: Recipe, out: Path) -> None:
        save(run, recipe, out)
        if run.step == stopped_at:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "save_state", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        train(TINY, tmp_path / "stopped", resume=False)
    train(TINY, tmp_path / "stopped", resume=True)
    wanted = torch.load(whole / "state.pt")["params"]
    resumed = torch.load(tmp_path / "stopped" / "state.pt")["params"]
    for name, value in wanted.items():
        assert torch.equal(value, resumed[name]), name


def test_the_checkpoint_has_the_released_names_in_shards(tmp_path: Path) -> None:
    recipe = dataclasses.replace(TINY, stages=TINY.stages[:1])
    told: list[tuple[int, int]] = []
    train(recipe, tmp_path, resume=False, progress=lambda *each: told.append(each))
    assert told == [(step, recipe.steps) for step in range(recipe.steps)]
    folder = tmp_path / "checkpoint"
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    shapes = parameter_shapes(TINY.config)
    assert set(index["weight_map"]) == set(shapes)
    for name, file in index["weight_map"].items():
        stored = load_file(folder / file)[name]
        assert tuple(stored.shape) == shapes[name]
        assert stored.dtype == torch.bfloat16
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "nemotron_labs_diffusion"
    assert config["mask_token_id"] == 3
    assert not config["tie_word_embeddings"]
    masters = torch.load(tmp_path / "state.pt")["params"]
    assert ModelConfig.load(folder) == TINY.config
    for name, file in index["weight_map"].items():
        assert torch.equal(load_file(folder / file)[name], masters[name].bfloat16())


def test_a_batch_that_micro_batches_do_not_fill_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="micro_batch 3 does not divide batch 4"):
        train(dataclasses.replace(TINY, micro_batch=3), tmp_path, resume=False)


def test_an_unknown_precision_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'float8' is none of"):
        train(dataclasses.replace(TINY, precision="float8"), tmp_path, resume=False)


def test_every_step_belongs_to_one_stage_and_rates_run_as_written() -> None:
    names = [TINY.stage_at(step)[0].name for step in range(TINY.steps)]
    assert names == ["ar"] * 6 + ["joint"] * 50 + ["own-text"] * 4
    assert TINY.rate_at(0) == pytest.approx(5e-3)
    assert TINY.rate_at(5) == pytest.approx(1e-2)
    assert TINY.rate_at(58) == pytest.approx(5e-3)
    with pytest.raises(IndexError, match="60 steps"):
        TINY.stage_at(60)


@pytest.mark.parametrize("name", ["tokenizer.json", "log.csv", "notes.txt", "streams.pt"])
@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_that_is_no_run_is_left_alone(tmp_path: Path, name: str, resume: bool) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(CheckpointError, match=f"holds no run: `{name}`"):
        train(TINY, tmp_path, resume)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: "mine"}


def test_a_checkpoint_that_no_run_wrote_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "model-00001-of-00009.safetensors").write_text("mine")
    with pytest.raises(CheckpointError, match=r"model-00001-of-00009\.safetensors was not written"):
        train(TINY, tmp_path, resume=False)
    assert [path.name for path in folder.iterdir()] == ["model-00001-of-00009.safetensors"]


def test_an_export_replaces_its_own_files_and_keeps_the_others(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    out = tmp_path / "out"
    params = init_params(TINY.config, 0)
    given = (params, TINY.geometry, 4, tmp_path / "tokenizer.json", out)
    export_checkpoint(*given, shard_bytes=8000)
    many = {path.name for path in out.glob("*.safetensors")}
    (out / "model-00001-of-00777.safetensors").write_text("mine")
    (out / "linear_spec_lora").mkdir()
    export_checkpoint(*given)
    left = {path.name for path in out.glob("*.safetensors")}
    assert left == {"model-00001-of-00001.safetensors", "model-00001-of-00777.safetensors"}
    assert len(many) > 1
    assert (out / "linear_spec_lora").is_dir()
    assert ModelConfig.load(out) == dataclasses.replace(TINY.config, block_size=4)


def test_an_export_that_fails_leaves_the_one_before(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    out = tmp_path / "out"
    given = (init_params(TINY.config, 0), TINY.geometry, 4, tmp_path / "tokenizer.json", out)
    export_checkpoint(*given)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError):
        export_checkpoint(*given, shard_bytes=8000)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize("name", ["state.pt", "streams.pt"])
def test_a_damaged_file_of_a_run_is_named(tmp_path: Path, name: str) -> None:
    train(dataclasses.replace(TINY, stages=TINY.stages[:1]), tmp_path, resume=False)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:500])
    with pytest.raises(CheckpointError, match=rf"{name} is damaged"):
        train(TINY, tmp_path, resume=True)


def test_a_run_is_not_resumed_with_another_recipe(tmp_path: Path) -> None:
    short = dataclasses.replace(TINY, stages=TINY.stages[:1])
    train(short, tmp_path, resume=False)
    other = dataclasses.replace(short.geometry, intermediate_size=64)
    with pytest.raises(CheckpointError, match="of another recipe"):
        train(dataclasses.replace(short, geometry=other), tmp_path, resume=True)
