"""Random checkpoints in the released layout, with a byte-level tokenizer if asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from test_tokenizer import TEMPLATE, byte_level

from nldc import api
from nldc.runtime import Decoder
from nldc.runtime.checkpoint.config import parse_config
from nldc.runtime.checkpoint.weights import tensor_shapes
from nldc.runtime.loading import Backend
from tests.library import short_steps

CONFIG: dict[str, Any] = {
    "model_type": "nemotron_labs_diffusion",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 260,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 512,
    "mask_token_id": 100,
    "eos_token_id": 1,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
}


def random_checkpoint(folder: Path, seed: int = 0, *, text: bool = False, **settings: Any) -> Path:
    """Write a checkpoint; its logits are spread enough that sampling at temperature 1 is varied."""
    folder.mkdir(exist_ok=True, parents=True)
    data = {**CONFIG, **settings}
    (folder / "config.json").write_text(json.dumps(data))
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: torch.randn(shape, generator=generator) * (0.3 if len(shape) > 1 else 0.1)
        + (len(shape) == 1)
        for name, shape in tensor_shapes(parse_config(data)).items()
    }
    save_file(tensors, folder / "model.safetensors")
    if text:
        byte_level().save(str(folder / "tokenizer.json"))
        settings_ = {"bos_token": "<s>", "chat_template": TEMPLATE}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings_))
    return folder


def decoders_on(
    model: Path, root: Path, dtype: str, backend: Backend | None = None
) -> Callable[[str], Decoder]:
    """Return what compiles a strategy of the library below `root`, once, and loads `model`.

    Steps are short: random models agree with few drafts, so most rows of a long step are for none.
    """

    @cache
    def get(name: str) -> Decoder:
        settings = short_steps(name, 5)
        if name == "linear_ss_iterative":
            settings["threshold"] = 0.02  # or a random model is never sure, and fills row by row
        kind = api.load(api.compile(name, root / name, settings, certify=False))
        return kind.from_checkpoint(model, dtype=dtype, device="cpu", backend=backend)

    return get
