"""Random checkpoints of every geometry, with a drafter, for decoders that were compiled."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Protocol, TypeVar

import torch
from safetensors.torch import save_file

from nldc.runtime.checkpoint.config import parse_config
from nldc.runtime.checkpoint.weights import tensor_shapes

T = TypeVar("T")


@dataclass(frozen=True)
class Geometry:
    """The numbers of a checkpoint, and the scale of its weights."""

    settings: dict[str, Any]
    scale: float


class Choose(Protocol):
    """Takes one of several; the first is the plainest, and what hypothesis shrinks to."""

    def __call__(self, options: Sequence[T], /) -> T: ...


def geometry(choose: Choose) -> Geometry:
    """Choose a geometry: shared keys, head_dim unrelated to the width, rope of all kinds."""
    kv_heads = choose((1, 2, 3))
    vocabulary = choose((12, 19, 33))
    yarn = {
        "rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "beta_fast": 32.0, "beta_slow": 1.0,
        "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": choose((0.0, 0.3)),
        "original_max_position_embeddings": choose((8, 64)),
    }  # fmt: skip
    end = choose(range(vocabulary))
    settings = {
        "model_type": "nemotron_labs_diffusion",
        "hidden_size": choose((16, 24, 40)),
        "intermediate_size": choose((20, 48)),
        "num_hidden_layers": choose((1, 2, 3)),
        "num_attention_heads": kv_heads * choose((1, 2, 4)),
        "num_key_value_heads": kv_heads,
        "head_dim": choose((4, 10, 16)),
        "vocab_size": vocabulary,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 512,
        "mask_token_id": choose(range(vocabulary)),
        "eos_token_id": choose(([end], [end, (end + 5) % vocabulary])),
        "rope_parameters": choose(({"rope_type": "default", "rope_theta": 1e4}, yarn)),
    }
    return Geometry(settings, choose((0.2, 0.6, 1.5)))


def write(folder: Path, seed: int, drawn: Geometry | None = None) -> Path:
    """Write a checkpoint and its adapter; without a geometry, that of the seed."""
    drawn = drawn or geometry(Random(seed).choice)
    generator = torch.Generator().manual_seed(seed)
    config = parse_config(drawn.settings)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(drawn.settings))
    tensors = {
        name: torch.randn(shape, generator=generator) * drawn.scale
        if len(shape) > 1
        else 1 + torch.randn(shape, generator=generator) * 0.1
        for name, shape in tensor_shapes(config).items()
    }
    save_file(tensors, folder / "model.safetensors")
    adapter = folder / "linear_spec_lora"
    adapter.mkdir(exist_ok=True)
    peft = {
        "peft_type": "LORA",
        "r": 2,
        "lora_alpha": 4,
        "bias": "none",
        "target_modules": ["o_proj"],
    }
    (adapter / "adapter_config.json").write_text(json.dumps(peft))
    width = config.num_heads * config.head_dim
    products = {}
    for layer in range(config.num_layers):
        name = f"base_model.model.encoder.layers.{layer}.self_attn.o_proj"
        products[f"{name}.lora_A.weight"] = torch.randn(2, width, generator=generator) * drawn.scale
        products[f"{name}.lora_B.weight"] = torch.randn(
            config.hidden_size, 2, generator=generator
        ) * drawn.scale  # fmt: skip
    save_file(products, adapter / "adapter_model.safetensors")
    return folder
