"""What holds on the CPU holds on the device: rows alike, exact strategies exact, AR the same."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nldc import api
from nldc.prompts import choose_prompts
from nldc.runtime import Decoder, Layout, Pattern
from nldc.runtime.alike import ROWS, alike
from nldc.runtime.cache.kv_cache import KVCache, Places
from nldc.runtime.checkpoint.config import ModelConfig
from nldc.runtime.checkpoint.quantising import quantize
from nldc.runtime.invariant.interleaved import Interleaved
from nldc.runtime.invariant.linear import Packed, choose, pack
from nldc.runtime.invariant.norm import RMSNorm, silu
from nldc.runtime.model.attention import TorchAttention
from nldc.runtime.reference.attention import attention as reference
from nldc.runtime.rows.plan import Plan
from nldc.runtime.step.batch import Batch
from nldc.runtime.step.member import Member
from nldc.runtime.step.sampling import Sampling, filtered
from nldc.runtime.step.thinking import ThinkingLimit
from nldc.verify import model_folder
from tests.gpu.waits import without_waits
from tests.library import exact
from tests.runtime.company import Company
from tests.runtime.tiles import untiled

pytestmark = pytest.mark.gpu
DTYPES = ("float32", "bfloat16", "float16")
EXACT = exact()
OTHERS = [name for name in EXACT if name != "ar"]
SHAPES = ((97, 101), (61, 40), (577, 1000), (960, 576), (4096, 4096), (1, 8))


def patterns(kind: type[Decoder]) -> dict[str, Pattern]:
    """Return the attention patterns of a compiled strategy, by name."""
    module = sys.modules[kind.__module__.rpartition(".")[0] + ".patterns"]
    return {one.name: one for one in vars(module).values() if isinstance(one, Pattern)}


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_has_the_same_logits_in_any_company(
    compiled: Any, device: torch.device, backend: str, dtype: str
) -> None:
    here = device.type == "cuda"
    if backend == "triton" and not here:
        pytest.skip("interpreted products are numpy's, which look at a row's place")
    kind = compiled("ar")
    decoder = kind.from_checkpoint(None, dtype=dtype, device=device, backend=backend)
    prefixes = (30, 1000, 2030, 4080, 9200) if here else (30, 130)
    (causal,) = patterns(kind).values()
    found = alike(
        decoder.model, causal, prefixes, rows=ROWS if here else 40, alone=20 if here else 2
    )
    assert [one.where for one in found] == [()] * len(prefixes)
    assert all(one.checked > (500 if here else 60) for one in found)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("out", "width"), SHAPES)
def test_products_have_a_way_that_holds(
    device: torch.device, dtype: str, out: int, width: int
) -> None:
    kind = getattr(torch, dtype)
    if device.type == "cpu" and out * width > 1_000_000:
        pytest.skip("takes minutes on a CPU; tests/runtime/test_linear.py tries its shapes")
    choose(out, width, kind, device, torch.get_num_threads())  # warns, which is an error, if none
    weight = torch.randn(out, width, device=device).to(kind)
    packed = pack(weight)
    assert isinstance(packed, Packed)
    assert torch.equal(packed.to_dense(), weight)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [61, 256, 4096])
def test_norms_and_gates_of_a_row_are_alike(device: torch.device, dtype: str, width: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, width, generator=generator).to(device, getattr(torch, dtype))
    norm = RMSNorm(torch.rand(width, generator=generator).to(x), 1e-5)
    for call in (norm, silu):
        whole = call(x.clone())
        for first, count in ((0, 1), (3, 1), (0, 7), (5, 33), (1, 128)):
            own = slice(first, first + count)
            assert torch.equal(call(x[own].clone()), whole[own]), (first, count)


def test_what_top_p_leaves_of_a_row_does_not_depend_on_its_company(device: torch.device) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 33, 5000, generator=generator).to(device)
    sampling = Sampling(temperature=0.7, top_p=0.9)
    whole = filtered(logits, sampling)
    assert 10 < int(whole.isfinite().sum(-1).min()) < 5000
    for count in (1, 2, 16):
        assert torch.equal(filtered(logits[:, :count].clone(), sampling), whole[:, :count])


@pytest.fixture(scope="module")
def prompts(device: torch.device) -> Any:
    return choose_prompts(None, 6 if device.type == "cuda" else 2, model_folder(None), None)


@pytest.fixture(scope="module")
def ar_tokens(compiled: Any, device: torch.device, prompts: Any) -> Any:
    known: dict[tuple[str, str, float], list[list[int]]] = {}

    def get(dtype: str, backend: str, temperature: float) -> list[list[int]]:
        key = (dtype, backend, temperature)
        if key not in known:
            known[key] = tokens_of(compiled("ar"), device, prompts, *key)
        return known[key]

    return get


def tokens_of(
    kind: type[Decoder],
    device: torch.device,
    prompts: Any,
    dtype: str,
    backend: str,
    temperature: float,
) -> list[list[int]]:
    decoder = kind.from_checkpoint(None, dtype=dtype, device=device, backend=backend)  # type: ignore[arg-type]
    return decoder.generate(
        prompts,
        max_new_tokens=48 if device.type == "cuda" else 8,
        temperature=temperature,
        batch_size=3,
    ).tokens


@pytest.fixture(
    scope="module", params=[(8, False), (4, False), (8, True)], ids=["8", "4", "floats"]
)
def quantised(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the demo model in 8 and in 4 bits and in floats, as `nldc quantize` makes it."""
    folder, (bits, floating) = tmp_path_factory.mktemp("quantised") / "model", request.param
    quantize(model_folder(None), folder, bits, floating=floating)
    return folder


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["linear_ss", "quadratic_ss"])
def test_a_quantised_model_gives_ar_s_tokens(
    compiled: Any, device: torch.device, prompts: Any, backend: str, quantised: Path, name: str,
    dtype: str,
) -> None:  # fmt: skip
    """On the triton backend weights stay in their bits; torch has dequantised them."""
    if device.type != "cuda" and (backend == "triton" or dtype == "float16"):
        pytest.skip("interpreted products are numpy's, which look at a row's place")

    def tokens(strategy: str, size: int) -> list[list[int]]:
        decoder = compiled(strategy).from_checkpoint(
            quantised, dtype=dtype, device=device, backend=backend
        )
        in_bits = isinstance(decoder.model.backbone.weights.layers[0].qkv, Interleaved)
        assert in_bits == (backend == "triton")
        count = 32 if device.type == "cuda" else 8
        options = {"max_new_tokens": count, "temperature": 0.0, "batch_size": size}
        found: list[list[int]] = decoder.generate(prompts, **options).tokens
        return found

    want = tokens("ar", 1)
    assert tokens("ar", 3) == want
    assert tokens(name, 3) == want


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", OTHERS)
def test_exact_strategies_give_ar_s_tokens(
    compiled: Any,
    device: torch.device,
    prompts: Any,
    ar_tokens: Any,
    backend: str,
    name: str,
    dtype: str,
) -> None:
    for temperature in (0.0, 0.8):
        found = tokens_of(compiled(name), device, prompts, dtype, backend, temperature)
        assert found == ar_tokens(dtype, backend, temperature), temperature


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_ar_gives_the_tokens_that_it_gives_on_the_cpu(
    compiled: Any,
    device: torch.device,
    prompts: Any,
    ar_tokens: Any,
    backend: str,
    temperature: float,
) -> None:
    decoder = compiled("ar").from_checkpoint(None, dtype="float32", device="cpu", backend="torch")
    tokens = 48 if device.type == "cuda" else 8
    want = decoder.generate(prompts, max_new_tokens=tokens, temperature=temperature).tokens
    assert ar_tokens("float32", backend, temperature) == want


