"""A model of transformers as the runtime knows models: its config, and its tensors by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from nldc.runtime.checkpoint.config import MODEL_TYPE, ModelConfig, parse_config
from nldc.runtime.checkpoint.weights import HEAD, tensor_shapes
from nldc.runtime.errors import CheckpointError

ORIGIN = "the transformers model"
CAUSAL = ("llama", "mistral", "ministral3")
"""Types with the backbone's layers; their tensors are called `model.…` and `lm_head`."""
RELEASED = (MODEL_TYPE,)
"""Types whose tensors have the names of a released checkpoint."""


def config_of(model: Any, mask_token_id: int | None) -> ModelConfig:
    """Return the config of a model; `mask_token_id` goes before the one that its config has.

    Raises:
        CheckpointError: it is of another type, or computes what the backbone does not.
    """
    data: dict[str, Any] = model.config.to_dict()
    kind = data.get("model_type")
    if kind not in (*CAUSAL, *RELEASED):
        known = ", ".join(f"`{each}`" for each in (*CAUSAL, *RELEASED))
        raise CheckpointError(f"{ORIGIN} is of the type `{kind}`", f"these are decoded: {known}")
    if mask_token_id is not None:
        data["mask_token_id"] = mask_token_id
    if data.get("mask_token_id") is None:
        raise CheckpointError(
            f"{ORIGIN} names no mask token",
            "give custom_generate a mask_token_id: a token that stands in no text",
        )
    if kind in CAUSAL:
        data.setdefault("block_size", 0)  # the default is that of models which fill blocks
    # what is not said is how weights are stored: they are read as they are
    for key in ("dtype", "torch_dtype"):
        data.pop(key, None)
    return parse_config(data | {"model_type": MODEL_TYPE}, ORIGIN)


def tensors_of(model: Any, config: ModelConfig) -> dict[str, Tensor]:
    """Return the parameters of a model by the names of a released checkpoint.

    Raises:
        CheckpointError: there are others, as with adapters or quantised weights, or they do not all
            lie on one device in one dtype.
    """
    found = {
        _released(name): tensor
        for name, tensor in model.named_parameters(remove_duplicate=False)
        if not (config.tied_head and _released(name) == HEAD)
    }
    wanted = tensor_shapes(config)
    odd = sorted(found.keys() ^ wanted.keys())
    if odd:
        raise CheckpointError(
            f"{ORIGIN} {'lacks' if odd[0] in wanted else 'has'} the weight `{odd[0]}`",
            "plain weights are shared: merge adapters first, and load without quantisation",
        )
    for name, shape in wanted.items():
        if tuple(found[name].shape) != shape:
            raise CheckpointError(
                f"{ORIGIN}: `{name}` has the shape {list(found[name].shape)}, not {list(shape)}",
                "its config and its weights do not belong together",
            )
    kinds = {(str(tensor.device), str(tensor.dtype)) for tensor in found.values()}
    if len(kinds) > 1 or any(device == "meta" for device, _ in kinds):
        listed = ", ".join(f"{dtype} on {device}" for device, dtype in sorted(kinds))
        raise CheckpointError(
            f"the weights of {ORIGIN} are {listed}", "load it in one dtype on one device"
        )
    return found


def places_of(model: Any) -> Mapping[str, tuple[int, str]]:
    """Return where each parameter lies, to tell whether one was moved or replaced."""
    return {name: (each.data_ptr(), str(each.dtype)) for name, each in model.named_parameters()}


def _released(name: str) -> str:
    if name.startswith("model."):
        return f"encoder.{name.removeprefix('model.')}"
    return name.replace("lm_head.", "diffusion_head.", 1)
