"""Pictures on the device: rows are the CPU's, and exact strategies give AR's tokens behind them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nldc import api
from nldc.runtime import Decoder, Picture, PicturePrompt
from tests.tiny_vlm import tiny_vlm

pytestmark = pytest.mark.gpu


def picture(width: int, height: int, seed: int) -> Picture:
    rng = np.random.default_rng(seed)
    return Picture.of_pixels(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_vlm(tmp_path_factory.mktemp("vlm") / "model")


def loaded(name: str, model: Path, out: Path, **options: Any) -> Decoder:
    settings = {} if name == "ar" else {"block_length": 4}
    kind = api.load(api.compile(name, out / name, settings, certify=False))
    made: Decoder = kind.from_checkpoint(model, **options)
    return made


def test_rows_of_a_picture_are_those_of_the_cpu(
    model: Path, device: torch.device, tmp_path: Path
) -> None:
    here, there = (
        loaded("ar", model, tmp_path, device=place, backend="torch", dtype="float32")
        for place in ("cpu", device)
    )
    for shown in (picture(28, 28, 0), picture(700, 90, 1)):
        want, found = (each.eye.see(shown).rows.cpu() for each in (here, there))
        assert (found - want).abs().max() <= 1e-4 * want.abs().max()


@pytest.mark.parametrize("name", ["linear_ss", "quadratic_ss"])
def test_exact_strategies_give_the_tokens_of_ar_behind_pictures(
    name: str, model: Path, device: torch.device, backend: str, tmp_path: Path
) -> None:
    one, two = picture(200, 90, 2), picture(30, 300, 3)
    prompts: list[Any] = [PicturePrompt((one, "what?")), "text", PicturePrompt((two, "a", one))]
    options: dict[str, Any] = {"max_new_tokens": 12, "eos": (), "seed": 1}
    for temperature in (0.0, 0.9):
        want, found = (
            loaded(each, model, tmp_path / str(temperature), device=device, backend=backend)
            .generate(prompts, temperature=temperature, **options)
            .tokens
            for each in ("ar", name)
        )
        assert found == want
