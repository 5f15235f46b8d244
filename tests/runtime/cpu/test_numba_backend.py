"""The backend with kernels for CPUs computes what torch's does, and a row's bits are its own."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from handwritten import (
    BIDIRECTIONAL,
    CAUSAL,
    CHECKPOINTS,
    MODES,
    QUADRATIC,
    QUADRATIC_START,
    Ar,
    LinearSS,
    block_layout,
    cases,
    decoder_for,
    quadratic_layout,
)
from paged import IN_ORDER, cache_for, forward, scatter_pages
from random_model import decoders_on, random_checkpoint
from safetensors.torch import load_file
from test_attention import PROMPTLESS, WINDOW
from test_row_invariance import check_rows_alone_and_together, logits

from nldc.runtime import Decoder
from nldc.runtime.cache.kv_cache import KVCache, Places
from nldc.runtime.checkpoint.config import ModelConfig
from nldc.runtime.checkpoint.quantising import quantize
from nldc.runtime.cpu import attention, product
from nldc.runtime.invariant.blocked import Blocked
from nldc.runtime.invariant.quantised import Quantised
from nldc.runtime.loading import load_on
from nldc.runtime.model import numba_backend
from nldc.runtime.model.numba_backend import NumbaBackend
from nldc.runtime.model.torch_backend import TorchBackend
from nldc.runtime.rows.layout import Layout
from nldc.runtime.rows.pattern import Pattern, RowFacts
from nldc.runtime.rows.plan import Plan
from nldc.runtime.step.batch import Batch
from nldc.runtime.step.member import Member
from tests.library import exact

WIDE = {"hidden_size": 64, "intermediate_size": 128, "dtype": "bfloat16"}
DTYPES = ("float32", "bfloat16", "float16")
Forward = tuple[Layout, Pattern]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with weights of 4 bits, and 8 in embedding and head."""
    root = tmp_path_factory.mktemp("q4")
    quantize(random_checkpoint(root / "source", **WIDE), root / "out", 4)
    return root / "out"


@pytest.fixture
def _two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def backend_of(decoder: Decoder) -> NumbaBackend:
    backend = decoder.model.backend
    assert isinstance(backend, NumbaBackend)
    return backend


def test_it_is_taken_for_quantised_weights_which_stay_in_their_bits(model: Path) -> None:
    decoder = Ar.from_checkpoint(model, device="cpu")
    assert decoder.backend == "numba"
    weights = backend_of(decoder).backbone.weights
    assert isinstance(weights.embedding, Quantised)
    layer = weights.layers[0]
    for weight in (layer.qkv, layer.output, layer.gate, layer.up, layer.down):
        assert isinstance(weight, Blocked)
        assert weight.form == "q4s"
    assert isinstance(weights.head, Blocked)
    assert weights.head.form == "q8"
    assert Ar.from_checkpoint(CHECKPOINTS[0], device="cpu").backend == "torch"


def apart(decoder: Decoder, forwards: list[Forward], adapter: str | None = None) -> float:
    """Return how far the layers and the head of both backends are apart, in sequences of two
    lengths, each by the size of what torch's computes.
    """
    kernels, backbone = backend_of(decoder), decoder.model.backbone
    backends = (TorchBackend(backbone), kernels)
    lora = None if adapter is None else decoder.model.adapters[adapter]
    torch.manual_seed(0)
    caches = [KVCache(decoder.config, backbone.dtype, backbone.device) for _ in backends]
    for cache in caches:
        assert [cache.acquire(900) for _ in range(2)] == [0, 1]
    lengths, found = [0, 0], [0.0]
    for number, (layout, pattern) in enumerate(forwards):
        plan = Plan.of(layout, pattern, backbone.device, backbone.dtype)
        backbone.rope.reserve(max(lengths) + plan.reach)
        both = slice(0, 1) if number == 0 else slice(0, 2)  # so that lengths differ
        slots, starts = (0, 1)[both], tuple(lengths[both])
        positions = torch.cat([start + plan.offset for start in starts])
        chosen = torch.arange(len(positions))[::2] if number else None
        rows: list[Any] = []
        for backend, cache in zip(backends, caches, strict=True):
            cache.reserve(slots, [start + layout.size for start in starts])
            places = Places(
                slots, starts, torch.tensor(slots), torch.tensor(starts), tuple(starts),
                torch.tensor(starts),
            )  # fmt: skip
            given = (lora, chosen) if lora is not None else ()
            rows.append(backend.rows(plan, cache, places, positions, *given))
        states = backbone.embed(torch.randint(decoder.config.vocab_size, positions.shape))
        for layer in range(decoder.config.num_layers):
            given_states = states.clone()
            want, got = (
                backend.layer(layer, states, own)  # type: ignore[attr-defined]
                for backend, own in zip(backends, rows, strict=True)
            )
            assert torch.equal(states, given_states)
            assert not got.isnan().any()
            found.append(float((got - want).abs().max() / want.abs().max()))
            states = want.clone()
        want, got = (backend.head(states) for backend in backends)
        found.append(float((got - want).abs().max() / want.abs().max()))
        for slot, start in zip(slots, starts, strict=True):
            for cache in caches:
                cache.append(slot, layout.append)
                cache.keep(slot, None)
            lengths[slot] = start + layout.append
    return max(found)