def config(heads: int, kv_heads: int, dim: int) -> ModelConfig:
    """Return the demo model's config with other heads."""
    return replace(
        ModelConfig.load(model_folder(None)),
        num_layers=1,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=dim,
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(4, 1, 16), (6, 2, 24), (8, 2, 128)])
def test_attention_is_what_its_definition_says(
    compiled: Any,
    device: torch.device,
    backend: str,
    dtype: str,
    heads: int,
    kv_heads: int,
    dim: int,
) -> None:
    generator = torch.Generator().manual_seed(0)
    kind = getattr(torch, dtype)
    wide = torch.promote_types(kind, torch.float32)
    for name, pattern in {
        **patterns(compiled("linear_ss")),
        **patterns(compiled("tidar")),
    }.items():
        for rows, lengths in ((1, (0, 130)), (9, (63, 64)), (40, (5, 90))):
            layout = Layout.causal(rows)
            batch = len(lengths)
            cache = KVCache(config(heads, kv_heads, dim), kind, device)
            slots = [cache.acquire(200) for _ in range(batch)]
            cache.reserve(slots, [200] * batch)
            for slot in slots:
                cache.claim(slot, 200)
            cache.data.copy_(torch.randn(cache.data.shape, generator=generator))
            query, key, value = (
                torch.randn(batch * rows, count, dim, generator=generator).to(device, kind)
                for count in (heads, kv_heads, kv_heads)
            )
            factor = torch.full((batch * rows,), dim**-0.5, device=device, dtype=wide)
            places = Places(
                tuple(range(batch)),
                lengths,
                torch.arange(batch, device=device),
                torch.tensor(lengths, device=device),
            )
            plan = Plan.of(layout, pattern, device, wide)
            if backend == "triton":
                from nldc.runtime.model.triton_attention import TritonAttention

                attend: Any = TritonAttention(plan, cache, places)
            else:
                attend = TorchAttention(plan, cache, places)
            found = attend(0, query, key, value, factor.view(-1, 1, 1))
            want = reference(
                query.cpu(), untiled(cache.keys[0][cache.table]).cpu(),
                untiled(cache.values[0][cache.table]).cpu(),
                places.slot_index.cpu(), places.start.cpu(), factor.cpu(), layout, pattern,
            )  # fmt: skip
            error = float((found.double().cpu() - want).abs().max())
            assert error <= {"float32": 5e-5, "float16": 4e-3, "bfloat16": 3e-2}[dtype], name


