"""The encoder and the projector against their definitions, written out, and recorded numbers."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from nldc.runtime.checkpoint.config import parse_config
from nldc.runtime.checkpoint.quantising import quantize
from nldc.runtime.errors import CheckpointError, CheckpointWarning
from nldc.runtime.vision.config import VisionConfig, parse_vision
from nldc.runtime.vision.encoder import encode, norm, project, turned, turns
from nldc.runtime.vision.weights import TOWER, VisionWeights, load_vision, vision_shapes
from tests.tiny_vlm import CONFIG, tiny_vlm

TEXT = parse_config(CONFIG)
TINY = parse_vision(CONFIG, TEXT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_vlm(tmp_path_factory.mktemp("vlm") / "model", torch_dtype="float32")


@pytest.fixture(scope="module")
def weights(folder: Path) -> VisionWeights:
    return load_vision(folder, TINY, TEXT, torch.float64, torch.device("cpu"))


def pixels(down: int, across: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (3, down * TINY.cell, across * TINY.cell)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def test_the_released_config_has_the_released_tensors() -> None:
    data = {**CONFIG, "hidden_size": 4096, "vision_config": {"model_type": "pixtral"}}
    config = parse_vision(data, parse_config(data))
    assert (config.head_dim, config.cell) == (64, 28)
    shapes = vision_shapes(config)
    tower = [torch.Size(shape).numel() for name, shape in shapes.items() if TOWER in name]
    rest = [torch.Size(shape).numel() for name, shape in shapes.items() if TOWER not in name]
    assert (len(tower), len(rest)) == (218, 4)
    assert sum(tower) / 1e6 == pytest.approx(403.3, abs=0.1)
    assert sum(rest) / 1e6 == pytest.approx(25.2, abs=0.1)
    assert shapes["encoder.multi_modal_projector.patch_merger.merging_layer.weight"] == (1024, 4096)


def test_rows_turn_even_frequencies_and_columns_odd_ones() -> None:
    config = replace(TINY, hidden_size=128, num_heads=2)
    cos, sin = turns(2, 3, config, torch.zeros(1, dtype=torch.float64))
    frequencies = [10000 ** (-2 * j / 64) for j in range(32)]
    for row in range(2):
        for column in range(3):
            angles = [row * f for f in frequencies[0::2]] + [column * f for f in frequencies[1::2]]
            place = row * 3 + column
            assert cos[place].tolist() == pytest.approx([math.cos(a) for a in angles * 2])
            assert sin[place].tolist() == pytest.approx([math.sin(a) for a in angles * 2])


def test_a_head_turns_each_channel_with_the_one_half_a_head_away() -> None:
    head = torch.tensor([[[1.0, 2.0, 3.0, 4.0]]])
    angle = torch.tensor([[0.5, 1.5, 0.5, 1.5]])
    found = turned(head, angle.cos(), angle.sin())[0, 0]
    for pair, turn in ((0, 0.5), (1, 1.5)):
        whole = complex(head[0, 0, pair], head[0, 0, pair + 2]) * complex(
            math.cos(turn), math.sin(turn)
        )
        assert float(found[pair]) == pytest.approx(whole.real)
        assert float(found[pair + 2]) == pytest.approx(whole.imag)


def test_the_encoder_is_its_definition_written_out(weights: VisionWeights) -> None:
    given = pixels(2, 1)
    conv = weights.patches.view(TINY.hidden_size, 3, TINY.patch_size, TINY.patch_size)
    rows = F.conv2d(given[None], conv, stride=TINY.patch_size)[0].flatten(1).T
    rows = norm(rows, weights.first_norm)
    cos, sin = turns(4, 2, TINY, rows)
    for layer in weights.layers:
        parts = F.linear(norm(rows, layer.attention_norm), layer.qkv).chunk(3, dim=1)
        seen = []
        for head in range(TINY.num_heads):
            own = slice(head * TINY.head_dim, (head + 1) * TINY.head_dim)
            query, key = (turned(each[None, :, own], cos, sin)[0] for each in parts[:2])
            weighed = torch.softmax(query @ key.T / TINY.head_dim**0.5, dim=-1)
            seen.append(weighed @ parts[2][:, own])
        rows = rows + torch.cat(seen, 1) @ layer.output.T
        gate, up = F.linear(norm(rows, layer.ffn_norm), layer.gate_up).chunk(2, dim=1)
        rows = rows + (F.silu(gate) * up) @ layer.down.T
    assert torch.allclose(encode(given, weights, TINY), rows, atol=1e-12)


def test_four_patches_are_merged_with_the_channel_slowest_and_raster_order_within(
    weights: VisionWeights,
) -> None:
    patches = torch.arange(4 * 6 * TINY.hidden_size, dtype=torch.float64).view(24, -1).sin()
    grid = norm(patches, weights.norm, TINY.text_eps).view(4, 6, -1).permute(2, 0, 1)
    merged = F.unfold(grid[None], 2, stride=2)[0].T @ weights.merging.T
    wanted = F.gelu(merged @ weights.linear_1.T) @ weights.linear_2.T
    found = project(patches, 4, 6, weights, TINY)
    assert found.shape == (6, TINY.text_size)
    assert torch.allclose(found, wanted, atol=1e-12)


def test_rows_and_columns_are_told_apart(weights: VisionWeights) -> None:
    """A picture turned on its side is another picture, not the same patches in another order."""
    given = pixels(2, 2)
    upright, turned_ = (
        encode(each, weights, TINY) for each in (given, given.transpose(1, 2).contiguous())
    )
    assert not torch.allclose(upright.sum(0), turned_.sum(0), atol=1e-3)


def by_rule(shape: tuple[int, ...], start: int) -> Tensor:
    count = torch.Size(shape).numel()
    values = torch.arange(start, start + count, dtype=torch.float64)
    return ((values * 0.7).sin() * 0.25).view(shape)


def test_numbers_are_those_that_transformers_gave(weights: VisionWeights) -> None:
    """Of weights by a rule, by transformers 5.24 in float32."""
    encoded, projected = ruled(weights)
    assert encoded[0, :4].tolist() == pytest.approx(
        [-1.250547, 1.091069, -0.963716, 0.933972], abs=1e-5
    )
    assert projected[1, :4].tolist() == pytest.approx(
        [-0.004231, -0.000648, 0.004977, -0.005081], abs=1e-6
    )


def ruled(weights: VisionWeights) -> tuple[Tensor, Tensor]:
    shapes = vision_shapes(TINY)
    found = {name: by_rule(shape, 31 * n) for n, (name, shape) in enumerate(shapes.items())}
    return compute(found, weights)


def compute(found: dict[str, Tensor], weights: VisionWeights) -> tuple[Tensor, Tensor]:
    tower = {k.removeprefix(TOWER).removesuffix(".weight"): v for k, v in found.items()}
    layers = tuple(
        replace(
            layer,
            attention_norm=tower[f"transformer.layers.{n}.attention_norm"] + 1,
            ffn_norm=tower[f"transformer.layers.{n}.ffn_norm"] + 1,
            qkv=torch.cat([tower[f"transformer.layers.{n}.attention.{p}_proj"] for p in "qkv"]),
            output=tower[f"transformer.layers.{n}.attention.o_proj"],
            gate_up=torch.cat(
                [tower[f"transformer.layers.{n}.feed_forward.{p}_proj"] for p in ("gate", "up")]
            ),
            down=tower[f"transformer.layers.{n}.feed_forward.down_proj"],
        )
        for n, layer in enumerate(weights.layers)
    )
    head = "encoder.multi_modal_projector."
    own = replace(
        weights,
        patches=tower["patch_conv"].flatten(1),
        first_norm=tower["ln_pre"] + 1,
        layers=layers,
        norm=tower[f"{head}norm"] + 1,
        merging=tower[f"{head}patch_merger.merging_layer"],
        linear_1=tower[f"{head}linear_1"],
        linear_2=tower[f"{head}linear_2"],
    )
    given = by_rule((3, 2 * TINY.cell, TINY.cell), 5) * 8
    encoded = encode(given, own, TINY)
    return encoded, project(encoded, 4, 2, own, TINY)


def test_shards_with_an_index_are_read_as_one_file(folder: Path, tmp_path: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    places = {name: f"model-{n % 2}.safetensors" for n, name in enumerate(sorted(tensors))}
    for shard in set(places.values()):
        own = {name: each for name, each in tensors.items() if places[name] == shard}
        save_file(own, tmp_path / shard)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    small, whole = (
        load_vision(each, TINY, TEXT, torch.float32, torch.device("cpu"))
        for each in (tmp_path, folder)
    )
    assert torch.equal(small.linear_2, whole.linear_2)
    assert torch.equal(small.layers[1].qkv, whole.layers[1].qkv)


def test_a_quantised_checkpoint_keeps_its_vision_part(folder: Path, tmp_path: Path) -> None:
    quantize(folder, tmp_path / "small", 8)
    small, whole = (
        load_vision(each, TINY, TEXT, torch.float32, torch.device("cpu"))
        for each in (tmp_path / "small", folder)
    )
    assert torch.equal(small.merging, whole.merging)
    assert torch.equal(small.layers[1].gate_up, whole.layers[1].gate_up)


WRONG = [
    ({"projector_hidden_act": "relu"}, "projector_hidden_act = 'relu' is not supported"),
    ({"multimodal_projector_bias": True}, "multimodal_projector_bias = True is not supported"),
    ({"vision_feature_layer": -2}, "vision_feature_layer = -2 is not supported"),
    ({"spatial_merge_size": 0}, "spatial_merge_size = 0"),
    ({"vision_config": [1]}, "vision_config is no object"),
]
WRONG_INSIDE = [
    ({"hidden_act": "gelu"}, "hidden_act = 'gelu' is not supported"),
    ({"num_channels": 4}, "num_channels = 4 is not supported"),
    ({"num_attention_heads": 5}, "5 heads cannot share 32 channels"),
    ({"head_dim": 8}, "head_dim is 8"),
    ({"hidden_size": 2.5}, "hidden_size = 2.5"),
    ({"rope_parameters": {"rope_type": "yarn"}}, "rope_type 'yarn' is not supported"),
    ({"rope_parameters": {"rope_theta": 0.5}}, "rope_theta = 0.5"),
    ({"rope_parameters": 3}, "rope_parameters is no object"),
]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        *(({**CONFIG, **own}, message) for own, message in WRONG),
        *(
            ({**CONFIG, "vision_config": {**CONFIG["vision_config"], **own}}, message)
            for own, message in WRONG_INSIDE
        ),
    ],
)
def test_what_is_not_computed_is_refused_by_name(data: dict[str, object], message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        parse_vision(data, TEXT)
    assert message in caught.value.message


def test_a_key_that_nobody_knows_is_named() -> None:
    inside = {**CONFIG["vision_config"], "window": 7, "use_nothing": False}
    with pytest.warns(CheckpointWarning, match="'window' not known"):
        parse_vision({**CONFIG, "vision_config": inside}, TEXT)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_layers": 3}, "tensor `encoder.vision_tower.transformer.layers.2.attention_norm"),
        ({"num_layers": 2**31 - 1}, "tensor `encoder.vision_tower.transformer.layers.2."),
        ({"num_layers": 1}, "does not belong to the vision part"),
        ({"intermediate_size": 49}, "has the shape [48, 32], not [49, 32]"),
        ({"patch_size": 16}, "has the shape [32, 3, 14, 14], not [32, 3, 16, 16]"),
    ],
)
def test_tensors_of_another_config_are_refused(
    folder: Path, settings: dict[str, int], message: str
) -> None:
    config: VisionConfig = replace(TINY, **settings)
    with pytest.raises(CheckpointError) as caught:
        load_vision(folder, config, TEXT, torch.float32, torch.device("cpu"))
    assert message in caught.value.message
