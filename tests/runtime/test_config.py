"""config.json: every number from the file, and a clear error for what cannot be computed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from handwritten import CHECKPOINTS

from nldc.runtime.config import ModelConfig, parse_config
from nldc.runtime.errors import CheckpointError

RELEASED: dict[str, Any] = json.loads((CHECKPOINTS[3] / "config.json").read_text())


def changed(**settings: Any) -> dict[str, Any]:
    return {**RELEASED, **settings}


def test_every_number_is_read_from_the_file() -> None:
    config = parse_config(
        changed(head_dim=10, eos_token_id=[2, 7], block_size=8, max_position_embeddings=99)
    )
    assert (config.hidden_size, config.intermediate_size, config.num_layers) == (48, 40, 3)
    assert (config.num_heads, config.num_kv_heads, config.head_dim) == (2, 1, 10)
    assert (config.vocab_size, config.context, config.block_size) == (61, 99, 8)
    assert (config.mask_token_id, config.eos_token_ids, config.bos_token_id) == (41, (2, 7), 1)
    assert config.rms_norm_eps == 1e-5
    rope = config.rope
    assert (rope.rope_type, rope.theta, rope.factor) == ("yarn", 1e6, 16.0)
    assert (rope.original_context, rope.beta_fast, rope.beta_slow) == (16384, 32.0, 1.0)
    assert (rope.mscale, rope.mscale_all_dim, rope.llama_4_beta) == (1.0, 1.0, 0.1)


def test_one_eos_id_is_a_list_of_one_and_none_is_an_empty_list() -> None:
    assert parse_config(changed(eos_token_id=5)).eos_token_ids == (5,)
    assert parse_config(changed(eos_token_id=None)).eos_token_ids == ()


def test_rope_settings_of_older_configs_are_read() -> None:
    data = changed(rope_theta=5000.0, rope_scaling=None)
    del data["rope_parameters"]
    assert parse_config(data).rope.theta == 5000.0
    assert parse_config(data).rope.rope_type == "default"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_size": None}, "c: `hidden_size` is missing"),
        ({"hidden_size": "48"}, "c: hidden_size = '48'"),
        ({"num_hidden_layers": 0}, "c: num_hidden_layers = 0"),
        ({"num_hidden_layers": True}, "c: num_hidden_layers = True"),
        ({"model_type": "llama"}, "c: model_type is `llama`"),
        ({"hidden_act": "gelu"}, "c: hidden_act = 'gelu' is not supported"),
        ({"attention_bias": True}, "c: attention_bias = True is not supported"),
        ({"mlp_bias": True}, "c: mlp_bias = True is not supported"),
        ({"sliding_window": 128}, "c: sliding_window = 128 is not supported"),
        ({"quantization_config": {}}, "c: quantization_config = {} is not supported"),
        ({"num_key_value_heads": 3}, "c: 2 attention heads cannot share 3 key-value heads evenly"),
        ({"head_dim": 9}, "c: head_dim 9 is odd"),
        ({"mask_token_id": 61}, "c: mask_token_id 61 is not in the vocabulary of 61"),
        ({"eos_token_id": [2, 700]}, "c: eos_token_id 700 is not in the vocabulary of 61"),
        ({"eos_token_id": "</s>"}, "c: eos_token_id = '</s>'"),
        ({"rope_parameters": []}, "c: rope_parameters is no object"),
        (
            {"rope_parameters": {"rope_type": "longrope", "rope_theta": 1.0}},
            "c: rope_parameters: rope_type `longrope` is not supported",
        ),
        (
            {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}},
            "c: rope_parameters: `factor` is missing",
        ),
        ({"rope_parameters": {"rope_theta": -1}}, "c: rope_parameters: rope_theta = -1"),
        ({"rope_parameters": {"rope_theta": 1}}, "c: rope_parameters: rope_theta = 1.0"),
        ({"rope_parameters": {"rope_theta": math.inf}}, "c: rope_parameters: rope_theta = inf"),
        ({"rms_norm_eps": 10**400}, f"c: rms_norm_eps = {10**400}"),
        ({"tie_word_embeddings": "no"}, "c: tie_word_embeddings = 'no'"),
        (
            {"rope_parameters": None, "rope_theta": 1e4, "rope_scaling": {"type": "linear"}},
            "c: rope_parameters: rope_type `linear` is not supported",
        ),
    ],
)
def test_a_setting_that_cannot_be_used_is_named_with_its_value(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError) as caught:
        parse_config(changed(**settings), "c")
    assert caught.value.message == message
    assert caught.value.hint


def test_a_missing_folder_file_and_broken_json_are_told_apart(tmp_path: Path) -> None:
    for folder, content, message in (
        (tmp_path / "none", None, "is not a folder"),
        (tmp_path, None, "config.json is missing"),
        (tmp_path, "{", "cannot be read as JSON"),
        (tmp_path, "[]", "holds no JSON object"),
        (tmp_path, "[" * 100_000, "cannot be read as JSON: it is nested too deeply"),
    ):
        if content is not None:
            (folder / "config.json").write_text(content)
        with pytest.raises(CheckpointError, match=message):
            ModelConfig.load(folder)
