"""RMSNorm and SiLU against torch's own, and in any company."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nldc.runtime.invariant.norm import RMSNorm, silu

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@pytest.fixture(params=[1, 2, 5], ids=["one_thread", "two_threads", "five_threads"], autouse=True)
def _threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def norm_of(x: Tensor) -> Tensor:
    weight = torch.linspace(-1, 2, x.shape[1]).to(x.dtype)
    return RMSNorm(weight, 1e-5)(x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [8, 61, 576, 1100])
@pytest.mark.parametrize("function", [norm_of, silu])
def test_a_row_is_bitwise_the_same_in_any_company(
    function: Callable[[Tensor], Tensor], width: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    x = (3 * torch.randn(300, width)).to(dtype)
    whole = function(x.clone())
    for count in (1, 2, 3, 7, 16, 33, 100, 111, 272):
        for start in (0, 5):
            rows = slice(start, start + count)
            assert torch.equal(function(x[rows].clone()), whole[rows]), (count, start)


@pytest.mark.parametrize("dtype", DTYPES)
def test_they_are_what_torch_says(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.randn(70, 600).to(dtype)
    weight = torch.rand(600).to(dtype)
    want = F.rms_norm(x, (600,), weight, 1e-5)
    torch.testing.assert_close(RMSNorm(weight, 1e-5)(x), want)
    torch.testing.assert_close(silu(x.clone()), F.silu(x))
