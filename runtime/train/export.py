"""Write a trained model in the released layout: shards, index, config, tokenizer."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from nldc.runtime.checkpoint.weights import INDEX
from nldc.runtime.errors import CheckpointError
from nldc.runtime.files import put_files
from nldc.runtime.json_file import read_json
from nldc.runtime.train.geometry import Geometry, config_file, model_config
from nldc.runtime.train.model import parameter_shapes
from nldc.runtime.train.tokenizer import SPECIAL_TOKENS

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
    for name in parameter_shapes(model_config(geometry, block_size)):
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
        _write_json(folder / "config.json", config_file(geometry, block_size))
        _write_json(folder / "tokenizer_config.json", tokenizer_config(geometry))
        (folder / "tokenizer.json").write_bytes(tokenizer_json.read_bytes())

    put_files(out, fill, stale)


def make_folder(folder: Path) -> None:
    """Make a folder, if need be.

    Raises:
        CheckpointError: there can be none.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        reason = (problem.strerror or str(problem)).lower()
        raise CheckpointError(f"cannot write {folder}: {reason}", "choose another folder") from None


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


def _write_json(at: Path, value: object) -> None:
    at.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
