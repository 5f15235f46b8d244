"""Pictures in prompts: where rows stand, what is shared, and AR's tokens from every strategy."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import torch

from nldc import api
from nldc.runtime import Decoder, Picture, PicturePrompt, PromptEmbeddings, Request
from nldc.runtime.errors import PromptError, TokenizerError
from nldc.runtime.invariant.line_tiles import KEY_TILE
from nldc.runtime.vision import eye as eye_module
from nldc.runtime.vision.rows import Marks, Pictured, expanded, length_of
from tests.library import exact, short_steps
from tests.tiny_vlm import tiny_vlm

START, PAD, BREAK, END, MASK = 18, 19, 20, 21, 100


def picture(width: int, height: int, seed: int = 0) -> Picture:
    rng = np.random.default_rng(seed)
    return Picture.of_pixels(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_vlm(tmp_path_factory.mktemp("vlm") / "model")


@pytest.fixture(scope="module")
def ar(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    return made("ar", model, tmp_path_factory.mktemp("ar"))


def made(name: str, model: Path, root: Path) -> Decoder:
    settings = short_steps(name, 5)
    if name == "linear_ss_iterative":
        settings["threshold"] = 0.02  # or a random model is never sure, and fills row by row
    kind = api.load(api.compile(name, root / name, settings, certify=False))
    return kind.from_checkpoint(model, device="cpu", backend="torch")


def opened(decoder: Decoder, prompt: Any, **options: Any) -> tuple[Request, torch.Tensor]:
    """The request of a prompt, and the rows that it is decoded from."""
    request = decoder.request(prompt, max_new_tokens=1, **options)
    request.open()
    assert request.embeddings is not None
    return request, request.embeddings


# Where rows stand


@pytest.mark.parametrize(
    ("size", "rows"), [((2, 2), 7), ((50, 50), 2551), ((23, 18), 433), ((11, 8), 97), ((1, 1), 3)]
)
def test_a_picture_takes_as_many_rows_as_in_the_released_processor(
    size: tuple[int, int], rows: int
) -> None:
    run = Marks(START, PAD, BREAK, END).run(*size)
    assert len(run) == length_of(*size) == rows
    assert run.count(PAD) == size[0] * size[1]


def test_a_break_follows_each_row_of_cells_and_an_end_the_last() -> None:
    marks = Marks(START, PAD, BREAK, END)
    assert marks.run(2, 2) == [18, 19, 19, 20, 19, 19, 21]
    assert marks.run(3, 1) == [18, 19, 19, 19, 21]
    small, large = picture(28, 28), picture(56, 56)
    found = expanded([5, START, 7, START], [small, large], [(1, 1), (2, 2)], marks, MASK)
    assert found.tokens == (5, 18, 100, 21, 7, 18, 100, 100, 20, 100, 100, 21)
    assert found.rows == ((2,), (6, 7, 9, 10))


def test_only_pads_are_replaced_and_text_keeps_its_own_rows(ar: Decoder) -> None:
    shown = picture(56, 28)
    request, rows = opened(ar, PicturePrompt.of("ab<image>c", [shown]))
    text = ar.tokenizer.encode("abc")
    assert request.prompt == (*text[:2], 18, MASK, MASK, 21, text[2])
    others = [0, 1, 2, 5, 6]
    own = ar.embed([request.prompt[row] for row in others])
    assert torch.equal(rows[others], own)
    assert torch.equal(rows[3:5], ar.eye.see(shown).rows)


def test_pictures_stand_where_the_text_says_or_before_it() -> None:
    one, two = picture(28, 28), picture(28, 28, seed=1)
    assert PicturePrompt.of("a<image>b<image>", [one, two]).parts == ("a", one, "b", two)
    assert PicturePrompt.of("ab", [one, two]).parts == (one, two, "ab")
    with pytest.raises(PromptError, match="places <image> in the prompt: 1; pictures: 2"):
        PicturePrompt.of("a<image>", [one, two])


def test_a_conversation_with_pictures_is_the_text_of_its_template_with_their_rows(
    ar: Decoder,
) -> None:
    shown = picture(30, 28)
    parts = [{"type": "image", "image": shown}, {"type": "text", "text": "what?"}]
    messages = [{"role": "user", "content": parts}]
    request, rows = opened(ar, messages, chat=True)
    text = (
        "<|im_start|>user\n<|image_start|><|image_pad|><|image_pad|><|image_end|>what?<|im_end|>\n"
    )
    ids = ar.tokenizer.encode(text + "<|im_start|>assistant\n<think></think>")
    assert request.prompt == tuple(MASK if token == PAD else token for token in ids)
    prompt = PicturePrompt((shown, "what?"))
    again, same = opened(ar, prompt, chat=True)
    assert again.prompt == request.prompt
    assert torch.equal(rows, same)


def test_a_picture_is_the_same_however_it_is_given(ar: Decoder, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    array = picture(40, 31).pixels()
    image.fromarray(array).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    uri = Picture.of_bytes(data)
    assert (uri.width, uri.height) == (40, 31)
    import base64

    ways: list[dict[str, Any]] = [
        {"type": "image", "image": array},
        {"type": "image", "image": data},
        {"type": "image", "image": image.fromarray(array)},
        {"type": "image", "image": image.open(tmp_path / "a.png")},
        {"type": "image", "path": str(tmp_path / "a.png")},
        {
            "type": "image_url",
            "image_url": {"url": "data:image/png;base64," + base64.b64encode(data).decode()},
        },
    ]
    rows = []
    for part in ways:
        messages = [{"role": "user", "content": [part]}]
        rows.append(opened(ar, messages, chat=True)[1])
    assert all(torch.equal(rows[0], each) for each in rows[1:])


def test_rows_of_a_picture_do_not_depend_on_its_company(ar: Decoder) -> None:
    one, two = picture(84, 28), picture(28, 140, seed=3)
    both, swapped = (opened(ar, PicturePrompt(each))[1] for each in ((one, two), (two, one)))
    first = length_of(3, 1)
    assert torch.equal(both[:first], swapped[-first:])


# What is refused


def test_a_text_model_refuses_pictures_in_words(tmp_path: Path) -> None:
    kind = api.load(api.compile("ar", tmp_path / "ar", certify=False))
    decoder = kind.from_checkpoint(device="cpu")
    with pytest.raises(PromptError, match="the model reads text and no pictures"):
        decoder.generate(PicturePrompt.of("a", [picture(28, 28)]))
    messages = [{"role": "user", "content": [{"type": "image", "image": picture(28, 28)}]}]
    template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(PromptError, match="the model reads text and no pictures"):
        decoder.generate(messages, chat=True, chat_template=template)


def test_marks_in_a_text_and_templates_without_any_are_refused(ar: Decoder) -> None:
    shown = picture(28, 28)
    with pytest.raises(PromptError, match=r"prompt 0 spells `<\|image_pad\|>`"):
        ar.generate(PicturePrompt((shown, "a <|image_pad|>")))
    with pytest.raises(PromptError, match=r"prompt 0 spells `<\|image_start\|>`"):
        ar.generate(PicturePrompt((shown, "a <|image_start|>")), chat=True)
    with pytest.raises(PromptError, match=r"writes <\|image_start\|> 0 times"):
        ar.generate(PicturePrompt((shown, "a")), chat=True, chat_template="{{ messages|length }}")


def test_a_tokenizer_without_the_tokens_of_pictures_is_named(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in model.iterdir():
        text = file.read_bytes()
        if file.name == "tokenizer.json":
            text = text.replace(b"<|image_break|>", b"<|image_other|>")
        (folder / file.name).write_bytes(text)
    decoder = made("ar", folder, tmp_path)
    with pytest.raises(TokenizerError, match=r"has no token `<\|image_break\|>`"):
        decoder.generate(PicturePrompt.of("a", [picture(28, 28)]))


def test_pictures_beyond_the_context_are_refused_before_one_is_decoded(
    ar: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(_self: Picture) -> None:
        raise AssertionError("a picture was decoded")

    monkeypatch.setattr(Picture, "pixels", never)
    large = picture(1400, 1400)
    with pytest.raises(PromptError, match="has 5102 tokens with its pictures"):
        ar.generate(PicturePrompt((large, large)))
    with pytest.raises(PromptError, match="has 6000 tokens with its pictures"):
        ar.generate(PicturePrompt((picture(1, 1),) * 2000))
    with pytest.raises(PromptError, match="has more tokens than the model's context"):
        ar.generate(PicturePrompt((picture(1, 1),) * 100_000))
    with pytest.raises(PromptError, match="with max_new_tokens 2000 that is more"):
        ar.generate(PicturePrompt((large,)), max_new_tokens=2000)


def test_rows_of_a_prompt_are_there_only_while_it_is_decoded(ar: Decoder) -> None:
    engine = ar.new_engine(max_live=1)
    first, second = (
        ar.request(PicturePrompt((picture(28, 28), "a")), max_new_tokens=3, eos=())
        for _ in range(2)
    )
    engine.submit(first)
    engine.submit(second)
    assert first.embeddings is second.embeddings is None
    engine.step()
    assert first.embeddings is not None
    assert second.embeddings is None
    while not engine.idle:
        engine.step()
    assert first.embeddings is second.embeddings is None
    assert second.tokens


def test_a_damaged_picture_ends_its_request_and_no_other(ar: Decoder) -> None:
    pytest.importorskip("PIL.Image")
    good = ar.generate(["abc"], max_new_tokens=4, eos=()).tokens[0]
    engine = ar.new_engine()
    bad = ar.request(PicturePrompt((damaged(), "a")), max_new_tokens=4, eos=())
    other = ar.request("abc", max_new_tokens=4, eos=())
    for each in (bad, other):
        engine.submit(each)
    while not engine.idle:
        engine.step()
    assert isinstance(bad.error, PromptError)
    assert "cannot be decoded" in bad.error.message
    assert other.tokens == good
    with pytest.raises(PromptError, match="cannot be decoded"):
        ar.generate(PicturePrompt((damaged(), "a")))


def damaged() -> Picture:
    """A PNG whose head is fine and whose pixels end early."""
    image = pytest.importorskip("PIL.Image")
    out = BytesIO()
    image.fromarray(picture(40, 40).pixels()).save(out, "PNG")
    return Picture.of_bytes(out.getvalue()[:900])


def test_other_things_than_pictures_are_refused_by_their_place(ar: Decoder) -> None:
    def asked(part: Any, role: str = "user") -> str:
        with pytest.raises(PromptError) as caught:
            ar.generate([{"role": role, "content": [part]}], chat=True)
        return caught.value.message

    assert "nothing is fetched" in asked({"type": "image_url", "image_url": {"url": "https://a.b"}})
    assert "nothing is fetched" in asked({"type": "image", "image": "http://a.b/c.png"})
    assert "has an address that is none" in asked({"type": "image", "url": "a.png"})
    assert "has no address" in asked({"type": "image_url", "image_url": {"detail": "low"}})
    assert "is not there, or there twice" in asked({"type": "image"})
    assert "of the type int" in asked({"type": "image", "image": 5})
    assert "cannot read `/none.png`" in asked({"type": "image", "path": "/none.png"})
    assert "picture in a system message" in asked({"type": "image", "image": b""}, "system")
    with pytest.raises(PromptError, match="a part of the type int"):
        ar.generate(PicturePrompt(("a", 5)))  # type: ignore[arg-type]
    with pytest.raises(PromptError, match="holds pictures, which have no log-probabilities"):
        ar.generate(PicturePrompt((picture(28, 28),)), prompt_logprobs=0)


# What is shared


@pytest.mark.parametrize("logprobs", [None, 0])
def test_prompts_with_the_same_pictures_share_pages_and_others_do_not(
    ar: Decoder, logprobs: int | None
) -> None:
    shown = picture(28 * 12, 28 * 8)  # 105 rows
    same = Picture.of_pixels(shown.pixels().copy())
    other = shown.pixels().copy()
    other[-1, -1] ^= 1
    options: dict[str, Any] = {"max_new_tokens": 4, "eos": (), "logprobs": logprobs}

    def run(prompts: list[Any]) -> tuple[list[list[int]], list[int]]:
        engine = ar.new_engine(keep_prefixes="64MiB")
        tokens, shared = [], []
        for prompt in prompts:
            request = ar.request(prompt, **options)
            before = engine_pages(engine)
            engine.submit(request)
            while not request.done:
                engine.step()
            tokens.append(request.tokens)
            shared.append(engine_pages(engine) - before)
        return tokens, shared

    prompts = [
        PicturePrompt((shown, "x" * 40)),  # 145 rows: two pages
        PicturePrompt((same, "x" * 40)),
        PicturePrompt((same, "x" * 22 + "y" * 40)),
        PicturePrompt((Picture.of_pixels(other), "x" * 40)),
    ]
    alone = [ar.generate([each], **options).tokens[0] for each in prompts]
    tokens, fresh = run(prompts)
    assert tokens == alone
    assert fresh == [2, 0, 1, 2]
    embedded, rows = opened(ar, prompts[0])
    nameless = PromptEmbeddings(rows, embedded.prompt)
    assert run([prompts[0], nameless, nameless])[1] == [2, 0, 0]


def engine_pages(engine: Any) -> int:
    return len(engine._seats.cache.prefixes)


def test_a_text_in_front_of_a_picture_shares_pages_with_texts(ar: Decoder) -> None:
    text = "z" * (KEY_TILE + 5)
    engine = ar.new_engine(keep_prefixes="64MiB")
    for prompt, pages in ((text, 1), (PicturePrompt((text, picture(28, 28))), 1)):
        request = ar.request(prompt, max_new_tokens=1, eos=())
        engine.submit(request)
        while not request.done:
            engine.step()
        assert engine_pages(engine) == pages


def test_a_picture_that_comes_again_is_not_computed_again(
    ar: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = picture(56, 28, seed=9)
    first = ar.eye.see(shown)
    monkeypatch.setattr(Picture, "pixels", lambda _self: pytest.fail("decoded again"))
    assert ar.eye.see(Picture.of_pixels(shown.source)) is first


def test_a_picture_that_is_known_does_not_wait_for_one_that_is_computed(
    ar: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, other = picture(28, 28, seed=30), picture(28, 28, seed=31)
    first = ar.eye.see(known)
    begun, may_go_on = Event(), Event()

    def pixels(shown: Picture) -> Any:
        begun.set()
        assert may_go_on.wait(60)
        return shown.source

    monkeypatch.setattr(Picture, "pixels", pixels)
    with ThreadPoolExecutor(2) as threads:
        slow = threads.submit(ar.eye.see, other)
        try:
            assert begun.wait(60)
            assert threads.submit(ar.eye.see, known).result(60) is first
            assert not slow.done()
        finally:
            may_go_on.set()
        assert ar.eye.see(other) is slow.result(60)


def test_pictures_that_were_seen_are_kept_within_a_bound(
    ar: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eye_module, "KEPT_BYTES", 3 * 48 * 2)
    seen = [picture(28, 28, seed=seed) for seed in range(20, 26)]
    for each in seen:
        ar.eye.see(each)
    assert list(ar.eye._kept) == [each.key for each in seen[-3:]]


# AR's tokens


@pytest.fixture(scope="module")
def mixed_prompts() -> list[Any]:
    shown, other = picture(28 * 3, 28 * 2, seed=1), picture(28, 28 * 4, seed=2)
    return [
        PicturePrompt((shown, "what is this?")),
        "no picture at all",
        PicturePrompt(("first ", other, " then ", shown, " and?")),
        [7, 9, 30, 7, 9],
    ]


@pytest.fixture(scope="module")
def truth(ar: Decoder, mixed_prompts: list[Any]) -> Callable[[float], list[list[int]]]:
    found = {
        temperature: ar.generate(
            mixed_prompts, max_new_tokens=14, temperature=temperature, seed=3, eos=(), batch_size=1
        ).tokens
        for temperature in (0.0, 0.9)
    }
    return found.__getitem__


QUICK = ("linear_ss", "quadratic_ss_lora", "prompt_lookup", "tidar")
"""What is tried by default; `make test-long` tries the others as well."""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.long)
        for name in exact()
        if name != "ar"
    ],
)
def test_every_exact_strategy_gives_the_tokens_of_ar_behind_pictures(
    name: str,
    model: Path,
    tmp_path: Path,
    mixed_prompts: list[Any],
    truth: Callable[[float], list[list[int]]],
) -> None:
    decoder = made(name, model, tmp_path)
    for temperature in (0.0, 0.9):
        for batch_size in (1, 4):
            found = decoder.generate(
                mixed_prompts,
                max_new_tokens=14,
                temperature=temperature,
                seed=3,
                eos=(),
                batch_size=batch_size,
            )
            assert found.tokens == truth(temperature), (temperature, batch_size)


def test_what_stands_for_a_picture_is_never_found_in_the_prompt(
    ar: Decoder, mixed_prompts: list[Any]
) -> None:
    request = ar.request(mixed_prompts[0], max_new_tokens=1)
    assert PAD not in request.prompt
    assert isinstance(ar.reader.placed([START], [picture(28, 28)], "a"), Pictured)
