"""Weights that somebody else holds, used where they lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from handwritten import CHECKPOINTS
from safetensors.torch import load_file
from torch import Tensor

from nldc import api
from nldc.runtime.checkpoint.config import ModelConfig
from nldc.runtime.decoder import Decoder
from nldc.runtime.errors import AdapterError
from nldc.runtime.loading import load_on

FOLDER = CHECKPOINTS[0]
PROMPTS = [[5, 9, 11, 40], [7, 7]]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(scope="module")
def kind(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("artifacts") / "linear_ss_lora"
    return api.load(api.compile("linear_ss_lora", folder, certify=False))


def tensors_on(device: str, dtype: torch.dtype) -> dict[str, Tensor]:
    held = load_file(FOLDER / "model.safetensors")
    return {name: tensor.to(device, dtype, copy=True) for name, tensor in held.items()}


def shared(kind: Any, tensors: dict[str, Tensor], **options: Any) -> tuple[Decoder, Any]:
    found: tuple[Decoder, Any] = load_on(kind, ModelConfig.load(FOLDER), tensors, **options)
    return found


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_shared_weights_give_the_checkpoint_s_tokens(kind: Any, device: str, dtype: str) -> None:
    tensors = tensors_on(device, getattr(torch, dtype))
    decoder, _ = shared(kind, tensors, folder=FOLDER, adapter="auto")
    own = kind.from_checkpoint(FOLDER, device=device, dtype=dtype)
    for options in ({}, {"temperature": 0.9, "seed": 3}):
        want = own.generate(PROMPTS, max_new_tokens=24, **options).tokens
        assert decoder.generate(PROMPTS, max_new_tokens=24, **options).tokens == want
    assert list(decoder.model.adapters) == list(own.model.adapters) == ["drafter"]


@pytest.mark.parametrize("device", DEVICES)
def test_matrices_lie_where_they_lay_but_those_that_kernels_read_as_one(
    kind: Any, device: str
) -> None:
    tensors = tensors_on(device, torch.float32)
    before = {name: (tensor.data_ptr(), tensor.clone()) for name, tensor in tensors.items()}
    decoder, copied = shared(kind, tensors)
    for name, tensor in tensors.items():
        is_moved = device != "cpu" and any(f".{part}_proj" in name for part in "qkv")
        assert (tensor.data_ptr() != before[name][0]) is is_moved
        assert torch.equal(tensor, before[name][1])
    own = "encoder.layers.1.{}.weight".format
    down: Any = decoder.model.backbone.weights.layers[1].down
    assert own("mlp.down_proj") not in copied
    tensors[own("mlp.down_proj")].zero_()
    assert not down.to_dense().any()


def test_a_matrix_may_begin_within_a_cache_line_as_in_a_mapped_file(kind: Any) -> None:
    tensors = tensors_on("cpu", torch.float32)
    want = shared(kind, tensors)[0].generate(PROMPTS, max_new_tokens=24).tokens
    for name, tensor in tensors.items():
        room = tensor.new_empty(tensor.numel() + 32)
        behind = 6 - room.data_ptr() % 64 // 4
        tensors[name] = room[behind % 16 :][: tensor.numel()].view(tensor.shape).copy_(tensor)
        assert tensors[name].data_ptr() % 64 == 24
    decoder, _ = shared(kind, tensors)
    down: Any = decoder.model.backbone.weights.layers[0].down
    assert down.data.data_ptr() == tensors["encoder.layers.0.mlp.down_proj.weight"].data_ptr()
    assert decoder.generate(PROMPTS, max_new_tokens=24).tokens == want


def test_rows_that_are_no_whole_lines_are_named(kind: Any) -> None:
    _, copied = shared(kind, tensors_on("cpu", torch.float32))
    assert "diffusion_head.weight" in copied  # 40 values of 4 bytes
    assert "encoder.layers.0.mlp.down_proj.weight" not in copied  # 96


def test_an_adapter_that_is_asked_for_must_be_there(kind: Any, tmp_path: Path) -> None:
    with pytest.raises(AdapterError):
        shared(kind, tensors_on("cpu", torch.float32), adapter=tmp_path / "nowhere")
