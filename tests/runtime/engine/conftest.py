"""One decoder of several strategies on a small random model, and what a lone call gives."""

from __future__ import annotations

import pytest
from random_model import random_checkpoint

from nldc import api
from nldc.runtime import Decoder, Engine

NAMES = ("ar", "linear_ss", "quadratic_ss", "block_diffusion", "prompt_lookup")


@pytest.fixture(scope="session")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    root = tmp_path_factory.mktemp("engine")
    settings = {"block_length": 4}
    artifact = api.compile(list(NAMES), root / "several", settings, certify=False)
    model = random_checkpoint(root / "model", text=True)
    return api.load(artifact).from_checkpoint(model, dtype="float64", device="cpu")


@pytest.fixture
def engine(decoder: Decoder) -> Engine:
    return decoder.new_engine()
