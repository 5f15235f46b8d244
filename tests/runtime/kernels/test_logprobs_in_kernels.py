"""Log-probabilities by kernels: those of the model in float64, as near as the dtype is."""

from __future__ import annotations

from pathlib import Path

import pytest
from random_model import random_checkpoint

from nldc import api
from nldc.runtime import Decoder

PROMPT = [3, 4, 5, 9, 11]


def decoder_of(kind: type[Decoder], folder: Path, dtype: str, backend: str) -> Decoder:
    return kind.from_checkpoint(folder, dtype=dtype, device="cpu", backend=backend)  # type: ignore[arg-type]


def test_they_are_those_of_the_same_text_by_torch(tmp_path: Path) -> None:
    settings = {"num_hidden_layers": 1, "vocab_size": 140, "intermediate_size": 32}
    folder = random_checkpoint(tmp_path / "model", **settings)
    kind = api.load(api.compile("ar", tmp_path / "ar", certify=False))
    kernels = decoder_of(kind, folder, "float32", "triton")
    found = kernels.generate([PROMPT], max_new_tokens=2, eos=(), logprobs=2, prompt_logprobs=0)
    known = [*found.prompt_logprobs[0], *found.logprobs[0]]
    assert [each.greedy for each in found.logprobs[0]] == [True, True]
    plain = decoder_of(kind, folder, "float64", "torch")
    (want,) = plain.score([[*PROMPT, *found.tokens[0]]], top=2)
    assert known[0] is None
    for each, other in zip(known[1:], want.logprobs[1:], strict=True):
        assert each is not None
        assert other is not None
        assert each.token == other.token
        assert each.logprob == pytest.approx(other.logprob, abs=1e-5)
    for each, other in zip(found.logprobs[0], want.logprobs[5:], strict=True):
        assert other is not None
        assert [token for token, _ in each.top] == [token for token, _ in other.top]
