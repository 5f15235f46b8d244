"""Where pages lie, and in what pieces a prompt is computed, changes no bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from handwritten import CAUSAL, CHECKPOINTS, LAST, Ar, LinearSS
from paged import IN_ORDER, Counted, as_on_a_gpu, cache_for, forward, scatter_pages
from random_model import random_checkpoint
from test_attention import Peak

from nldc.runtime.model import attention
from nldc.runtime.rows import plan
from nldc.runtime.rows.layout import Layout
from nldc.runtime.rows.pattern import Pattern
from nldc.runtime.step.batch import Batch, Model
from nldc.runtime.step.member import Member

DTYPES = ("float32", "float64", "bfloat16", "float16")
ROOM = 2000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pages")
    return random_checkpoint(root, max_position_embeddings=4096, num_hidden_layers=2)


def model_of(folder: Path, dtype: str) -> Model:
    return Ar.from_checkpoint(folder, dtype=dtype, device="cpu", backend="torch").model


def text(count: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2, 250, (count,), generator=generator).tolist()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("place", ["cpu", "gpu"])
@pytest.mark.parametrize("runs", [1, 4, 100])
def test_pages_may_lie_anywhere(
    dtype: str, place: str, runs: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if place == "gpu":
        as_on_a_gpu(monkeypatch)
    monkeypatch.setattr(attention, "MOST_RUNS", runs)
    model = model_of(folder, dtype)

    def logits() -> tuple[list[torch.Tensor], list[int]]:
        cache = cache_for(model)
        slots = [cache.acquire(ROOM) for _ in range(2)]
        found = [forward(model, cache, slots[:1], [text(300)], states=slice(290, None))]
        found.append(forward(model, cache, slots[1:], [text(130, 1)], pattern=CAUSAL))
        for number, rows in enumerate((1, 7, 40, 1, 70)):
            lines = [text(rows, 2 * number), text(rows, 2 * number + 1)]
            found.append(forward(model, cache, slots, lines, pattern=CAUSAL))
        return found, [len(cache.runs(slot, len(cache.pages(slot)))) for slot in slots]

    want, together = logits()
    scatter_pages(monkeypatch)
    found, apart = logits()
    assert together == [1, 1]
    assert min(apart) > 2
    for one, other in zip(found, want, strict=True):
        assert torch.equal(one, other)


def test_tokens_are_the_same_wherever_pages_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [text(190), text(70, 1), text(64, 2), text(3, 3)]
    prompts = [[token % 30 + 5 for token in prompt] for prompt in prompts]
    decoder = LinearSS.from_checkpoint(CHECKPOINTS[0], device="cpu", backend="torch")
    want = decoder.generate(prompts, max_new_tokens=90, eos=()).tokens
    scatter_pages(monkeypatch)
    assert decoder.generate(prompts, max_new_tokens=90, eos=()).tokens == want
    assert decoder.generate(prompts, max_new_tokens=90, eos=(), batch_size=2).tokens == want


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("piece", [64, 100])
def test_a_prompt_has_the_same_bits_in_pieces(
    dtype: str, piece: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(folder, dtype)
    whole = cache_for(model)
    slot = whole.acquire(ROOM)
    monkeypatch.setattr(plan, "PIECE", ROOM)
    prompt = text(3 * piece + 2)
    want = forward(model, whole, [slot], [prompt])[0]
    monkeypatch.setattr(plan, "PIECE", piece)
    counted = Counted(monkeypatch)
    for count in (1, 63, 64, 65, piece - 1, piece, piece + 1, 2 * piece, 3 * piece + 1):
        for states in (None, LAST, slice(count // 2, count // 2 + 1), slice(0, 0)):
            cache = cache_for(model)
            slot = cache.acquire(ROOM)
            counted.rows.clear()
            found = forward(model, cache, [slot], [prompt[:count]], states=states)[0]
            assert torch.equal(found, want[:count][slice(None) if states is None else states])
            full, rest = divmod(count, piece)
            assert counted.rows == [piece] * full + [rest] * bool(rest)
            behind = forward(model, cache, [slot], [prompt[count : count + 1]])[0]
            assert torch.equal(behind, want[count : count + 1])
    cache = cache_for(model)
    slots = [cache.acquire(ROOM) for _ in range(2)]
    both = forward(model, cache, slots, [prompt, text(len(prompt), 5)])
    assert torch.equal(both[0], want)


def test_rows_that_see_more_than_what_comes_before_them_are_one_piece(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "PIECE", 10)
    sees_all = Pattern("all", lambda _q, _k: True, sees_prefix=True)
    counted = Counted(monkeypatch)
    model = model_of(folder, "float32")
    cache = cache_for(model)
    batch = Batch(model, cache, [Member(cache.acquire(ROOM), 0)])
    with torch.inference_mode():
        for layout, pattern in (
            (Layout.causal(25), sees_all),
            (Layout.causal(25, append=False), IN_ORDER),
            (Layout.causal(25), IN_ORDER),
        ):
            batch.forward(torch.tensor([text(25)]), layout, pattern)
    assert counted.rows == [25, 25, 10, 10, 5]


def test_a_long_prompt_takes_little_beside_its_keys_and_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = random_checkpoint(
        tmp_path,
        intermediate_size=1024,
        num_hidden_layers=1,
        num_attention_heads=2,
        head_dim=64,
        max_position_embeddings=16384,
    )
    model = model_of(folder, "float32")

    def prefill(rows: int) -> tuple[int, int]:
        """Return the bytes of the keys and values, and of all that there was at the peak."""
        with Peak() as seen:
            cache = cache_for(model)
            slot = cache.acquire(rows)
            forward(model, cache, [slot], [text(rows)], states=LAST)
        return cache.data.nbytes, seen.most

    cached, pieces = prefill(8192)
    assert pieces < 6 * cached
    monkeypatch.setattr(plan, "PIECE", 8192)
    assert prefill(8192)[1] > 2 * pieces
