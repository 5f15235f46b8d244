"""Sizes of checkpoints: the released ones, and those of a folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nldc.cost.geometry import RELEASED, load_geometry
from nldc.runtime.errors import AdapterError, CheckpointError
from nldc.verify import model_folder

DEMO = model_folder(None)


@pytest.mark.parametrize(("name", "parameters"), [("3b", 3.83e9), ("8b", 8.49e9), ("14b", 13.5e9)])
def test_the_released_geometries_have_the_released_number_of_weights(
    name: str, parameters: float
) -> None:
    geometry = RELEASED[name]
    # the embedding is as large as the head; norms are too small to matter
    assert geometry.streamed + 2 * geometry.head == pytest.approx(parameters, rel=2e-3)


def test_the_8b_streams_15_9_gb_a_forward() -> None:
    geometry = RELEASED["8b"]
    assert 2 * (geometry.streamed + geometry.head) == pytest.approx(15.9e9, rel=1e-3)


def test_a_folder_has_its_own_sizes_and_those_of_its_drafter() -> None:
    config = json.loads((DEMO / "config.json").read_text())
    geometry = load_geometry(DEMO)
    assert geometry.hidden == config["hidden_size"]
    assert geometry.layers == config["num_hidden_layers"]
    width = config["num_attention_heads"] * config["head_dim"]
    assert geometry.adapter == ((width, 64, config["hidden_size"]),)


def test_a_drafter_whose_config_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((DEMO / "config.json").read_text())
    assert load_geometry(tmp_path).adapter == ()
    folder = tmp_path / "linear_spec_lora"
    folder.mkdir()
    for text in ("{", '{"r": 8}', '{"r": 8, "target_modules": ["lm_head"]}', "[]"):
        (folder / "adapter_config.json").write_text(text)
        with pytest.raises(AdapterError, match="cannot be read"):
            load_geometry(tmp_path)


def test_a_name_that_is_neither_is_refused() -> None:
    with pytest.raises(CheckpointError, match="no geometry `80b`"):
        load_geometry("80b")
