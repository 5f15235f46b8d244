"""Which form a quantised weight gets: the best whose rows are the same bits in any company."""

from __future__ import annotations

from functools import cache, partial

import torch
from torch import Tensor

from nldc.runtime.invariant.interleaved import interleaved, lanes_of
from nldc.runtime.invariant.linear import COUNTS, Weight, linear, onednn_has, pack, rows_agree
from nldc.runtime.invariant.linear import cancelling as plain_cancelling
from nldc.runtime.invariant.quantised import FLOAT8, Quantised, packed, packed_floats
from nldc.runtime.invariant.quantised_product import Form, formed, forms, half

AT_MOST = 4096
"""Outputs of a weight that is tried; wider ones are as these again and again."""
ABSENT = (RuntimeError, AttributeError)
"""What torch raises where it has no such product: for such a weight, on this machine, or at all."""
HALVES = (torch.bfloat16, torch.float16)
SPREAD = 6
"""Powers of two, up and down, over which the values of a trial are spread."""


def pack_weight(weight: Weight) -> Weight:
    """Return a weight [out, in], quantised or not, in the form that `linear` computes with.

    Plain ones of 16 bits get the form `half` where oneDNN has no product for them, which is on CPUs
    without instructions for such values: it is 10 times as quick there as any `Way`.
    """
    if isinstance(weight, Quantised):
        return pack_quantised(weight)
    if isinstance(weight, Tensor) and weight.device.type == "cpu" and weight.dtype in HALVES:
        threads = torch.get_num_threads()
        if not onednn_has(weight.dtype) and half_holds(*weight.shape, weight.dtype, threads):
            return half(weight)
    return pack(weight)


@cache
def half_holds(out: int, width: int, dtype: torch.dtype, threads: int) -> bool:
    """Whether the form `half` of plain weights [out, in] is there, and its rows are their own."""
    del threads
    weight, rows = plain_cancelling(min(out, AT_MOST), width, dtype, torch.device("cpu"))
    try:
        return rows_agree(partial(_product, half(weight)), rows, COUNTS)
    except ABSENT:
        return False


def pack_for_kernels(weight: Weight) -> Weight:
    """Return a weight in the form that kernels compute with: what is quantised as they read it.

    Where no kernel does, it is dequantised; see `lanes_of`.
    """
    if not isinstance(weight, Quantised):
        return pack_weight(weight)
    lanes = lanes_of(weight)
    return pack(weight.to_dense()) if lanes is None else interleaved(weight, lanes)


def pack_quantised(weight: Quantised) -> Weight:
    """Return a weight in the best form that holds here; where none does, as a plain one packed."""
    chosen = choose(
        *weight.shape,
        weight.bits,
        weight.scale.shape[1],
        weight.shift is not None,
        weight.dtype,
        weight.packed.device,
        torch.get_num_threads(),
        weight.floating,
    )
    return pack(weight.to_dense()) if chosen is None else formed(weight, chosen)


@cache
def choose(
    out: int,
    width: int,
    bits: int,
    groups: int,
    shifted: bool,
    dtype: torch.dtype,
    device: torch.device,
    threads: int,
    floating: bool = False,
) -> Form | None:
    """Return the best form that holds for weights of this kind, or None.

    What is found is true of so many `threads`.
    """
    del threads
    weight, rows = cancelling(
        out, width, bits, groups, dtype, device, shifted=shifted, floating=floating
    )
    for form in forms(weight):
        try:
            tried = formed(weight, form)
            if rows_agree(partial(_product, tried), rows, COUNTS):
                return form
        except ABSENT:
            continue
    return None


def _product(weight: Weight, rows: Tensor) -> Tensor:
    return linear(rows, weight)


def cancelling(
    out: int,
    width: int,
    bits: int,
    groups: int,
    dtype: torch.dtype,
    device: torch.device,
    *,
    shifted: bool,
    floating: bool = False,
) -> tuple[Quantised, Tensor]:
    """Return a weight and rows whose exact products are all zero, as `linear.cancelling` does.

    The two values that cancel lie in the same group, anywhere in it.
    """
    generator = torch.Generator().manual_seed(0)
    out = min(out, AT_MOST)
    group = width // groups
    pairs, odd = divmod(group, 2)

    def mirrored(half: Tensor, sign: int) -> Tensor:
        """Return [n, width] of [n, groups, pairs]: each value twice, the second with the sign."""
        whole = torch.cat((half, half.new_zeros(*half.shape[:2], odd), half * sign), -1)
        return whole[..., order].flatten(1)

    order = torch.randperm(group, generator=generator)
    low, high = -(1 << (bits - 1)), 1 << (bits - 1)
    halves = torch.randint(low, high, (out, groups, pairs), generator=generator).to(torch.int8)
    if floating:  # any bits are a float, but for those of NaN
        halves[halves & 0x7F == 0x7F] = 0
    numbers = mirrored(halves, 1)
    words = packed_floats(numbers.view(FLOAT8)) if floating else packed(numbers, bits)
    scale = torch.rand(out, groups, generator=generator) + 0.5
    shift = None
    if shifted:
        shift = torch.randn(out, groups, generator=generator) - scale * (1 << (bits - 1))
    given = torch.randn(COUNTS[-1] + 8, groups, pairs, generator=generator)
    given *= torch.randint(-SPREAD, SPREAD + 1, given.shape, generator=generator).float().exp2()
    weight = Quantised(
        words.to(device),
        scale.to(device, dtype),
        None if shift is None else shift.to(device, dtype),
        bits,
        (out, width),
        dtype,
        floating,
    )
    return weight, mirrored(given, -1).to(device, dtype)
