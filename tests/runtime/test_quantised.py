"""Weights of 8 and 4 bits: what they are worth, and products whose rows are their own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from nldc.runtime.invariant.linear import linear
from nldc.runtime.invariant.quantised import (
    FLOAT8,
    Quantised,
    joined,
    packed,
    packed_floats,
    quantise,
    unpacked,
)
from nldc.runtime.invariant.quantised_product import QuantisedProduct, formed, forms
from nldc.runtime.invariant.quantised_ways import cancelling, choose, pack_quantised, pack_weight

CPU = torch.device("cpu")
BF16 = torch.bfloat16


def random_weight(out: int, width: int, bits: int, group: int, *, shifted: bool) -> Quantised:
    generator = torch.Generator().manual_seed(out + width + bits)
    low = 1 << (bits - 1)
    numbers = torch.randint(-low, low, (out, width), generator=generator).to(torch.int8)
    scale = (torch.rand(out, width // group, generator=generator) / 50 + 0.01).to(BF16)
    shift = -scale.float() * (low - 1) if shifted else None
    return Quantised(packed(numbers, bits), scale, shift, bits, (out, width), BF16)


def random_floats(out: int, width: int, group: int) -> Quantised:
    generator = torch.Generator().manual_seed(out + width)
    numbers = torch.randn(out, width, generator=generator).mul_(40).to(FLOAT8)
    scale = (torch.rand(out, width // group, generator=generator) / 2000 + 1e-4).to(BF16)
    return Quantised(packed_floats(numbers), scale, None, 8, (out, width), BF16, floating=True)


@pytest.mark.parametrize("width", [1, 6, 64])
def test_every_float_of_8_bits_is_worth_what_it_says(width: int) -> None:
    """A sign, 4 bits of exponent behind 7, 3 of mantissa; exponent 0 is of subnormal ones."""
    codes = [code for code in range(256) if code & 0x7F != 0x7F]
    numbers = torch.tensor(codes, dtype=torch.uint8).view(-1, 1).repeat(1, width).view(FLOAT8)
    weight = Quantised(
        packed_floats(numbers), torch.full((254, 1), 0.5), None, 8, (254, width), BF16,
        floating=True,
    )  # fmt: skip
    found = weight.to_dense().double()
    for row, code in enumerate(codes):
        exponent, mantissa = code >> 3 & 15, code & 7
        size = (8 + mantissa) * 2.0 ** (exponent - 10) if exponent else mantissa * 2.0**-9
        assert found[row].tolist() == [0.5 * (-size if code & 128 else size)] * width
    assert torch.equal(weight.numbers().view(torch.uint8), numbers.view(torch.uint8))
    rows = torch.tensor([253, 0, 8])
    assert torch.equal(weight.rows(rows), weight.to_dense()[rows])


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("width", [1, 7, 8, 13, 64])
def test_numbers_are_packed_and_come_back_whatever_the_width(bits: int, width: int) -> None:
    low = 1 << (bits - 1)
    numbers = (torch.arange(3 * width).view(3, width) * 5 % (2 * low) - low).to(torch.int8)
    words = packed(numbers, bits)
    assert words.dtype == torch.int32
    assert words.shape == (3, -(-width * bits // 32))
    assert torch.equal(unpacked(words, bits, width), numbers)


def test_the_first_value_of_a_row_is_the_lowest_of_its_word() -> None:
    assert packed(torch.tensor([[-7, -8, 0, 0, 0, 0, 0, 0]], dtype=torch.int8), 4).item() & 255 == 1
    assert packed(torch.tensor([[-126, 0, 0, 0]], dtype=torch.int8), 8).item() & 255 == 2


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(("bits", "group"), [(4, 32), (4, 64), (8, 32), (8, 192)])
def test_a_weight_is_scale_times_number_plus_shift(bits: int, group: int, shifted: bool) -> None:
    weight = random_weight(5, 192, bits, group, shifted=shifted)
    assert weight.group == group
    want = torch.empty(5, 192, dtype=torch.float64)
    numbers = weight.numbers().double()
    for row in range(5):
        for place in range(192):
            scale = float(weight.scale[row, place // group])
            want[row, place] = scale * numbers[row, place]
            if weight.shift is not None:
                want[row, place] = scale * (numbers[row, place] + 2 ** (bits - 1))
                want[row, place] += float(weight.shift[row, place // group])
    assert torch.equal(weight.to_dense(), want.to(BF16))
    rows = torch.tensor([4, 0, 4])
    assert torch.equal(weight.rows(rows), weight.to_dense()[rows])


def test_weights_quantised_alike_are_joined_and_others_are_not() -> None:
    plain = random_weight(32, 64, 4, 32, shifted=False)
    shifted = random_weight(16, 64, 4, 32, shifted=True)
    both = joined([plain, shifted])
    assert both is not None
    assert torch.equal(both.to_dense(), torch.cat((plain.to_dense(), shifted.to_dense())))
    assert joined([plain, random_weight(32, 64, 8, 32, shifted=False)]) is None
    assert joined([plain, random_weight(32, 64, 4, 64, shifted=False)]) is None
    floats, whole = random_floats(32, 64, 64), random_weight(16, 64, 8, 64, shifted=False)
    assert joined([floats, whole]) is None
    both = joined([floats, random_floats(16, 64, 64)])
    assert both is not None
    assert torch.equal(both.to_dense()[:32], floats.to_dense())


FLOATS = "floats"
KINDS = [
    (4, 32, True), (4, 64, False), (4, 128, True), (8, 256, False), (8, 32, False),
    (8, 256, FLOATS), (8, 32, FLOATS),
]  # fmt: skip


@pytest.mark.parametrize(("bits", "group", "shifted"), KINDS)
def test_every_form_computes_with_what_the_weight_is_worth(
    bits: int, group: int, shifted: bool | str
) -> None:
    if shifted == FLOATS:
        weight = random_floats(96, 256, group)
        assert forms(weight) == ("half",)
    else:
        weight = random_weight(96, 256, bits, group, shifted=bool(shifted))
    rows = torch.randn(5, 256, generator=torch.Generator().manual_seed(0)).to(BF16)
    want = rows.double() @ replace(weight, dtype=torch.float64).to_dense().T
    assert forms(weight)
    for form in forms(weight):
        try:
            product = formed(weight, form)
        except RuntimeError:
            continue  # this machine has no such product
        found = linear(rows, product)
        assert found.dtype == BF16
        # bfloat16 rounds scales and results by at most 1 in 512 each
        assert float((found - want).norm() / want.norm()) < 1 / 256
        assert torch.allclose(product.to_dense().float(), weight.to_dense().float(), atol=0.01)


@pytest.mark.parametrize(("bits", "group", "shifted"), KINDS)
@pytest.mark.parametrize(("out", "width"), [(96, 256), (576, 256)])
def test_rows_are_bitwise_the_same_in_any_company(
    out: int, width: int, bits: int, group: int, shifted: bool | str
) -> None:
    weight, rows = cancelling(
        out, width, bits, width // group, BF16, CPU,
        shifted=shifted is True, floating=shifted == FLOATS,
    )  # fmt: skip
    product = pack_quantised(weight)
    assert not isinstance(product, Tensor | Quantised), "it is in a form that was tried"
    whole = linear(rows, product)
    assert float((whole != 0).float().mean()) > 0.5, "what is compared is rounding"
    for count in (1, 2, 3, 5, 6, 7, 16, 33, 100):
        for start in (0, 1, 8, 120):
            own = slice(start, start + count)
            assert torch.equal(linear(rows[own], product), whole[own])


def test_a_form_whose_rows_depend_on_their_company_is_not_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = QuantisedProduct.product

    def drifting(self: QuantisedProduct, x: Tensor) -> Tensor:
        return whole(self, x) * (1 + (x.shape[0] == 7))

    monkeypatch.setattr(QuantisedProduct, "product", drifting)
    choose.cache_clear()
    weight = random_weight(32, 64, 4, 32, shifted=True)
    made = pack_quantised(weight)
    choose.cache_clear()
    assert not isinstance(made, QuantisedProduct) or made.form != "int4"
    assert torch.equal(linear(torch.eye(64, dtype=BF16), made).T, weight.to_dense())


def test_in_other_dtypes_than_bfloat16_the_weight_is_computed_with_as_it_is() -> None:
    weight = replace(random_weight(32, 64, 4, 32, shifted=True), dtype=torch.float32)
    made = pack_weight(weight)
    assert not isinstance(made, QuantisedProduct | Quantised)
    assert torch.equal(linear(torch.eye(64), made).T, weight.to_dense())


def test_a_torch_without_these_products_computes_with_plain_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def absent(*_args: object) -> None:
        raise AttributeError("'_OpNamespace' 'aten' object has no attribute")

    monkeypatch.setattr("nldc.runtime.invariant.quantised_ways.formed", absent)
    choose.cache_clear()
    weight = random_weight(32, 64, 4, 32, shifted=True)
    made = pack_quantised(weight)
    choose.cache_clear()
    assert torch.equal(linear(torch.eye(64, dtype=BF16), made).T, weight.to_dense())


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("bits", "most"), [(4, 0.1), (8, 0.006)])
def test_rounding_is_off_by_little(bits: int, most: float, symmetric: bool) -> None:
    weight = torch.randn(40, 128, generator=torch.Generator().manual_seed(1))
    made = quantise(weight, bits, 32, BF16, symmetric=symmetric)
    values = made.numbers.view(40, 4, 32).float()
    if made.zero is not None:
        values = values - made.zero.unsqueeze(-1)
    values = (values * made.scale.float().unsqueeze(-1)).flatten(1)
    assert float((values - weight).norm() / weight.norm()) < most
    assert (made.zero is None) == symmetric


def test_rounding_to_floats_is_to_the_nearest_there_is() -> None:
    weight = torch.randn(40, 128, generator=torch.Generator().manual_seed(1))
    weight[7] *= 1e-30
    weight[8] = 0
    made = quantise(weight, 8, 128, BF16, symmetric=True, floating=True)
    assert made.numbers.dtype == FLOAT8
    assert made.zero is None
    numbers, scale = made.numbers.float(), made.scale.float()
    assert bool(numbers.isfinite().all())
    assert bool((numbers[8] == 0).all())
    worth = numbers * scale
    # 4 digits with the first: off by at most half of the last, or of the least subnormal one
    most = torch.maximum(weight.abs() * 2**-4, scale * 2**-10)
    within = weight.abs() <= scale * 448
    assert bool(((worth - weight).abs() <= most * (1 + 1e-6))[within].all())
    assert float((worth - weight).norm() / weight.norm()) < 0.03


def test_a_group_of_zeros_stays_zero_and_one_of_one_sign_does_not_blow_up() -> None:
    weight = torch.cat((torch.zeros(2, 32), torch.full((2, 32), 3.0)), 1)
    for symmetric in (False, True):
        made = quantise(weight, 4, 32, BF16, symmetric=symmetric)
        zero = 0 if made.zero is None else made.zero.unsqueeze(-1).float()
        values = (made.numbers.view(2, 2, 32).float() - zero) * made.scale.float().unsqueeze(-1)
        assert bool((values[:, 0] == 0).all())
        assert bool(((values[:, 1] - 3).abs() < 0.3).all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_plain_weights_of_16_bits_are_exact_where_onednn_has_no_product(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    monkeypatch.setattr("nldc.runtime.invariant.quantised_ways.onednn_has", lambda _dtype: False)
    generator = torch.Generator().manual_seed(2)
    weight = (torch.randn(96, 64, generator=generator) / 30).to(dtype)
    weight[0, 0], weight[1, 1] = 1e-5, 3e2
    made = pack_weight(weight)
    if not isinstance(made, QuantisedProduct):
        pytest.skip("FBGEMM's product is not there, or its rows are not their own")
    assert made.dtype == dtype
    assert torch.equal(made.to_dense(), weight)
    rows = torch.randn(40, 64, generator=generator).to(dtype)
    whole = linear(rows, made)
    assert torch.allclose(whole.float(), rows.float() @ weight.float().T, rtol=0.01, atol=0.05)
    for count in (1, 2, 7, 8):
        assert torch.equal(linear(rows[3 : 3 + count], made), whole[3 : 3 + count])
