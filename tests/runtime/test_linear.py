"""The product of rows with a weight: a row's result never depends on the rows beside it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F

from nldc.runtime.linear import Packed, linear, pack

COUNTS = (2, 3, 4, 7, 8, 15, 16, 17, 32, 33, 100)


@pytest.fixture(params=[1, 2], ids=["one_thread", "two_threads"], autouse=True)
def _threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("out", "width"),
    [(960, 576), (576, 1536), (3072, 576), (4100, 64), (61, 40), (97, 101), (64, 4096), (1, 8)],
)
def test_a_row_is_bitwise_the_same_in_any_company(out: int, width: int) -> None:
    torch.manual_seed(0)
    packed = pack(torch.randn(out, width))
    if not isinstance(packed, Packed):
        pytest.skip("this build of torch has no oneDNN")
    x = torch.randn(120, width)
    alone = torch.cat([linear(row, packed) for row in x[:24].split(1)])
    for count in COUNTS:
        for start in (0, 5):
            found = linear(x[start : start + count], packed)
            wanted = alone[start : start + count]
            assert torch.equal(found[: len(wanted)], wanted), (count, start)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_packed_weight_gives_the_product(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(48, 96, dtype=dtype), torch.randn(5, 96, dtype=dtype)
    for rows in (x, x[:1], x[::2], x.t().contiguous().t()):
        torch.testing.assert_close(linear(rows, pack(weight)), F.linear(rows, weight))


