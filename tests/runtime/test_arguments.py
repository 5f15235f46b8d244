"""Arguments as people have them are welcome, or refused in words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy
import pytest
import torch
from random_model import random_checkpoint

from nldc import api
from nldc.runtime.cache.kv_cache import KVCache
from nldc.runtime.checkpoint.config import ModelConfig
from nldc.runtime.decoder import Decoder
from nldc.runtime.errors import NldcRuntimeError, OutOfMemoryError, PromptError
from nldc.runtime.invariant.line_tiles import KEY_TILE


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    root = tmp_path_factory.mktemp("arguments")
    kind = api.load(api.compile("linear_ss", root / "a", certify=False))
    model = random_checkpoint(root / "model", text=True)
    return kind.from_checkpoint(model, device="cpu")


@pytest.mark.parametrize(
    "prompts",
    [
        [(5, 6)],
        (n for n in ([5, 6],)),
        [range(5, 7)],
        [(n for n in (5, 6))],
        torch.tensor([[5, 6]]),
        [torch.tensor([5, 6])],
        [torch.tensor([5, 6], dtype=torch.uint8)],
        [[torch.tensor(5), torch.tensor(6)]],
        numpy.array([[5, 6]]),
        [numpy.array([5, 6], dtype=numpy.int16)],
        [[numpy.int64(5), numpy.uint8(6)]],
    ],
)
def test_ids_are_taken_in_every_usual_form(decoder: Decoder, prompts: Any) -> None:
    want = decoder.generate([[5, 6]], max_new_tokens=3, eos=()).tokens
    assert decoder.generate(prompts, max_new_tokens=3, eos=()).tokens == want


@pytest.mark.parametrize(
    ("plain", "given"),
    [
        ({}, {"stop": None}),
        ({"stop": ["zzz"]}, {"stop": "zzz"}),
        ({"stop": ["zzz"]}, {"stop": (text for text in ("zzz",))}),
        ({"eos": [2]}, {"eos": 2}),
        ({"eos": [2]}, {"eos": numpy.int64(2)}),
        ({"eos": [2, 3]}, {"eos": {2: 0, 3: 0}.keys() - {9} or ()}),
        ({"eos": [2, 3]}, {"eos": torch.tensor([2, 3])}),
        ({"sequence_ids": [7]}, {"sequence_ids": numpy.array([7])}),
        ({"sequence_ids": [7]}, {"sequence_ids": (n for n in (7,))}),
        ({"batch_size": 1}, {"batch_size": numpy.int32(1)}),
        ({"temperature": 0.5}, {"temperature": numpy.float64(0.5)}),
        ({"temperature": 0.5}, {"temperature": torch.tensor(0.5)}),
        ({"temperature": 1.0, "top_k": 3}, {"temperature": 1, "top_k": numpy.int64(3)}),
        ({"temperature": 1.0, "seed": 3}, {"temperature": 1.0, "seed": torch.tensor(3)}),
        ({}, {"processors": None}),
        ({}, {"processors": lambda x, _: x}),
    ],
)
def test_options_are_taken_in_every_usual_form(
    decoder: Decoder, plain: dict[str, Any], given: dict[str, Any]
) -> None:
    if isinstance(given.get("eos"), set):
        given = {"eos": sorted(given["eos"])}
    want = decoder.generate([[5, 6]], max_new_tokens=4, **plain).tokens
    assert decoder.generate([[5, 6]], max_new_tokens=4, **given).tokens == want


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([b"ab"], "prompt 0 is b'ab', not text or token ids"),
        (b"ab", "prompts b'ab' is not allowed"),
        ([bytearray(b"ab")], "prompt 0 is bytearray"),
        (5, "prompts 5 is not allowed"),
        (None, "prompts None is not allowed"),
        ([None], "prompt 0 is None"),
        ([5, 6], r"one prompt.* \(write \[ids\]"),
        (torch.tensor([5, 6]), r"one prompt.* \(write \[ids\]"),
        (numpy.array([5, 6]), r"one prompt.* \(write \[ids\]"),
        (range(5, 7), r"one prompt.* \(write \[ids\]"),
        ((n for n in (5, 6)), r"one prompt.* \(write \[ids\]"),
        (torch.tensor(5), r"prompts tensor\(5\) is not allowed"),
        (torch.tensor([[[5]]]), "prompt 0 holds \\[5\\]"),
        ([torch.tensor([[5, 6]])], r"prompt 0 is of shape \[1, 2\], not one row"),
        ([torch.tensor([5.0])], "prompt 0 holds 5.0"),
        ([torch.tensor([True])], "prompt 0 holds True"),
        ([[numpy.bool_(True)]], "prompt 0 holds"),
        ([["5"]], "prompt 0 holds '5'"),
        ([{5, 6}], "prompt 0 is {5, 6}"),
        ({"a": 1}, "prompts {'a': 1} is not allowed"),
        ([[2**70]], "prompt 0 holds the token id"),
        ([], "there is no prompt"),
        (iter(()), "there is no prompt"),
        ([[]], "prompt 0 is empty"),
        ([torch.tensor([], dtype=torch.int64)], "prompt 0 is empty"),
    ],
)
def test_prompts_that_are_none_are_refused_in_words(
    decoder: Decoder, prompts: Any, message: str
) -> None:
    with pytest.raises(PromptError, match=message):
        decoder.generate(prompts, max_new_tokens=3)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("max_new_tokens", [True, "4", 4.0, None, -1, 0, [4], numpy.bool_(True), numpy.float64(4)]),
        ("batch_size", ["2", 2.0, True, 0, -1, [2]]),
        ("sequence_ids", [["x"], [2**63], [-(2**63) - 1], [1.0], "a", 5, [True], [None], b"a"]),
        ("stop", [[""], "", [None], 5, b"a", [b"a"], {"a": 1}]),
        ("eos", ["no such token", b"ab", [2.0], [True], True, 2.0, [2**70], [-1], [None], {2: 1}]),
        ("temperature", ["1", True, [1.0], float("nan"), float("inf"), -1.0, 1j, numpy.ones(2)]),
        ("top_k", ["1", 1.5, True, 0]),
        ("top_p", ["1", True, 0.0, 2.0]),
        ("min_p", ["1", True, -0.1]),
        ("seed", ["1", 1.5, True, -1, 2**64]),
        ("processors", [5, "x", [None], {"a": 1}]),
        ("max_thinking_tokens", ["x", True, 1.5, -1]),
        ("strategy", [5, ["linear_ss", "ar"], "nothing", [5]]),
    ],
)
def test_options_that_do_not_fit_are_refused_in_words(
    decoder: Decoder, name: str, values: list[Any]
) -> None:
    for value in values:
        with pytest.raises(PromptError) as caught:
            decoder.generate([[5, 6]], **{"max_new_tokens": 3, name: value})
        assert len(caught.value.message) < 300, (name, value)


def test_what_cannot_even_be_shown_is_refused_in_words(decoder: Decoder) -> None:
    class Odd:
        def __repr__(self) -> str:
            raise RuntimeError

    with pytest.raises(PromptError, match="prompt 0 is a Odd"):
        decoder.generate([Odd()], max_new_tokens=3)  # type: ignore[list-item]


def test_memory_is_taken_for_what_is_used_and_not_for_what_is_asked(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []
    reserve = KVCache.reserve

    def watched(self: KVCache, slots: Sequence[int], rows: Sequence[int]) -> None:
        reserve(self, slots, rows)
        held.append(self.data.shape[2] * KEY_TILE)

    monkeypatch.setattr(KVCache, "reserve", watched)
    object.__setattr__(decoder.config, "context", 10**6)
    decoder.generate([[5, 6]], max_new_tokens=900_000, eos=range(128))
    assert max(held) <= 4 * KEY_TILE


def test_a_cache_that_grew_holds_the_rows_that_it_had() -> None:
    config = ModelConfig.load(Path(api.__file__).parent / "demo")
    cache = KVCache(config, torch.float32, torch.device("cpu"))
    slots = [cache.acquire(5000) for _ in range(2)]
    cache.reserve(slots, [100, 100])
    first = [list(cache.pages(slot)) for slot in slots]
    rows = torch.randn(cache.data.shape)
    cache.data.copy_(rows)
    sizes = []
    for wanted in range(100, 5001, 100):
        cache.reserve(slots, [wanted, wanted])
        pages = cache.data.shape[2]
        assert pages * KEY_TILE >= 2 * wanted
        assert cache.keys[0].data_ptr() == cache.data.data_ptr()
        sizes.append(pages)
    for slot, before in zip(slots, first, strict=True):
        now = list(cache.pages(slot))
        assert torch.equal(cache.data[:, :, now[: len(before)]], rows[:, :, before])
        assert not cache.data[:, :, now[len(before) :]].any()
    assert len(set(sizes)) < 12
    assert sizes[-1] == 2 * -(-5000 // KEY_TILE)


def test_a_cache_that_cannot_be_had_is_an_error_with_its_size() -> None:
    config = ModelConfig.load(Path(api.__file__).parent / "demo")
    cache = KVCache(config, torch.float32, torch.device("cpu"), 2**70)
    slot = cache.acquire(2**50)
    with pytest.raises(OutOfMemoryError, match=r"no memory for the keys and values of .* bytes"):
        cache.reserve([slot], [2**45])
    assert cache.data.shape[2] == 0


@pytest.mark.parametrize(
    "problem",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    ],
)
def test_memory_that_runs_out_while_decoding_is_said_in_words(
    decoder: Decoder, problem: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise problem

    monkeypatch.setattr(decoder.model.backend, "layer", fail)
    for call in (
        lambda: decoder.generate([[5]], max_new_tokens=3),
        lambda: list(decoder.stream([5], max_new_tokens=3)),
    ):
        with pytest.raises(NldcRuntimeError, match="there is not enough memory"):
            call()


@pytest.mark.parametrize("prompts", [["a", "b"], [[5], [6]], ("a",)])
def test_a_list_of_prompts_is_not_streamed(decoder: Decoder, prompts: Any) -> None:
    with pytest.raises(PromptError, match="stream takes one prompt"):
        decoder.stream(prompts)


def _raises(_: Any) -> str:
    raise KeyError("x")


def _gives_a_number(_: Any) -> Any:
    return 3


@pytest.mark.parametrize(
    ("choose", "said"),
    [
        (_raises, "the strategy chooser _raises raised KeyError"),
        (_gives_a_number, "the strategy chooser _gives_a_number returned a int"),
        (lambda: "linear_ss", "the strategy chooser <lambda> raised TypeError"),
    ],
)
def test_a_chooser_that_fails_is_named(decoder: Decoder, choose: Any, said: str) -> None:
    with pytest.raises(PromptError, match=said):
        decoder.generate([[5, 6]], max_new_tokens=3, strategy=choose)


def test_what_can_be_raised_is_found_in_the_runtime() -> None:
    import nldc
    from nldc import runtime

    for name in runtime.__all__:
        found = getattr(runtime, name)
        home = found.__name__ if isinstance(found, ModuleType) else found.__module__
        assert home.startswith("nldc.runtime.")
    assert dir(runtime) == sorted(runtime.__all__)
    assert dir(nldc) == sorted(nldc.__all__)
    assert runtime.PromptError is PromptError
