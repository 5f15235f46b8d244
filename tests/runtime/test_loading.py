"""Which backend a decoder takes that nobody tells, and why it is torch's."""

from __future__ import annotations

import pytest
import torch

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
        (CPU, torch.bfloat16, True, None),
        (CPU, torch.float64, True, "the kernels do not compute in float64"),
    ],
)
def test_a_reason_is_given_for_torch(
    device: torch.device, dtype: torch.dtype, kernels: bool, why: str | None
) -> None:
    assert why_torch(device, dtype, kernels=kernels) == why
