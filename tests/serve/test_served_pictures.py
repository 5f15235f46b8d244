"""Pictures in conversations over HTTP: what is read, what is refused, and in which shape."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asking import CHAT, Live, answer, post
from fastapi import FastAPI
from openai import BadRequestError, OpenAI

from nldc import api
from nldc.runtime import Decoder
from nldc.serve.app import create_app
from nldc.serve.artifacts import Way, load_together
from nldc.serve.settings import Settings
from tests.tiny_vlm import tiny_vlm

Image = pytest.importorskip("PIL.Image")
Loaded = tuple[Decoder, dict[str, Way]]


def png(width: int, height: int, seed: int = 0) -> bytes:
    array = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    out = BytesIO()
    Image.fromarray(array).save(out, "PNG")
    return out.getvalue()


def uri(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def part(url: str, **more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **more}}


def asked(*parts: Any) -> list[dict[str, Any]]:
    texts = [{"type": "text", "text": each} if isinstance(each, str) else each for each in parts]
    return [{"role": "user", "content": texts}]


@pytest.fixture(scope="module")
def vlm(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    root = tmp_path_factory.mktemp("served_vlm")
    folder = tiny_vlm(root / "model", max_position_embeddings=512)
    out = api.compile(["linear_ss", "ar"], root / "two", {"block_length": 4}, certify=False)
    kind, ways = load_together([out])
    return kind.from_checkpoint(folder, device="cpu"), ways


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("outside")
    inside = root / "pictures"
    (inside / "sub").mkdir(parents=True)
    (inside / "sub" / "a b.png").write_bytes(png(30, 30))
    (inside / "text.txt").write_text("no picture")
    (root / "secret.png").write_bytes(png(30, 30))
    (inside / "link.png").symlink_to(root / "secret.png")
    (inside / "loop.png").symlink_to(inside / "loop.png")
    return inside


@pytest.fixture(scope="module")
def app(vlm: Loaded, folder: Path) -> Iterator[FastAPI]:
    settings = Settings(temperature=0, pictures=3, picture_folder=folder, keep_prefixes="16MiB")
    made = create_app(*vlm, settings)
    yield made
    made.state.service.close()


def test_an_answer_to_a_picture_is_that_of_the_decoder(app: FastAPI, vlm: Loaded) -> None:
    data = png(100, 60)
    found = answer(app, CHAT, messages=asked(part(uri(data)), "what is it?"), max_tokens=12)
    messages = [
        {
            "role": "user",
            "content": [{"type": "image", "image": data}, {"type": "text", "text": "what is it?"}],
        }
    ]
    want = vlm[0].generate(messages, chat=True, max_new_tokens=12)
    usage = found["usage"]
    assert usage["completion_tokens"] == len(want.tokens[0])
    request = vlm[0].request(messages, chat=True)
    assert usage["prompt_tokens"] == len(request.prompt) == 1 + 3 * 5 + 32
    assert found["choices"][0]["message"]["content"] == want.text[0]
    other = answer(app, CHAT, messages=asked(part(uri(png(100, 60, 1))), "what is it?"))
    assert other["choices"][0]["message"]["content"] != want.text[0]


def test_strategies_samples_and_streams_go_with_pictures(app: FastAPI) -> None:
    messages = asked("look: ", part(uri(png(60, 30)), detail="high"), " and ", part(uri(png(9, 9))))
    body = {"messages": messages, "max_tokens": 10, "temperature": 0.8, "seed": 3, "n": 2}
    one, other = (
        [each["message"]["content"] for each in answer(app, CHAT, **body, strategy=name)["choices"]]
        for name in ("linear_ss", "ar")
    )
    assert one == other
    streamed = post(app, CHAT, {**body, "stream": True, "logprobs": True})
    assert streamed.status_code == 200
    assert "error" not in streamed.text


def test_a_file_below_the_folder_is_read_and_no_other(app: FastAPI) -> None:
    fine = answer(app, CHAT, messages=asked(part("file:sub/a%20b.png")), max_tokens=4)
    same = answer(app, CHAT, messages=asked(part(uri(png(30, 30)))), max_tokens=4)
    assert fine["choices"][0]["message"] == same["choices"][0]["message"]


@pytest.mark.parametrize(
    "name",
    [
        "../secret.png",
        "sub/../../secret.png",
        "%2e%2e/secret.png",
        "link.png",
        "loop.png",
        "none.png",
        "sub",
        "",
        "a%00b.png",
        "%ff.png",
        "x" * 5000,
    ],
)
def test_files_elsewhere_are_refused_as_those_that_are_not_there(app: FastAPI, name: str) -> None:
    response = post(app, CHAT, {"messages": asked(part(f"file:{name}"))})
    error = response.json()["error"]
    assert response.status_code == 400
    assert error["message"].endswith("is no file that this server reads")
    assert error["param"] == "messages[0].content[0].image_url.url"
    assert error["code"] == "unsupported_image_url"


def test_an_absolute_name_is_read_only_below_the_folder(app: FastAPI, folder: Path) -> None:
    inside = part(f"file://{folder}/sub/a%20b.png")
    assert answer(app, CHAT, messages=asked(inside), max_tokens=2)
    for url in (f"file://{folder.parent}/secret.png", "file:///etc/passwd", "file://host/a.png"):
        assert post(app, CHAT, {"messages": asked(part(url))}).status_code == 400


REFUSED: dict[str, tuple[list[Any], str, str | None]] = {
    "an address": ([part("https://example.com/a.png")], "nothing is fetched", None),
    "no address": ([part("a.png")], "nothing is fetched", None),
    "no picture": ([part("data:image/png;base64,aGVsbG8=")], "no picture of a kind", "messages"),
    "no base64": ([part("data:image/png;base64,####")], "is no data URI", "messages"),
    "empty": ([part("data:,")], "is empty", "messages"),
    "a GIF": ([part("data:image/gif;base64,R0lGODlhAQABAAAAACw=")], "no picture of", "messages"),
    "truncated": ([part(uri(png(50, 50)[:2000]))], "cannot be decoded", "messages"),
    "not in a folder of pictures": ([part("file:text.txt")], "no picture of a kind", "messages"),
    "too many": ([part(uri(png(1, 1)))] * 4, "4 pictures, and may have 3", "messages"),
    "beyond the context": ([part(uri(png(900, 900)))], "may have 512", "prompt"),
    "a mark": ([part(uri(png(1, 1))), "<|image_pad|>"], "spells the special token", None),
    "low detail": ([part(uri(png(1, 1)), detail="low")], "detail", None),
    "no url": ([{"type": "image_url", "image_url": {}}], "image_url.url` is missing", None),
    "a url alone": ([{"type": "image_url", "image_url": "x"}], "image_url`: ", None),
    "audio": ([{"type": "input_audio"}], "text and image_url are read", None),
    "a text without text": ([{"type": "text"}], "messages[0].content[0].text` is missing", None),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_picture_is_refused_in_words(app: FastAPI, name: str) -> None:
    parts, said, param = REFUSED[name]
    response = post(app, CHAT, {"messages": asked(*parts)})
    error = response.json()["error"]
    assert response.status_code == 400
    assert said in error["message"]
    assert error["type"] == "invalid_request_error"
    assert error["param"].startswith("messages" if param is None else param)
    if param is not None:
        assert error["param"] == param


def test_files_are_not_read_unless_the_operator_says_so(vlm: Loaded) -> None:
    app = create_app(*vlm, Settings())
    response = post(app, CHAT, {"messages": asked(part("file:sub/a.png"))})
    assert response.status_code == 400
    assert "this server reads none" in response.json()["error"]["message"]
    app.state.service.close()


def test_a_conversation_that_goes_on_finds_the_pages_of_its_pictures(app: FastAPI) -> None:
    first = asked(part(uri(png(330, 330, 7))), "one")
    answer(app, CHAT, messages=first, max_tokens=2)
    prefixes = app.state.service.engine.cache.prefixes
    before = len(prefixes)
    more = [*first, {"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]
    answer(app, CHAT, messages=more, max_tokens=2)
    assert before >= 2
    assert len(prefixes) - before <= 1


def test_the_client_of_openai_shows_pictures(vlm: Loaded) -> None:
    live = Live(create_app(*vlm, Settings(temperature=0)))
    try:
        with OpenAI(base_url=live.url + "/v1", api_key="none", max_retries=0) as client:
            create = client.chat.completions.create
            messages: Any = asked(part(uri(png(60, 30)), detail="auto"), "what?")
            whole = create(model="demo", messages=messages, max_tokens=8)
            pieces = create(model="demo", messages=messages, max_tokens=8, stream=True)
            text = "".join(each.choices[0].delta.content or "" for each in pieces if each.choices)
            assert text == whole.choices[0].message.content
            wrong: Any = asked(part("https://example.com/a.png"))
            with pytest.raises(BadRequestError, match="nothing is fetched"):
                create(model="demo", messages=wrong)
    finally:
        live.close()
        live.service.close()
