"""A whole quantised model in kernels: AR is its own verify, bit for bit, in batches too."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from kernel_cases import error
from random_model import random_checkpoint

from nldc import api
from nldc.runtime import Decoder
from nldc.runtime.checkpoint.quantising import quantize
from nldc.runtime.invariant.interleaved import Interleaved
from nldc.runtime.model.torch_backend import TorchBackend
from tests.library import short_steps

WIDE = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "dtype": "bfloat16"}
PROMPTS = [[5, 9, 2, 77], [8] * 5]


@pytest.fixture(
    scope="module",
    params=[(4, False), pytest.param((8, False), marks=pytest.mark.long), (8, True)],
    ids=["4", "8", "floats"],
)
def get(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Decoder]:
    root, (bits, floating) = tmp_path_factory.mktemp("quantised"), request.param
    source = random_checkpoint(root / "source", **WIDE)
    quantize(source, root / "model", bits, floating=floating)

    @cache
    def loaded(name: str) -> Decoder:
        kind = api.load(api.compile(name, root / name, short_steps(name, 3), certify=False))
        return kind.from_checkpoint(root / "model", device="cpu", backend="triton")

    return loaded


@pytest.mark.usefixtures("one_by_one")
@pytest.mark.parametrize("temperature", [0.0, pytest.param(1.0, marks=pytest.mark.long)])
def test_self_speculation_gives_the_tokens_of_ar(
    get: Callable[[str], Decoder], temperature: float
) -> None:
    options = {"max_new_tokens": 4, "eos": (), "temperature": temperature}
    want = get("ar").generate(PROMPTS, **options).tokens
    assert isinstance(get("ar").model.backbone.weights.layers[0].qkv, Interleaved)
    assert get("linear_ss").generate(PROMPTS, **options).tokens == want
    alone = [get("ar").generate([prompt], **options).tokens[0] for prompt in PROMPTS[:1]]
    assert alone == want[:1]


def test_a_head_is_that_of_the_dense_weights(get: Callable[[str], Decoder]) -> None:
    model = get("ar").model
    states = torch.randn(7, 64, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    plain = TorchBackend(model.backbone).head(states).double()  # of the weights, dequantised
    assert error(model.backend.head(states), plain) < 2**-6
