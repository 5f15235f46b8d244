"""Released checkpoints, with exactly the keys that their files have: read as what they are.

Sizes are checked at full scale from the config alone; what loads and decodes is the same config
with small numbers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from handwritten import Ar, LinearSS
from safetensors.torch import save_file

from nldc.runtime.checkpoint.config import ModelConfig, parse_config
from nldc.runtime.checkpoint.weights import tensor_shapes
from nldc.runtime.errors import CheckpointError

ROPE = {
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "factor": 16.0,
    "llama_4_scaling_beta": 0.1,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "original_max_position_embeddings": 16384,
    "rope_theta": 1000000.0,
    "rope_type": "yarn",
}
COMMON: dict[str, Any] = {
    "architectures": ["NemotronLabsDiffusionModel"],
    "ar_loss_weight": 1.0,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attn_implementation": "sdpa",
    "auto_map": {
        "AutoConfig": "configuration_nemotron_labs_diffusion.NemotronLabsDiffusionConfig",
        "AutoModel": "modeling_nemotron_labs_diffusion.NemotronLabsDiffusionModel",
    },
    "block_size": 32,
    "bos_token_id": 1,
    "dlm_loss_weight": None,
    "dlm_paradigm": "bidirectional",
    "dp_varying_mask_ratio": False,
    "eos_token_id": 11,
    "head_dim": 128,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "mask_token_id": 100,
    "max_position_embeddings": 262144,
    "mlp_bias": False,
    "model_type": "nemotron_labs_diffusion",
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_parameters": ROPE,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "5.0.0",
    "use_cache": False,
    "vocab_size": 131072,
}
SMALL_3B = {"hidden_size": 3072, "intermediate_size": 9216, "num_hidden_layers": 26}
LARGE = {"hidden_size": 5120, "intermediate_size": 16384, "num_hidden_layers": 40}
MIDDLE = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 34}
VISION_KEYS: dict[str, Any] = {
    "architectures": ["NemotronLabsDiffusionVLMModel"],
    "model_type": "nemotron_labs_diffusion_vlm",
    "vocab_size": 131073,
    "rope_parameters": {**ROPE, "type": "yarn"},
    "dlm_type": "llada",
    "dlm_arch": "encoder",
    "complementary_mask": True,
    "global_loss_avg": True,
    "adaptive_mask_rate": False,
    "ada_dlm_loss_ratio": None,
    "ada_perm_ratio_global": None,
    "ada_perm_ratio_per_block": None,
    "multi_sampling": None,
    "prefix_ratio": 0.8,
    "random_length_prob": 0,
    "tok_mask_half_life_ratio": None,
    "num_ar_layers": 0,
    "num_diffusion_layers": 0,
    "num_skip_loss_tokens": 0,
    "enable_self_spec": True,
    "spatial_merge_size": 2,
    "projector_hidden_act": "gelu",
    "multimodal_projector_bias": False,
    "vision_feature_layer": -1,
    "vision_config": {
        "model_type": "pixtral",
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
    },
}
CONFIGS: dict[str, dict[str, Any]] = {
    "3B-Base": COMMON
    | SMALL_3B
    | {
        "max_position_embeddings": 4096,
        "eos_token_id": 2,
        "rope_parameters": ROPE | {"factor": 0.25},
    },
    "3B": COMMON | SMALL_3B,
    "8B": COMMON | MIDDLE,
    "14B": COMMON | LARGE | {"rope_parameters": ROPE | {"rope_theta": 1e9}},
    "VLM-8B": COMMON | MIDDLE | VISION_KEYS,
}
TINY = {
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 128,
}


def tiny(folder: Path, name: str) -> Path:
    """Write a random checkpoint with a released config's keys, its tensors' names and dtype."""
    config = CONFIGS[name] | TINY
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(3)
    tensors = {
        key: (torch.randn(shape, generator=generator) * 0.3 + (len(shape) == 1)).bfloat16()
        for key, shape in tensor_shapes(parse_config(config)).items()
    }
    if name == "VLM-8B":
        for key in ("vision_tower.patch_conv", "multi_modal_projector.linear_1"):
            tensors[f"encoder.{key}.weight"] = torch.randn(4, 3).bfloat16()
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("name", "context", "theta", "factor", "eos", "tensors", "billions"),
    [
        ("3B-Base", 4096, 1e6, 0.25, 2, 237, 3.83),
        ("3B", 262144, 1e6, 16.0, 11, 237, 3.83),
        ("8B", 262144, 1e6, 16.0, 11, 309, 8.49),
        ("14B", 262144, 1e9, 16.0, 11, 363, 13.5),
        ("VLM-8B", 262144, 1e6, 16.0, 11, 309, 8.49),
    ],
)
def test_a_released_config_gives_the_model_that_was_released(
    name: str, context: int, theta: float, factor: float, eos: int, tensors: int, billions: float
) -> None:
    config = parse_config(CONFIGS[name])
    assert (config.context, config.rope.theta, config.rope.factor) == (context, theta, factor)
    assert (config.eos_token_ids, config.mask_token_id, config.block_size) == ((eos,), 100, 32)
    assert (config.dtype, config.head_dim, config.unknown) == ("bfloat16", 128, ())
    assert config.vision == (name == "VLM-8B")
    shapes = tensor_shapes(config)
    assert len(shapes) == tensors
    parameters = sum(torch.Size(shape).numel() for shape in shapes.values())
    assert parameters / 1e9 == pytest.approx(billions, rel=0.01)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_checkpoint_with_a_released_config_loads_in_its_dtype_and_is_exact(
    name: str, tmp_path: Path
) -> None:
    folder = tiny(tmp_path / "model", name)
    made = type("LinearSS", (LinearSS,), {"BLOCK": 4})
    drafted, plain = (
        kind.from_checkpoint(folder, device="cpu", backend="torch") for kind in (made, Ar)
    )
    assert plain.model.backbone.dtype == torch.bfloat16
    assert plain.config.context == CONFIGS[name]["max_position_embeddings"]
    prompts = [[5, 9, 20], [7] * 12]
    expected = plain.generate(prompts, max_new_tokens=12)
    assert drafted.generate(prompts, max_new_tokens=12).tokens == expected.tokens


def test_the_vision_part_is_read_only_when_a_picture_comes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Here it is damaged, and text does not care."""
    decoder = Ar.from_checkpoint(tiny(tmp_path / "model", "VLM-8B"), device="cpu", backend="torch")
    assert not caplog.records
    assert decoder.generate([[5, 9]], max_new_tokens=2).tokens[0]
    with pytest.raises(CheckpointError, match=r"vision_tower\.patch_conv.* has the shape \[4, 3\]"):
        decoder.eye.load()


def test_a_config_without_the_keys_that_have_released_defaults_is_that_of_the_released_class() -> (
    None
):
    bare = {
        key: value
        for key, value in CONFIGS["8B"].items()
        if key
        not in {
            *("head_dim", "num_key_value_heads", "rms_norm_eps", "max_position_embeddings"),
            *("rope_parameters", "block_size", "hidden_act", "dlm_paradigm"),
        }
    }
    found, full = parse_config(bare), parse_config(CONFIGS["8B"])
    for name in ModelConfig.__dataclass_fields__:
        if name != "assumed":
            assert getattr(found, name) == getattr(full, name), name
    assert dict(found.assumed) == {"num_key_value_heads": 8, "head_dim": 128}


def test_heads_that_are_null_follow_from_the_others_as_in_the_released_class() -> None:
    config = parse_config(CONFIGS["8B"] | {"head_dim": None, "num_key_value_heads": None})
    assert (config.num_kv_heads, config.head_dim) == (32, 4096 // 32)
    assert config.assumed == ()
