"""Encoder, projector, pixels and the whole prompt are those of transformers' Pixtral and Mistral3.

Where the released vision-language model differs from transformers, which docs/howto/vlm.md lists,
the tests in tests/runtime/vision hold our reading.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nldc import api
from nldc.runtime import PromptEmbeddings
from nldc.runtime.checkpoint.config import parse_config
from nldc.runtime.vision.config import parse_vision
from nldc.runtime.vision.encoder import encode, project
from nldc.runtime.vision.picture import Picture, PicturePrompt
from nldc.runtime.vision.pixels import cells_of, prepared
from nldc.runtime.vision.weights import PROJECTOR, TOWER, VisionWeights, load_vision
from tests.tiny_vlm import CONFIG, tensors_of, tiny_vlm

pytestmark = pytest.mark.parity
transformers = pytest.importorskip("transformers", minversion="5.0")
Image = pytest.importorskip("PIL.Image")

TOLERANCE = 1e-5
VISION = CONFIG["vision_config"]
GEOMETRIES: dict[str, dict[str, Any]] = {
    "tiny": {},
    "four_heads": {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 40},
    "head_of_64": {"hidden_size": 64, "num_attention_heads": 1, "head_dim": 64},
    "small_patches": {"patch_size": 4, "num_hidden_layers": 3},
    "other_theta": {"rope_parameters": {"rope_theta": 50.0, "rope_type": "default"}},
}
SIZES = [(1, 1), (2, 4), (3, 1), (1, 7), (5, 5), (2, 9)]
"""Cells down and across."""


def settings_of(name: str) -> dict[str, Any]:
    vision = {**VISION, **GEOMETRIES[name]}
    vision["head_dim"] = vision["hidden_size"] // vision["num_attention_heads"]
    return {**CONFIG, "torch_dtype": "float32", "vision_config": vision}


def ours(folder: Path, data: dict[str, Any]) -> tuple[Any, VisionWeights]:
    text = parse_config(data)
    config = parse_vision(data, text)
    return config, load_vision(folder, config, text, torch.float32, torch.device("cpu"))


def pixtral(data: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[Any, Any]:
    """Return transformers' encoder and projector on the same tensors."""
    from transformers.models.mistral3.modeling_mistral3 import Mistral3MultiModalProjector

    vision = {k: v for k, v in data["vision_config"].items() if k != "model_type"}
    vision["rope_parameters"] = {**vision["rope_parameters"], "rope_type": "axial"}
    config = transformers.PixtralVisionConfig(**vision)
    config._attn_implementation = "eager"
    tower = transformers.PixtralVisionModel(config).eval()
    whole = mistral_config(data)
    projector = Mistral3MultiModalProjector(whole).eval()
    for prefix, module in ((TOWER, tower), (PROJECTOR, projector)):
        own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        module.load_state_dict(own, strict=True)
    return tower, projector


def mistral_config(data: dict[str, Any]) -> Any:
    vision = {k: v for k, v in data["vision_config"].items() if k != "model_type"}
    vision["rope_parameters"] = {**vision["rope_parameters"], "rope_type": "axial"}
    names = (
        *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "rms_norm_eps"),
        *("num_attention_heads", "num_key_value_heads", "head_dim", "max_position_embeddings"),
    )
    text = {name: data[name] for name in names} | {"rope_parameters": dict(data["rope_parameters"])}
    return transformers.Mistral3Config(
        vision_config={"model_type": "pixtral", **vision},
        text_config={"model_type": "ministral3", "tie_word_embeddings": False, **text},
        image_token_index=19,
        spatial_merge_size=data["spatial_merge_size"],
        tie_word_embeddings=False,
    )


def close(found: Tensor, wanted: Tensor) -> None:
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() <= TOLERANCE * max(1.0, float(wanted.abs().max()))


