"""Write a trained model in the released layout: shards, index, config, tokenizer."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from nldc.runtime.train.model import Geometry, parameter_shapes
from nldc.runtime.train.tokenizer import BOS, EOS, MASK, SPECIAL_TOKENS

SHARD_BYTES = 4_200_000
"""A shard is closed before it would exceed this; two of them hold the demo model."""


def export_checkpoint(
    params: Mapping[str, Tensor],
    geometry: Geometry,
    block_size: int,
    tokenizer_json: Path,
    out: Path,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a checkpoint folder; weights are rounded to bfloat16.

    Args:
        params: Float32 masters under the released names.
        geometry: Their sizes.
        block_size: The block length that config.json recommends.
        tokenizer_json: The tokenizer's file, copied.
        out: The folder, made if need be; shards of an earlier export are removed.
        shard_bytes: The most bytes of tensors in one shard, unless one tensor alone is larger.
    """
    out.mkdir(parents=True, exist_ok=True)
    for stale in out.glob("model-*-of-*.safetensors"):
        stale.unlink()
    shards: list[dict[str, Tensor]] = [{}]
    room = shard_bytes
    for name in parameter_shapes(geometry):
        value = params[name].detach().to(torch.bfloat16).contiguous()
        if shards[-1] and value.nbytes > room:
            shards.append({})
            room = shard_bytes
        shards[-1][name] = value
        room -= value.nbytes
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, out / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, file)
    total = sum(value.nbytes for shard in shards for value in shard.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    _write_json(out / "model.safetensors.index.json", index)
    _write_json(out / "config.json", config(geometry, block_size))
    _write_json(out / "tokenizer_config.json", tokenizer_config(geometry))
    (out / "tokenizer.json").write_bytes(tokenizer_json.read_bytes())


def config(geometry: Geometry, block_size: int) -> dict[str, object]:
    """Return config.json as plain data.

    The weights are stored in 16 bits and computed with in 32: a model this small takes no time.
    """
    g = geometry
    return {
        "architectures": ["NemotronLabsDiffusionModel"],
        "model_type": "nemotron_labs_diffusion",
        "hidden_size": g.hidden_size,
        "intermediate_size": g.intermediate_size,
        "num_hidden_layers": g.num_hidden_layers,
        "num_attention_heads": g.num_attention_heads,
        "num_key_value_heads": g.num_key_value_heads,
        "head_dim": g.head_dim,
        "vocab_size": g.vocab_size,
        "rms_norm_eps": g.rms_norm_eps,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "mask_token_id": MASK,
        "block_size": block_size,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "tie_word_embeddings": False,
        "max_position_embeddings": g.max_position_embeddings,
        "rope_parameters": {"rope_type": "default", "rope_theta": g.rope_theta},
        "dlm_paradigm": "bidirectional",
        "torch_dtype": "float32",
    }


def tokenizer_config(geometry: Geometry) -> dict[str, object]:
    """Return tokenizer_config.json as plain data."""
    unknown, bos, eos, mask = SPECIAL_TOKENS
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": unknown,
        "bos_token": bos,
        "eos_token": eos,
        "mask_token": mask,
        "add_bos_token": False,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": geometry.max_position_embeddings,
    }


def read_checkpoint(folder: Path) -> tuple[dict[str, Tensor], Geometry]:
    """Read a folder that `export_checkpoint` wrote; parameters come back as float32.

    Raises:
        KeyError: if config.json lacks a size.
    """
    read = json.loads((folder / "config.json").read_text())
    sizes = {name: read[name] for name in Geometry.__dataclass_fields__ if name != "rope_theta"}
    geometry = Geometry(**sizes, rope_theta=read["rope_parameters"]["rope_theta"])
    params: dict[str, Tensor] = {}
    for shard in sorted(folder.glob("model-*-of-*.safetensors")):
        params |= {name: value.float() for name, value in load_file(shard).items()}
    return params, geometry


def _write_json(at: Path, value: object) -> None:
    at.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
