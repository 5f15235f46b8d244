"""Kernels on the device: right, and of the same bits for every number of rows and way of launching.

What each computes, to the last corner, is tested in the interpreter (tests/runtime/kernels); here
the compiled ones are held against float64, and rows against themselves in other company.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nldc.runtime.checkpoint.sampler import SamplerShape
from nldc.runtime.invariant.interleaved import interleaved, lanes_of
from nldc.runtime.invariant.linear import cancelling
from nldc.runtime.invariant.quantised import FLOAT8, Quantised, packed, packed_floats
from nldc.runtime.invariant.quantised_ways import cancelling as cancelling_numbers
from tests.runtime.random_sampler import drawn_block, exact, random_sampler

pytest.importorskip("triton")

from nldc.runtime.kernels.asked import Asked
from nldc.runtime.kernels.device import interpreted
from nldc.runtime.kernels.filtered import Filters, filtered
from nldc.runtime.kernels.gated import gated
from nldc.runtime.kernels.head import head
from nldc.runtime.kernels.launchable import Target
from nldc.runtime.kernels.library import Products
from nldc.runtime.kernels.low_rank import LowRankProducts, low_rank
from nldc.runtime.kernels.mixed import mixed
from nldc.runtime.kernels.noise import Noise
from nldc.runtime.kernels.product import Matrix, product
from nldc.runtime.kernels.rotary import Heads, Pages, rotary
from nldc.runtime.kernels.safety import Network, safety
from nldc.runtime.kernels.scanned import scanned
from nldc.runtime.kernels.summed import added_normed
from nldc.runtime.model import scores
from nldc.runtime.step.choose import sample
from nldc.runtime.step.lineup import Lineup
from nldc.runtime.step.member import Member
from nldc.runtime.step.sampling import Sampling
from nldc.runtime.step.values import Logits

pytestmark = pytest.mark.gpu
COUNTS = (1, 2, 7, 8, 16, 17, 31, 33, 64, 65, 72, 81, 97, 128, 129, 272)
MOST = 1056
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
FLOATS = "floats"
KINDS = (
    (8, 0, False), (8, 0, True), (8, 128, False), (8, 128, True), (8, 32, False), (4, 0, False),
    (4, 128, False), (4, 128, True), (4, 64, True), (4, 32, False), (4, 32, True), (4, 16, True),
    (8, 0, FLOATS), (8, 128, FLOATS), (8, 32, FLOATS),
)  # fmt: skip
"""Bits of quantised weights, their group (0: all of a row), and whether they have a shift, or what
has none: `FLOATS`."""
SHAPES = ((640, 4096), (200, 14336), (97, 577), (1536, 1024))
EPSILON = {torch.bfloat16: 2**-8, torch.float16: 2**-10, torch.float32: 2**-17}
Numbers = Callable[..., Tensor]


@pytest.fixture
def target(device: torch.device) -> Target:
    if device.type != "cuda" and not interpreted():
        pytest.skip("kernels run on the CPU with TRITON_INTERPRET=1 only")
    return Target.of(device)


@pytest.fixture
def numbers(device: torch.device) -> Numbers:
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    return drawn


def whole(parts: Tensor) -> Tensor:
    total = torch.zeros_like(parts[0])
    for part in parts:
        total += part
    return total


def counts(device: torch.device) -> tuple[tuple[int, ...], int]:
    """Return the numbers of rows to try, and of how many they are the first: fewer on a CPU."""
    return (COUNTS, MOST) if device.type == "cuda" else ((1, 17), 33)


def error(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_products_of_a_row_have_the_same_bits(
    device: torch.device, target: Target, dtype: torch.dtype, shape: tuple[int, int]
) -> None:
    """The exact results are zero: what is left is rounding, and shows any other order."""
    out, width = shape if device.type == "cuda" else (40, 90)
    some, most = counts(device)
    data, rows = cancelling(out, width, dtype, device)
    rows = rows.repeat(-(-most // len(rows)), 1)[:most]
    weight, beside = Matrix(data, out, width), Matrix(data.flip(0).contiguous(), out, width)
    large = rows * 50  # or every gate is shut, and half open
    other = Target(80) if device.type == "cuda" else target  # no dependent launches, fewer stages
    of_all, gated_of_all = (
        whole(product(rows, weight, target)),
        gated(large, weight, beside, target),
    )
    for count in some:
        for first in {0, min(5, most - count)}:
            own = slice(first, first + count)
            for way in (target, other):
                assert torch.equal(whole(product(rows[own], weight, way)), of_all[own]), count
                found = gated(large[own], weight, beside, way)
                assert torch.equal(found, gated_of_all[own]), count


@pytest.mark.parametrize("dtype", DTYPES[:2])
def test_products_of_many_rows_have_the_bits_of_few_whoever_computes_them(
    device: torch.device, target: Target, numbers: Numbers, dtype: torch.dtype
) -> None:
    products, plain = Products.on(target), Products(target)
    for out, width in ((4096, 14336), (2048, 4096)) if device.type == "cuda" else ((40, 90),):
        weight, beside = (
            Matrix(numbers(out, width, dtype=dtype) / width**0.5, out, width) for _ in range(2)
        )
        x = numbers(MOST if device.type == "cuda" else 33, width, dtype=dtype)
        few = whole(plain.product(x[:32], weight)), plain.gated(x[:32], weight, beside)
        for rows in (192, 200, 257, 272, 700, MOST):
            some = x[:rows]
            many = whole(products.product(some, weight)), products.gated(some, weight, beside)
            for found, wanted, first in zip(
                many, (whole(plain.product(some, weight)), plain.gated(some, weight, beside)), few,
                strict=True,
            ):  # fmt: skip
                assert torch.equal(found, wanted), rows
                assert torch.equal(found[:32], first), rows
    if device.type == "cuda" and torch.version.hip is None:
        assert any(products._held.values()), "the library is of no use here"


@pytest.mark.parametrize("dtype", DTYPES)
def test_products_are_those_of_float64(
    device: torch.device, target: Target, numbers: Numbers, dtype: torch.dtype
) -> None:
    for out, width in SHAPES if device.type == "cuda" else ((40, 90),):
        data, other = (numbers(out, width, dtype=dtype) / width**0.5 for _ in range(2))
        for rows in (1, 33, 72, 272) if device.type == "cuda" else (3,):
            x = numbers(rows, width, dtype=dtype)
            found = whole(product(x, Matrix(data, out, width), target))
            wanted = x.double() @ data.double().T
            assert error(found, wanted) < 2**-16
            activated = gated(x, Matrix(data, out, width), Matrix(other, out, width), target)
            wanted = F.silu(wanted) * (x.double() @ other.double().T)
            assert error(activated, wanted) < EPSILON[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_norms_rotations_and_adapters_of_a_row_have_the_same_bits(
    device: torch.device, target: Target, numbers: Numbers, dtype: torch.dtype
) -> None:
    some, most = counts(device)
    heads = Heads(8, 2, 64, 64)
    width = 12 * 64
    parts, states, gamma = (
        numbers(4, most, width), numbers(most, width, dtype=dtype), numbers(width, dtype=dtype),
    )  # fmt: skip
    cos, sin = numbers(2, most, 64)
    positions, zero = torch.arange(most, device=device), torch.zeros(1, device=device).long()
    table = torch.randperm(most // 64 + 1).int().view(1, -1).to(device)
    modules = LowRankProducts.of(
        [(0, numbers(24, width, dtype=dtype), numbers(width, 24, dtype=dtype), 0.5)], width
    )

    def computed(own: slice) -> list[Tensor]:
        mine = parts[:, own].contiguous()
        marks = torch.ones(mine.shape[1], dtype=torch.int8, device=device)
        beside = low_rank(states[own].contiguous(), modules, marks, target)
        keys, values = torch.zeros(2, table.shape[1], 2, 64, 64, dtype=dtype, device=device)
        query = rotary(
            mine, positions[own], cos, sin, Pages(table, zero, zero + own.start), keys, values,
            heads, target, beside,
        )  # fmt: skip
        place = positions[own]
        pages = table[0, place // 64].long()
        kept = [held[pages, :, place % 64] for held in (keys, values)]
        added = added_normed(mine, states[own].contiguous(), gamma, 1e-5, target, beside)
        return [*added, query, beside.values, *kept]

    of_all = computed(slice(0, most))
    assert all(each.isfinite().all() for each in of_all)
    for count in some:
        first = min(3, most - count)
        for found, wanted in zip(computed(slice(first, first + count)), of_all, strict=True):
            assert torch.equal(found, wanted[first : first + count]), count


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_head_finds_the_same_for_a_row_in_any_company(
    device: torch.device, target: Target, numbers: Numbers, dtype: torch.dtype
) -> None:
    some, most = counts(device)
    size, width = (5000, 1024) if device.type == "cuda" else (150, 40)
    weight = Matrix(numbers(size, width, dtype=dtype) / width**0.5, size, width)
    x = numbers(most, width, dtype=dtype)
    one = torch.ones(1, dtype=torch.int64, device=device)
    positions = torch.arange(most, device=device)
    for asked in (
        Asked(logits=True, token=True),
        Asked(token=True, noisy=True),
        Asked(token=True, measures=True),
        Asked(token=True, noisy=True, measures=True),
    ):

        def found(own: slice, asked: Asked = asked) -> list[Tensor]:
            noise = Noise(positions[own], one, one, one.double()) if asked.noisy else None
            everything = vars(head(x[own].contiguous(), weight, asked, target, noise)).values()
            return [each for each in everything if each is not None]

        of_all = found(slice(0, most))
        for count in some:
            first = min(3, most - count)
            for mine, wanted in zip(found(slice(first, first + count)), of_all, strict=True):
                assert torch.equal(mine, wanted[first : first + count]), (asked, count)
        if asked.logits:
            logits, tokens = of_all
            assert torch.equal(tokens, logits.argmax(-1))
            assert error(logits, x.double() @ weight.data.double().T) < EPSILON[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_head_measures_a_row_alike_whether_or_not_its_logits_are_written(
    device: torch.device, target: Target, numbers: Numbers, dtype: torch.dtype
) -> None:
    _, rows = counts(device)
    size, width = (5000, 1024) if device.type == "cuda" else (150, 40)
    weight = Matrix(numbers(size, width, dtype=dtype) / width**0.5, size, width)
    x = numbers(rows, width, dtype=dtype)
    chosen = head(x, weight, Asked(token=True, measures=True), target, uncounted=3)
    written = head(x, weight, Asked(logits=True, measures=True), target, uncounted=3)
    asked = Asked(measures=True, given=True)
    given = head(x, weight, asked, target, given=chosen.tokens, uncounted=3)
    for name in ("best", "second", "logsumexp", "entropy", "margin"):
        for other in (written, given):
            assert torch.equal(getattr(chosen, name), getattr(other, name)), name
    assert chosen.picked is not None
    assert given.picked is not None
    assert torch.equal(chosen.picked, given.picked)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("turn", range(4))
def test_a_filtered_choice_is_torchs(
    device: torch.device, target: Target, numbers: Numbers, turn: int, dtype: torch.dtype
) -> None:
    samplings = [
        Sampling(0.8, top_k=9),
        Sampling(0.8, top_p=0.9),
        Sampling(1.2, min_p=0.1),
        Sampling(0.8, 50, 0.95, 0.01, seed=3),
        Sampling(top_k=9),
        Sampling(2.0),
    ]
    size, own = (131072, 16) if device.type == "cuda" else (150, 2)
    samplings = [*samplings[turn:], *samplings[:turn]][:4]
    logits = numbers(4 * own, size, dtype=dtype).view(4, own, size) * 3
    members = [Member(0, key, sampling) for key, sampling in enumerate(samplings)]
    rules = Lineup.of(members, 0, device).rules
    positions, drawing = torch.arange(4 * own, device=device), rules.drawing
    noise = Noise(positions, rules.keys, rules.seeds.squeeze(1), drawing.temperature)
    filters = Filters(drawing.top_k, drawing.top_p, drawing.reach)
    found = filtered(logits, filters, noise, target)
    wanted = sample(rules, {}, Logits(logits, positions.view(4, own)))
    assert torch.equal(found.view(4, own), wanted)


@pytest.mark.parametrize("dtype", DTYPES)
def test_logits_that_are_there_are_looked_at_as_a_head_looks(
    device: torch.device, target: Target, numbers: Numbers, dtype: torch.dtype
) -> None:
    some, most = counts(device)
    size, width = (5000, 1024) if device.type == "cuda" else (150, 40)
    weight = Matrix(numbers(size, width, dtype=dtype) / width**0.5, size, width)
    x = numbers(most, width, dtype=dtype)
    heats = torch.full((1,), 0.7, dtype=torch.float64, device=device)
    one, positions = torch.ones_like(heats).long(), torch.arange(most, device=device)
    given = (positions * 977) % size
    for asked in (
        Asked(token=True),
        Asked(token=True, noisy=True),
        Asked(measures=True),
        Asked(measures=True, given=True),
    ):
        noise = Noise(positions, one, one, heats) if asked.noisy else None
        own = given if asked.given else None
        of_head = head(x, weight, replace(asked, logits=True), target, noise, given=own)
        assert of_head.logits is not None
        for count in some:
            noise = Noise(positions[:count], one, one, heats) if asked.noisy else None
            own = given[:count] if asked.given else None
            found = scanned(of_head.logits[None, :count], asked, target, noise, given=own)
            for name, value in vars(found).items():
                if value is not None:
                    assert torch.equal(value, getattr(of_head, name)[:count]), (name, count)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_mix_is_torchs(
    device: torch.device, target: Target, numbers: Numbers, dtype: torch.dtype
) -> None:
    size, rows = (131072, 9) if device.type == "cuda" else (150, 3)
    whole = numbers(4 * (rows + 2), size, dtype=dtype).view(4, rows + 2, size) * 3
    parts = [whole[:, number : number + rows] for number in range(3)]
    own = numbers(4, 5, dtype=torch.float32)[:, 3:4]
    found = mixed(parts, (0.3, own, -1.1), target)
    wanted = scores.mixed(parts, (0.3, own, -1.1))
    if target.upcast and dtype == torch.bfloat16:  # the interpreter cuts off
        assert torch.allclose(found.float(), wanted.float(), rtol=2**-6, atol=2**-4)
    else:
        assert torch.equal(found, wanted)


def matrix_of_numbers(weight: Quantised) -> Matrix:
    lanes = lanes_of(weight)
    assert lanes is not None
    return Matrix.of_numbers(interleaved(weight, lanes))


@pytest.mark.parametrize("dtype", DTYPES[:2])
@pytest.mark.parametrize(("bits", "group", "shifted"), KINDS)
def test_products_of_numbers_are_those_of_float64(
    device: torch.device, target: Target, numbers: Numbers, dtype: torch.dtype, bits: int,
    group: int, shifted: bool | str,
) -> None:  # fmt: skip
    """Every number that there is, in every lane: a wrong bit of one shows in its own output."""
    here, low = device.type == "cuda", 1 << (bits - 1)
    for out, width in ((640, 4096), (200, 14336), (512, 640)) if here else ((40, 128),):
        place = torch.arange(out * width, device=device).view(out, width)
        values = ((place * 37 + place // width * 11) % (2 * low) - low).to(torch.int8)
        groups = width // (group or width)
        scale = (numbers(out, groups).abs() + 0.1) / low / width**0.5
        scale = scale.to(torch.bfloat16)
        shift = -scale.float() * (low - 3) if shifted is True else None
        words = packed(values, bits)
        if shifted == FLOATS:
            values[values & 0x7F == 0x7F] = 0  # or it is no number
            words, scale = packed_floats(values.view(FLOAT8)), scale / 4
        weight = Quantised(
            words, scale, shift, bits, (out, width), dtype, floating=shifted == FLOATS
        )
        made = matrix_of_numbers(weight)
        assert made.quantised is not None
        dense = replace(made.quantised, dtype=torch.float64).to_dense()
        for rows in (1, 33, 72, 272) if here else (3,):
            x = numbers(rows, width, dtype=dtype)
            wanted = x.double() @ dense.T
            assert error(whole(product(x, made, target)), wanted) < 2**-15
            activated = gated(x, made, made, target)
            assert error(activated, F.silu(wanted) * wanted) < 2 * EPSILON[dtype]
            found = head(x, made, Asked(logits=True, token=True), target)
            assert found.logits is not None
            assert found.tokens is not None
            assert error(found.logits, wanted) < 2 * EPSILON[dtype]
            assert torch.equal(found.tokens, found.logits.argmax(-1))
        # one column at a time: numbers are exact, whatever the lane
        columns = torch.arange(0, width, max(1, width // 97), device=device)
        unit = torch.zeros(len(columns), width, dtype=dtype, device=device)
        unit[torch.arange(len(columns), device=device), columns] = 1
        assert error(whole(product(unit, made, target)), dense.T[columns]) < 2**-20


@pytest.mark.parametrize("dtype", DTYPES[:2])
@pytest.mark.parametrize(("bits", "group", "shifted"), KINDS)
def test_products_of_numbers_of_a_row_have_the_same_bits(
    device: torch.device, target: Target, dtype: torch.dtype, bits: int, group: int,
    shifted: bool | str,
) -> None:  # fmt: skip
    if device.type != "cuda":
        pytest.skip("another target's tiles are not interpreted; tests/runtime/kernels has its own")
    some, most = counts(device)
    weight, rows = cancelling_numbers(
        640, 4096, bits, 4096 // (group or 4096), dtype, device,
        shifted=shifted is True, floating=shifted == FLOATS,
    )  # fmt: skip
    rows = rows.repeat(-(-most // len(rows)), 1)[:most].contiguous()
    made = matrix_of_numbers(weight)
    other = Target(80)  # no dependent launches, other tiles

    def computed(own: slice, way: Target) -> list[Tensor]:
        x = rows[own].contiguous()
        found = head(x, made, Asked(logits=True, token=True), way)
        assert found.logits is not None
        assert found.tokens is not None
        return [whole(product(x, made, way)), gated(x, made, made, way), found.logits, found.tokens]

    of_all = computed(slice(0, most), target)
    assert float((of_all[0] != 0).float().mean()) > 0.2, "what is compared is rounding"
    for count in some:
        for first in {0, min(5, most - count)}:
            for way in (target, other):
                own = slice(first, first + count)
                for found, wanted in zip(computed(own, way), of_all, strict=True):
                    assert torch.equal(found, wanted[own]), (count, first)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape",
    [
        SamplerShape(rows=130),
        SamplerShape(width=128, heads=2, rows=130, top=40),
        SamplerShape(width=24, layers=2, heads=3, rows=130),
    ],
    ids=str,
)
def test_a_trained_sampler_is_that_of_float64_and_a_sequence_has_the_same_bits_in_any_batch(
    device: torch.device, target: Target, shape: SamplerShape, dtype: torch.dtype
) -> None:
    """Asked again and again: threads that did not wait for each other would not agree."""
    here = device.type == "cuda"
    weights = random_sampler(shape, device)
    network = Network.of(weights)
    batch, vocabulary, times = (200, 2500, 20) if here else (2, 90, 1)
    for rows in (1, 8, 16, 17, 32, 33, 64, 130) if here else (3, 17):
        logits, tokens, masked = (each.to(device) for each in drawn_block(batch, rows, vocabulary))
        logits = logits.to(dtype)
        found = safety(logits, tokens, masked, 5, network, target)
        wanted = exact(weights, logits, tokens, masked, 5)
        torch.testing.assert_close(found.double(), wanted, rtol=0, atol=2e-5)
        for _ in range(times):
            again = safety(logits, tokens, masked, 5, network, target)
            assert torch.equal(again, found), rows
        for first, last in ((0, 1), (batch // 2, batch // 2 + 1), (1, batch)):
            own = slice(first, last)
            alone = safety(logits[own], tokens[own], masked[own], 5, network, target)
            assert torch.equal(alone, found[own]), (rows, first)