PATTERNS: dict[str, list[Forward]] = {
    "causal": [(Layout.causal(count), CAUSAL) for count in (60, 1, 3, 100, 1)],
    "trees": [(Layout.causal(60), CAUSAL), (quadratic_layout(3), QUADRATIC)] * 2,
    "start": [(quadratic_layout(4), QUADRATIC_START), (quadratic_layout(2), QUADRATIC)],
    "blocks": [(Layout.causal(30), CAUSAL), (block_layout(7), BIDIRECTIONAL)] * 2,
    "windows": [(Layout.causal(count), WINDOW) for count in (20, 3, 70, 300)],
    "prompts": [(Layout.causal(count), PROMPTLESS) for count in (20, 3, 70)],
    "long": [(block_layout(300), BIDIRECTIONAL), (Layout.causal(3), CAUSAL)],
}


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("name", PATTERNS)
def test_layers_are_those_of_the_torch_backend(
    name: str, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not kept:
        monkeypatch.setattr(numba_backend, "MASK_ROOM", -1)
    for folder in (CHECKPOINTS[4], CHECKPOINTS[5]):
        decoder = Ar.from_checkpoint(folder, dtype="float32", device="cpu", backend="numba")
        assert apart(decoder, PATTERNS[name]) < 1e-5


@pytest.mark.parametrize("name", ["causal", "trees"])
def test_so_are_those_with_an_adapter_on_some_rows(name: str) -> None:
    options: dict[str, Any] = {"dtype": "float32", "device": "cpu", "backend": "numba"}
    decoder = LinearSS.from_checkpoint(CHECKPOINTS[4], **options)
    with_it = apart(decoder, PATTERNS[name], "drafter")
    assert with_it < 1e-5


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_in_16_bits_they_are_nearer_to_the_truth_than_torchs(model: Path, dtype: str) -> None:
    tokens = torch.arange(3, 143).view(2, -1)
    found = {}
    for number, backend in (("float64", "torch"), (dtype, "torch"), (dtype, "numba")):
        decoder = Ar.from_checkpoint(model, dtype=number, device="cpu", backend=backend)
        found[number, backend] = torch.cat(logits(decoder, tokens, (60, 3, 7)), 1).double()
    want = found["float64", "torch"]
    plain, own = ((found[dtype, name] - want).norm() / want.norm() for name in ("torch", "numba"))
    assert own < plain
    assert own < (0.03 if dtype == "bfloat16" else 0.003)


SHAPES: dict[str, dict[str, Any]] = {
    "odd": {
        "hidden_size": 100, "intermediate_size": 110, "num_attention_heads": 5,
        "num_key_value_heads": 1, "head_dim": 18, "vocab_size": 203,
    },
    "shared_keys": {
        "hidden_size": 72, "intermediate_size": 200, "num_attention_heads": 6,
        "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 131,
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        *((name, dtype) for name in ("shared_keys", "quantised") for dtype in DTYPES),
        ("odd", "float32"),
    ],
)
def test_a_row_has_the_same_logits_in_any_company(
    shape: str, dtype: str, model: Path, tmp_path: Path
) -> None:
    folder = model
    if shape in SHAPES:
        folder = random_checkpoint(tmp_path / "model", 3, mask_token_id=5, **SHAPES[shape])
    decoder = Ar.from_checkpoint(folder, dtype=dtype, device="cpu", backend="numba")
    check_rows_alone_and_together(decoder, 130)


@pytest.mark.usefixtures("_two_threads")
def test_a_second_thread_changes_no_bit(model: Path) -> None:
    decoder = Ar.from_checkpoint(model, device="cpu")
    tokens = torch.arange(3, 143).view(2, -1)
    counts = (1, 30, 2, 37)
    together = torch.cat(logits(decoder, tokens, counts), 1)
    torch.set_num_threads(1)
    assert torch.equal(torch.cat(logits(decoder, tokens, counts), 1), together)


def test_in_which_parts_a_machine_computes_changes_no_bit(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = torch.arange(3, 143).view(2, -1)
    found = []
    for room in (False, True):
        for module in (attention, product):
            monkeypatch.setattr(module, "has_room", lambda room=room: room)
        product.product.cache_clear()
        attention.attention.cache_clear()
        decoder = Ar.from_checkpoint(model, device="cpu")
        found.append(torch.cat(logits(decoder, tokens, (60, 1, 2, 7)), 1))
    assert torch.equal(*found)
    monkeypatch.undo()
    product.product.cache_clear()
    attention.attention.cache_clear()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_row_with_an_adapter_has_its_own_bits_too(dtype: str) -> None:
    decoder = LinearSS.from_checkpoint(CHECKPOINTS[4], dtype=dtype, device="cpu", backend="numba")
    tokens = torch.arange(3, 43).view(1, -1)
    whole = torch.cat(logits(decoder, tokens, (40,), "drafter"), 1)
    for counts in ((1,) * 40, (2, 7, 31)):
        assert torch.equal(torch.cat(logits(decoder, tokens, counts, "drafter"), 1), whole)
    assert not torch.equal(whole, torch.cat(logits(decoder, tokens, (40,)), 1))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_pages_may_lie_anywhere(model: Path, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own = Ar.from_checkpoint(model, dtype=dtype, device="cpu").model

    def found() -> list[torch.Tensor]:
        cache = cache_for(own)
        slots = [cache.acquire(500) for _ in range(2)]
        generator = torch.Generator().manual_seed(0)
        made = []
        for rows in (130, 1, 70, 3, 64):
            lines = torch.randint(2, 250, (2, rows), generator=generator).tolist()
            made.append(forward(own, cache, slots, lines, pattern=CAUSAL))
        return made

    in_order = found()
    scatter_pages(monkeypatch)
    for one, other in zip(in_order, found(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_in_the_cache_makes_none_of_what_sees_it(
    model: Path, dtype: str, value: float
) -> None:
    own = Ar.from_checkpoint(model, dtype=dtype, device="cpu").model
    cache = cache_for(own)
    slots = [cache.acquire(500)]
    assert forward(own, cache, slots, [[5, 9, 2]], pattern=CAUSAL).isfinite().all()
    cache.data[0].fill_(value)
    assert not forward(own, cache, slots, [[7]], pattern=CAUSAL).isfinite().any()


def _branches(q: RowFacts, k: RowFacts) -> torch.Tensor:
    return k.prefix | ((k.group == q.group) & (k.position <= q.position))


BRANCHES = Pattern("branches", _branches)


def test_how_it_is_known_what_a_row_sees_changes_no_bit(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a limit, by masks that are kept or made in every layer, or in a branch with another's rows
    between: a row sees the same keys in the same order.
    """
    own = Ar.from_checkpoint(model, dtype="bfloat16", device="cpu").model
    line = torch.randint(2, 250, (40,), generator=torch.Generator().manual_seed(0)).tolist()
    steps, numbers = range(5), range(10)
    apart = Layout.of(
        [0] * 10, [n % 2 for n in numbers], numbers, numbers, [n // 2 for n in numbers],
        [True] * 10, 0,
    )  # fmt: skip

    def found(layout: Layout, pattern: Pattern, rows: list[int]) -> torch.Tensor:
        cache = cache_for(own)
        slots = [cache.acquire(500)]
        forward(own, cache, slots, [line], pattern=CAUSAL)
        batch = Batch(own, cache, [Member(slot, slot) for slot in slots])
        return batch.head(batch.forward(torch.tensor([rows]), layout, pattern)).values

    chain = Layout.causal(len(steps))
    want = found(chain, IN_ORDER, line[:5])
    other = found(chain, IN_ORDER, line[5:10])
    two = [line[number // 2 + 5 * (number % 2)] for number in numbers]
    for room in (numba_backend.MASK_ROOM, -1):
        monkeypatch.setattr(numba_backend, "MASK_ROOM", room)
        assert torch.equal(found(chain, CAUSAL, line[:5]), want)
        both = found(apart, BRANCHES, two)
        assert torch.equal(both[:, ::2], want)
        assert torch.equal(both[:, 1::2], other)


@pytest.mark.parametrize("mode", MODES)
def test_tokens_are_golden(mode: str) -> None:
    for case in cases():
        if case.folder not in CHECKPOINTS[2:5:2]:
            continue
        decoder = decoder_for(case, mode, dtype="float32", backend="numba")
        found = decoder.generate([case.prompt], max_new_tokens=case.max_new_tokens)
        assert found.tokens == [case.modes[mode]["tokens"]], case
        assert found.stats[0].nfe == case.modes[mode]["nfe"], case


@pytest.fixture(scope="module")
def get(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Decoder]:
    return decoders_on(model, tmp_path_factory.mktemp("artifacts"), "bfloat16")


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("name", exact())
def test_an_exact_strategy_has_the_tokens_of_ar(
    get: Callable[[str], Decoder], name: str, temperature: float
) -> None:
    prompts = [[5, 9, 2, 77], [8] * 70, [3, 1, 3, 1, 3]]
    options: dict[str, Any] = {"max_new_tokens": 14, "eos": (), "temperature": temperature}
    want = get("ar").generate(prompts, seed=3, batch_size=1, **options).tokens
    decoder = get(name)
    assert decoder.backend == "numba"
    assert decoder.generate(prompts, seed=3, batch_size=3, **options).tokens == want


def test_a_strategy_beside_another_computes_on_the_same_memory(model: Path) -> None:
    decoder = Ar.from_checkpoint(model, device="cpu")
    beside = LinearSS.beside(decoder, adapter=None)
    assert beside.backend == "numba"
    assert backend_of(beside).backbone is backend_of(decoder).backbone
    options: dict[str, Any] = {"max_new_tokens": 12, "eos": ()}
    want = decoder.generate([[5, 9, 2]], **options).tokens
    assert beside.generate([[5, 9, 2]], **options).tokens == want


def test_weights_that_somebody_else_loaded_are_copied_into_blocks() -> None:
    folder = CHECKPOINTS[4]
    config, tensors = ModelConfig.load(folder), load_file(folder / "model.safetensors")
    shared, _ = load_on(Ar, config, tensors, backend="numba")
    loaded = Ar.from_checkpoint(folder, dtype="float32", device="cpu", backend="numba")
    tokens = torch.arange(3, 43).view(1, -1)
    assert torch.equal(logits(shared, tokens, (40,))[0], logits(loaded, tokens, (40,))[0])


@pytest.mark.usefixtures("_two_threads")
def test_several_threads_may_generate_at_once(get: Callable[[str], Decoder], model: Path) -> None:
    options: dict[str, Any] = {"max_new_tokens": 12, "eos": ()}
    prompts = [[number, 9, 2, 77] for number in range(2, 6)]
    want = get("ar").generate(prompts, **options).tokens
    found: dict[int, list[list[int]]] = {}

    def run(number: int) -> None:
        decoder = Ar.from_checkpoint(model, dtype="bfloat16", device="cpu")
        found[number] = decoder.generate([prompts[number]], **options).tokens

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[number][0] for number in range(len(prompts))] == want


@pytest.mark.usefixtures("_two_threads")
def test_without_torchs_threads_one_computes_and_it_is_said(
    model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    want = Ar.from_checkpoint(model, device="cpu").generate([[5, 9]], max_new_tokens=9, eos=())
    monkeypatch.setattr(numba_backend, "team", lambda: None)
    caplog.set_level(logging.INFO, "nldc")
    found = Ar.from_checkpoint(model, device="cpu").generate([[5, 9]], max_new_tokens=9, eos=())
    assert found.tokens == want.tokens
    assert any("compute in one thread" in line for line in caplog.messages)


def test_rows_that_are_no_numbers_stay_so_and_touch_no_other(model: Path) -> None:
    decoder = Ar.from_checkpoint(model, device="cpu")
    backend = backend_of(decoder)
    states = torch.randn(3, 64, dtype=torch.bfloat16)
    want = backend.head(states)
    states[1, 5] = torch.nan
    found = backend.head(states)
    assert found[1].isnan().all()
    assert torch.equal(found[[0, 2]], want[[0, 2]])
    assert backend.head(states[:0]).shape == (0, decoder.config.vocab_size)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_row_behind_others_that_is_no_number_changes_only_those_that_see_it(
    dtype: str, value: float, tmp_path: Path
) -> None:
    folder = random_checkpoint(tmp_path / "model", 3)
    decoder = Ar.from_checkpoint(folder, dtype=dtype, device="cpu", backend="numba")
    embedding = decoder.model.backbone.weights.embedding
    assert isinstance(embedding, torch.Tensor)
    embedding[7] = value
    tokens = torch.arange(8, 48).view(1, -1)
    tokens[0, 33] = 7
    (whole,) = logits(decoder, tokens, (40,))
    assert torch.isfinite(whole[0, :33]).all()
    assert whole[0, 33:].isnan().all()
    assert torch.equal(torch.cat(logits(decoder, tokens, (33,)), 1), whole[:, :33])
    assert logits(decoder, tokens, (34, 1))[1].isnan().all()


@pytest.mark.parametrize("default", [torch.bfloat16, torch.float64])
def test_what_torch_makes_where_nobody_says_it_changes_nothing(
    model: Path, default: torch.dtype
) -> None:
    options: dict[str, Any] = {"max_new_tokens": 9, "eos": ()}
    decoder = Ar.from_checkpoint(model, device="cpu")
    want = decoder.generate([[5, 9, 2]], **options).tokens
    torch.set_default_dtype(default)
    try:
        assert decoder.generate([[5, 9, 2]], **options).tokens == want
        loaded = Ar.from_checkpoint(model, device="cpu")
        assert loaded.generate([[5, 9, 2]], **options).tokens == want
    finally:
        torch.set_default_dtype(torch.float32)