@pytest.mark.parametrize("name", GEOMETRIES)
@torch.inference_mode()
def test_encoder_and_projector_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    data = settings_of(name)
    tiny_vlm(tmp_path / "model", **data)
    config, weights = ours(tmp_path / "model", data)
    tower, projector = pixtral(data, tensors_of(data))
    generator = torch.Generator().manual_seed(1)
    pictures = [
        torch.randn(3, down * config.cell, across * config.cell, generator=generator)
        for down, across in SIZES
    ]
    sizes = [tuple(each.shape[1:]) for each in pictures]
    most = [max(size[side] for size in sizes) for side in (0, 1)]
    padded = torch.stack(
        [
            torch.nn.functional.pad(each, (0, most[1] - each.shape[2], 0, most[0] - each.shape[1]))
            for each in pictures
        ]
    )
    together = tower(padded, image_sizes=torch.tensor(sizes)).last_hidden_state.squeeze(0)
    found = [encode(each, weights, config) for each in pictures]
    close(torch.cat(found), together)
    wanted = projector(together, torch.tensor(sizes))
    rows = [
        project(each, size[0] // config.patch_size, size[1] // config.patch_size, weights, config)
        for each, size in zip(found, sizes, strict=True)
    ]
    close(torch.cat(rows), wanted)


def processor() -> Any:
    from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil

    return PixtralImageProcessorPil(patch_size=28, size={"longest_edge": 1400})


@pytest.mark.parametrize(
    "size", [(28, 28), (56, 28), (28, 1400), (1400, 28), (84, 140), (1400, 1400)]
)
def test_pixels_of_what_is_not_resized_are_those_of_transformers(size: tuple[int, int]) -> None:
    width, height = size
    array = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    wanted = processor()(Image.fromarray(array), return_tensors="pt")
    assert wanted["image_sizes"].tolist() == [[height, width]]
    assert cells_of(width, height, 28) == (width // 28, height // 28)
    close(torch.from_numpy(prepared(array, width, height)), wanted["pixel_values"][0])


def test_the_grid_is_that_of_transformers_but_where_it_rounds_down() -> None:
    from transformers.models.pixtral.image_processing_pil_pixtral import (
        get_resize_output_image_size,
    )

    sides = [1, 2, 27, 28, 29, 55, 56, 57, 100, 311, 640, 999, 1399, 1400, 1401, 1457, 1500, 1540]
    differ = 0
    for width in sides:
        for height in sides:
            down, across = get_resize_output_image_size(
                np.empty((3, height, width), np.uint8), (1400, 1400), (28, 28)
            )
            found = cells_of(width, height, 28)
            if max(width, height) <= 1400:
                assert found == (across // 28, down // 28)
            differ += found != (across // 28, down // 28)
            assert abs(found[0] - across // 28) <= 1
            assert abs(found[1] - down // 28) <= 1
    assert 0 < differ < len(sides) ** 2 // 10


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "RGBA", "LA", "P", "CMYK", "exif"])
def test_pixels_of_every_opaque_mode_are_those_of_transformers(mode: str) -> None:
    """Opaque: where something is transparent, transformers shows black, and the released white."""
    rng = np.random.default_rng(3)
    array = rng.integers(0, 256, (56, 84, 3), dtype=np.uint8)
    image = Image.fromarray(array)
    out = BytesIO()
    if mode == "exif":
        exif = Image.Exif()
        exif[0x0112] = 6
        image.save(out, "JPEG", exif=exif)
    else:
        image.convert(mode).save(out, "JPEG" if mode == "CMYK" else "PNG")
    wanted = processor()(Image.open(BytesIO(out.getvalue())).convert("RGB"), return_tensors="pt")
    found = prepared(Picture.of_bytes(out.getvalue()).pixels(), 84, 56)
    close(torch.from_numpy(found), wanted["pixel_values"][0])


def mistral(data: dict[str, Any], tensors: dict[str, Tensor]) -> Any:
    model = transformers.Mistral3ForConditionalGeneration(mistral_config(data)).eval()
    names = {
        "encoder.vision_tower.": "model.vision_tower.",
        "encoder.multi_modal_projector.": "model.multi_modal_projector.",
        "encoder.": "model.language_model.",
        "diffusion_head.": "lm_head.",
    }
    renamed = {}
    for name, tensor in tensors.items():
        prefix = next(each for each in names if name.startswith(each))
        renamed[names[prefix] + name.removeprefix(prefix)] = tensor
    model.load_state_dict(renamed, strict=True)
    return model


@torch.inference_mode()
def test_the_whole_prompt_is_that_of_transformers(tmp_path: Path) -> None:
    """Two pictures of unequal size in a text: logits behind the prompt, and greedy tokens."""
    data = {**CONFIG, "torch_dtype": "float32"}
    folder = tiny_vlm(tmp_path / "model", **data)
    kind = api.load(api.compile("ar", tmp_path / "ar", certify=False))
    decoder = kind.from_checkpoint(folder, device="cpu", backend="torch")
    rng = np.random.default_rng(5)
    arrays = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((56, 84), (28, 56))]
    prompt = PicturePrompt.of(
        "one <image>two<image> and more", [Picture.of_pixels(each) for each in arrays]
    )
    request = decoder.request(prompt, max_new_tokens=24, eos=())
    request.open()
    values = [torch.from_numpy(prepared(each, *each.shape[1::-1])) for each in arrays]
    pixels = torch.zeros(2, 3, 56, 84)
    for place, each in enumerate(values):
        pixels[place, :, : each.shape[1], : each.shape[2]] = each
    model = mistral(data, tensors_of(data))
    text = decoder.tokenizer
    runs = [
        "<|image_start|>" + "<|image_break|>".join(["<|image_pad|>" * w] * h) + "<|image_end|>"
        for w, h in ((3, 2), (2, 1))
    ]
    ids = torch.tensor([text.encode(f"one {runs[0]}two{runs[1]} and more")])
    assert request.embeddings is not None
    assert ids.shape[1] == len(request.prompt)
    embedded = model.get_input_embeddings()(ids)
    own = request.embeddings[ids[0] != 19]
    assert torch.equal(own, embedded[0][ids[0] != 19])
    tokens, own_logprobs = ids, []
    for _ in range(24):
        logits = model(
            input_ids=tokens, pixel_values=pixels, image_sizes=torch.tensor([[56, 84], [28, 56]])
        ).logits
        tokens = torch.cat([tokens, logits[:, -1:].argmax(-1)], dim=1)
        own_logprobs.append(float(torch.log_softmax(logits[0, -1].double(), -1).max()))
    found = decoder.generate(prompt, max_new_tokens=24, eos=(), logprobs=0)
    assert found.tokens[0] == tokens[0, ids.shape[1] :].tolist()
    assert [each.logprob for each in found.logprobs[0]] == pytest.approx(own_logprobs, abs=2e-5)
    again = decoder.generate(PromptEmbeddings(request.embeddings), max_new_tokens=24, eos=())
    assert again.tokens == found.tokens
