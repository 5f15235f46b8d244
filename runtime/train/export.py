"""Write a trained model in the released layout: shards, index, config, tokenizer."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from nldc.runtime.checkpoint.weights import open_files
from nldc.runtime.errors import CheckpointError
from nldc.runtime.files import put_files
from nldc.runtime.json_file import read_json
from nldc.runtime.train.model import Geometry, parameter_shapes
from nldc.runtime.train.tokenizer import BOS, EOS, MASK, SPECIAL_TOKENS

INDEX = "model.safetensors.index.json"
WRITTEN_BY = "nldc train"
"""What the index of an exported checkpoint says of itself, so that it may be replaced."""
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
        out: The folder, made if need be; the files of an earlier export are replaced.
        shard_bytes: The most bytes of tensors in one shard, unless one tensor alone is larger.

    Raises:
        CheckpointError: `out` holds a checkpoint that no export wrote.
        OSError: it cannot be written; `out` is as it was.
    """
    out.mkdir(parents=True, exist_ok=True)
    stale = check_export(out)
    shards: list[dict[str, Tensor]] = [{}]
    room = shard_bytes
    for name in parameter_shapes(geometry):
        value = params[name].detach().to(torch.bfloat16).contiguous()
        if shards[-1] and value.nbytes > room:
            shards.append({})
            room = shard_bytes
        shards[-1][name] = value
        room -= value.nbytes
    total = sum(value.nbytes for shard in shards for value in shard.values())

    def fill(folder: Path) -> None:
        weight_map: dict[str, str] = {}
        for number, shard in enumerate(shards, start=1):
            file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            save_file(shard, folder / file, metadata={"format": "pt"})
            weight_map |= dict.fromkeys(shard, file)
        metadata = {"total_size": total, "written_by": WRITTEN_BY}
        index = {"metadata": metadata, "weight_map": dict(sorted(weight_map.items()))}
        _write_json(folder / INDEX, index)
        _write_json(folder / "config.json", config(geometry, block_size))
        _write_json(folder / "tokenizer_config.json", tokenizer_config(geometry))
        (folder / "tokenizer.json").write_bytes(tokenizer_json.read_bytes())

    put_files(out, fill, stale)


def check_export(out: Path) -> frozenset[str]:
    """Return the files of an earlier export into `out`, which the next one replaces.

    Raises:
        CheckpointError: `out` holds a checkpoint that no export wrote.
    """
    taken = sorted(
        path.name
        for pattern in ("*.json", "*.safetensors")
        for path in (out.glob(pattern) if out.is_dir() else ())
    )
    if not taken:
        return frozenset()
    try:
        index = read_json(out / INDEX)
        is_own = index["metadata"]["written_by"] == WRITTEN_BY
        shards = {str(name) for name in index["weight_map"].values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        is_own, shards = False, set()
    if not is_own:
        raise CheckpointError(
            f"{out / taken[0]} was not written by `nldc train`, and would be replaced",
            "move it, or train in a new folder",
        )
    return frozenset(name for name in shards if name in taken)


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
    """Read a checkpoint of the kind that `export_checkpoint` writes; parameters become float32.

    Raises:
        CheckpointError: it is damaged, or of a model that is not trained here.
    """
    try:
        read = read_json(folder / "config.json")
        sizes = {name: read[name] for name in Geometry.__dataclass_fields__ if name != "rope_theta"}
        geometry = Geometry(**sizes, rope_theta=read["rope_parameters"]["rope_theta"])
        shapes = parameter_shapes(geometry)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
        reason = f"it lacks {problem}" if isinstance(problem, KeyError) else problem
        raise CheckpointError(
            f"{folder / 'config.json'} is of no model that is trained here: {reason}",
            "give a checkpoint that `nldc train base` wrote",
        ) from problem
    files = open_files(folder)
    params: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        if name not in files:
            raise CheckpointError(
                f"{folder}: tensor `{name}` is in none of the weight files",
                "config.json asks for it; the checkpoint is incomplete",
            )
        files[name].expect(name, tuple(shape), "its shape follows from config.json")
        params[name] = files[name].read(name, torch.float32, torch.device("cpu"))
    return params, geometry


def _write_json(at: Path, value: object) -> None:
    at.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