def test_a_long_prompt_takes_memory_with_its_length(
    compiled: Any, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    if device.type != "cuda":
        pytest.skip("the CPU's memory is counted in tests/runtime/test_attention.py")
    monkeypatch.setattr("nldc.runtime.model.attention.MASK_ROOM", 0)
    decoder = compiled("ar").from_checkpoint(None, device=device, backend="torch")

    def peak(rows: int) -> int:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        decoder.generate([[5] * rows], max_new_tokens=1)
        return torch.cuda.max_memory_allocated() - before

    peak(400)
    assert peak(3600) < 6 * peak(900)  # its square would be 16 times


@pytest.mark.parametrize("name", sorted(api.library()))
def test_a_step_waits_for_nothing_but_whom_its_loop_runs_on_for(
    compiled: Any, device: torch.device, backend: str, name: str
) -> None:
    if device.type != "cuda":
        pytest.skip("tests/runtime/test_step_state.py watches the steps of a CPU")
    decoder = compiled(name).from_checkpoint(None, device=device, backend=backend)
    steps = 0

    def during(_batch: Batch, what: str) -> AbstractContextManager[object]:
        nonlocal steps
        steps += what == "step"
        return without_waits() if steps > 2 else nullcontext()  # first, tables are put there

    limit = ThinkingLimit(5, 7)
    members = [
        Member(0, 0, eos=(2,)),
        Member(0, 1, Sampling(0.9, top_k=20, top_p=0.9, seed=3)),
        Member(0, 2, Sampling(0.7, min_p=0.05), thinking=limit, thought=1),
    ]
    decoded = Company(decoder, most=90, during=during).decode([[5, 9], [8], [7, 3]], members)
    assert steps > 2
    for prompt, member, one in zip([[5, 9], [8], [7, 3]], members, decoded, strict=True):
        (alone,) = Company(decoder, most=90).decode([prompt], [member])
        assert alone.tokens == one.tokens
