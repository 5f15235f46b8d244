"""Which backend a decoder takes that nobody tells, and why it is torch's."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from handwritten import CHECKPOINTS

from nldc.runtime import loading
from nldc.runtime.checkpoint.config import ModelConfig
from nldc.runtime.checkpoint.quantization import Kind
from nldc.runtime.errors import BackendError
from nldc.runtime.loading import why_torch

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("device", "dtype", "kernels", "why"),
    [
        (GPU, torch.bfloat16, True, None),
        (GPU, torch.float16, True, None),
        (GPU, torch.float32, True, None),
        (GPU, torch.float64, True, "the kernels do not compute in float64"),
        (GPU, torch.bfloat16, False, "the decoder was compiled without kernels"),
        (CPU, torch.float64, True, "the kernels do not compute in float64"),
    ],
)
def test_a_reason_is_given_for_torch(
    device: torch.device, dtype: torch.dtype, kernels: bool, why: str | None
) -> None:
    assert why_torch(device, dtype, kernels=kernels) == why


@pytest.mark.parametrize("why", [None, "numba is not installed"])
def test_on_a_cpu_numba_decides_and_only_weights_of_8_and_4_bits_have_kernels(
    why: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "why_not", lambda *_: why)
    assert why_torch(CPU, torch.bfloat16) == why
    config = ModelConfig.load(CHECKPOINTS[0])
    assert (
        why_torch(CPU, torch.bfloat16, config) == "kernels for cpu are for weights of 8 and 4 bits"
    )
    quantised = replace(config, quantised=frozenset({Kind(4, False)}))
    assert why_torch(CPU, torch.bfloat16, quantised) == why


def test_numba_is_refused_on_a_gpu() -> None:
    config = ModelConfig.load(CHECKPOINTS[0])
    with pytest.raises(BackendError, match="numba has no kernels for cuda"):
        loading._backend("numba", GPU, torch.bfloat16, config, kernels=True)
    with pytest.raises(BackendError, match="'other' is unknown") as caught:
        loading._backend("other", CPU, torch.bfloat16, config, kernels=True)  # type: ignore[arg-type]
    assert "torch, triton or numba" in str(caught.value.hint)
