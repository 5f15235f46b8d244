"""A tiny random checkpoint with the released vision-language model's keys, names and tokens.

`python -m tests.tiny_vlm FOLDER` writes one: random weights, small shapes, a tokenizer of bytes
whose special tokens have the released ids, and a ChatML template that writes a start for each
picture.
"""

from __future__ import annotations

import json
import sys
from math import prod
from pathlib import Path
from typing import Any

import tokenizers
import torch
from safetensors.torch import save_file

from nldc.runtime.checkpoint.config import parse_config
from nldc.runtime.checkpoint.weights import tensor_shapes
from nldc.runtime.vision.config import parse_vision
from nldc.runtime.vision.weights import vision_shapes

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
    "type": "yarn",
}
CONFIG: dict[str, Any] = {
    "architectures": ["NemotronLabsDiffusionVLMModel"],
    "model_type": "nemotron_labs_diffusion_vlm",
    "vocab_size": 360,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "rms_norm_eps": 1e-05,
    "max_position_embeddings": 4096,
    "eos_token_id": 11,
    "mask_token_id": 100,
    "block_size": 32,
    "dlm_paradigm": "bidirectional",
    "dlm_type": "llada",
    "dlm_arch": "encoder",
    "complementary_mask": True,
    "tie_word_embeddings": False,
    "sliding_window": None,
    "rope_parameters": ROPE,
    "torch_dtype": "bfloat16",
    "spatial_merge_size": 2,
    "projector_hidden_act": "gelu",
    "multimodal_projector_bias": False,
    "vision_feature_layer": -1,
    "vision_config": {
        "model_type": "pixtral",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "head_dim": 16,
        "intermediate_size": 48,
        "image_size": 1540,
        "patch_size": 14,
        "num_channels": 3,
        "hidden_act": "silu",
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
    },
}
NAMED = {
    0: "<unk>",
    1: "<s>",
    2: "</s>",
    10: "<|im_start|>",
    11: "<|im_end|>",
    12: "<think>",
    13: "</think>",
    18: "<|image_start|>",
    19: "<|image_pad|>",
    20: "<|image_break|>",
    21: "<|image_end|>",
}
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}{{ '<|image_start|>' }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
    "{% if not enable_thinking %}{{ '<think></think>' }}{% endif %}{% endif %}"
)


def tokenizer() -> tokenizers.Tokenizer:
    """Return a tokenizer of bytes behind 101 special tokens, with the released ids and names."""
    special = [NAMED.get(number, f"<SPECIAL_{number}>") for number in range(101)]
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*special, *letters])}
    inner = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    inner.add_special_tokens(special)
    return inner


def tensors_of(data: dict[str, Any], seed: int = 0) -> dict[str, torch.Tensor]:
    """Return random tensors for a config: wide enough that logits and pictures are varied."""
    text = parse_config(data)
    shapes = {**tensor_shapes(text), **vision_shapes(parse_vision(data, text))}
    generator = torch.Generator().manual_seed(seed)

    def drawn(shape: tuple[int, ...]) -> torch.Tensor:
        values = torch.randn(shape, generator=generator)
        return values * prod(shape[1:]) ** -0.5 * 1.5 if len(shape) > 1 else 1 + values * 0.1

    return {name: drawn(shape) for name, shape in shapes.items()}


def tiny_vlm(folder: Path, seed: int = 0, **settings: Any) -> Path:
    """Write a checkpoint of `CONFIG` with other `settings` into a new folder, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    data = {**CONFIG, **settings}
    (folder / "config.json").write_text(json.dumps(data, indent=1), encoding="utf-8")
    kind = getattr(torch, data["torch_dtype"])
    tensors = {name: each.to(kind) for name, each in tensors_of(data, seed).items()}
    save_file(tensors, folder / "model.safetensors")
    tokenizer().save(str(folder / "tokenizer.json"))
    config = {"eos_token": "<|im_end|>", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


if __name__ == "__main__":
    tiny_vlm(Path(sys.argv[1]))
