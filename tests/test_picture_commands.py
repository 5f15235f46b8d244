"""Commands with pictures: where files are looked for, what comes out, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from nldc import api
from nldc.bench import bench
from nldc.cli import cli
from nldc.prompts import read_messages, read_prompts
from nldc.runtime import Decoder, Picture, PicturePrompt
from nldc.runtime.errors import PromptError
from nldc.runtime.text.chat import Chat
from nldc.sol import sol
from nldc.talk import Talk
from tests.tiny_vlm import tiny_vlm

Image = pytest.importorskip("PIL.Image")
TALK = [
    {"role": "user", "content": [{"type": "image", "path": "b.png"}, {"type": "text", "text": "?"}]}
]


def nldc(*arguments: str | Path, input: str | None = None) -> Result:  # noqa: A002
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], input=input)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, an artifact, pictures, and files that name them."""
    folder = tmp_path_factory.mktemp("pictures")
    tiny_vlm(folder / "model")
    api.compile(["linear_ss", "ar"], folder / "two", {"block_length": 4}, certify=False)
    for seed, name in enumerate(("a.png", "b.png")):
        array = np.random.default_rng(seed).integers(0, 256, (40, 70, 3), dtype=np.uint8)
        Image.fromarray(array).save(folder / name)
    lines: list[Any] = [
        {"prompt": "what <image> is", "images": ["a.png"]},
        {"messages": TALK},
        "no picture",
    ]
    texts = [each if isinstance(each, str) else json.dumps(each) for each in lines]
    (folder / "prompts.jsonl").write_text("\n".join(texts))
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (folder / "talk.json").write_text(json.dumps(TALK))
    return folder


@pytest.fixture(scope="module")
def decoder(root: Path) -> Decoder:
    made: Decoder = api.load(root / "two").from_checkpoint(root / "model", device="cpu")
    return made


def run(root: Path, *options: str | Path) -> Result:
    model = ("--model", root / "model", "--quiet", "--max-new-tokens", "8")
    return nldc("run", root / "two", *model, *options)


def text_of(decoder: Decoder, prompt: Any, **options: Any) -> str:
    return decoder.generate(prompt, max_new_tokens=8, **options).text[0]


def test_run_puts_pictures_where_the_text_says_or_before_it(root: Path, decoder: Decoder) -> None:
    a, b = (Picture.read(root / name) for name in ("a.png", "b.png"))
    images = ("--image", root / "a.png", "--image", root / "b.png")
    found = run(root, *images, "--prompt", "x <image> y <image>")
    assert found.exit_code == 0, found.output
    want = text_of(decoder, PicturePrompt(("x ", a, " y ", b)))
    assert found.stdout == f"{want}\n"
    assert run(root, *images, "--chat", "xy").stdout == (
        f"{text_of(decoder, PicturePrompt((a, b, 'xy')), chat=True)}\n"
    )
    messages = [{"role": "user", "content": [{"type": "image", "image": b}, TALK[0]["content"][1]]}]  # type: ignore[index]
    assert run(root, "--messages", root / "talk.json").stdout == (
        f"{text_of(decoder, messages, chat=True)}\n"
    )


def test_run_refuses_pictures_in_words(root: Path) -> None:
    image = ("--image", root / "a.png")
    assert "goes with a text" in run(root, *image, "--ids", "1").stderr
    assert "goes with a text" in run(root, *image, "--messages", root / "talk.json").stderr
    assert "times" not in run(root, *image, "--prompt", "<image> and <image>").stdout
    assert "places <image> in the prompt: 2; pictures: 1" in (
        run(root, *image, "--prompt", "<image> and <image>").stderr
    )
    assert "no such file" in run(root, "--image", root / "c.png", "--prompt", "a").stderr
    assert "no picture of a kind" in run(root, "--image", root / "talk.json", "--prompt", "").stderr
    other = nldc("run", root / "two", *image, "--prompt", "a")
    assert other.exit_code == 1
    assert "the model reads text and no pictures" in other.stderr


def test_prompts_name_pictures_beside_their_file(root: Path) -> None:
    first, second, third = read_prompts(root / "prompts.jsonl", chat=True)
    assert isinstance(first, PicturePrompt)
    assert [each if isinstance(each, str) else each.width for each in first.parts] == [
        "what ",
        70,
        " is",
    ]
    assert second[0]["content"][0]["path"] == str(root / "b.png")  # type: ignore[index, union-attr]
    assert third == "no picture"
    assert read_messages(root / "talk.json")[0]["content"][0]["path"] == str(root / "b.png")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"prompt": "a", "images": "a.png"}, ":1: images are no list of files"),
        ({"prompt": [1], "images": []}, ":1: images go with a prompt of text"),
        ({"prompt": "a", "images": ["none.png"]}, ":1: cannot read `"),
        ({"prompt": "<image><image>", "images": []}, ":1: places <image> in the prompt: 2"),
        ({"prompt": "a", "images": ["https://a.b/c.png"]}, "nothing is fetched"),
    ],
)
def test_a_prompt_whose_pictures_are_none_is_refused(
    tmp_path: Path, line: Any, message: str
) -> None:
    (tmp_path / "p.jsonl").write_text(json.dumps(line))
    with pytest.raises(PromptError, match=message):
        read_prompts(tmp_path / "p.jsonl")


def test_a_batch_answers_rows_with_pictures(root: Path, decoder: Decoder) -> None:
    out = root / "out.jsonl"
    options = ("--artifact", root / "two", "--model", root / "model", "--chat")
    found = nldc("batch", root / "rows.jsonl", "-o", out, *options, "--max-new-tokens", "8")
    assert found.exit_code == 0, found.output
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    a = Picture.read(root / "a.png")
    assert rows[0]["text"] == text_of(decoder, PicturePrompt(("what ", a, " is")), chat=True)
    assert [row["error"] for row in rows] == [None] * 3


def test_bench_and_sol_measure_prompts_with_pictures(root: Path) -> None:
    prompts = root / "prompts.jsonl"
    loading = {"device": "cpu"}
    lines = bench(
        ["linear_ss"],
        root / "model",
        settings={"block_length": 4},
        prompts=prompts,
        count=3,
        repeats=1,
        loading=loading,
        generation={"chat": True, "max_new_tokens": 9, "eos": ()},
        longer_than=(8, 9),
    )
    assert [line.same for line in lines] == [True, True]
    assert lines[0].longer == ((8, 1.0), (9, 0.0))
    assert lines[1].longer[0][1] == pytest.approx(lines[1].tpf)
    report = sol(
        root / "model",
        ["linear_ss"],
        block_lengths=(4,),
        prompts=prompts,
        count=3,
        max_new_tokens=8,
        loading=loading,
        templating={"chat": True},
    )
    assert report.prompts == 3
    assert report.ceilings[0].blocks >= 1


def test_a_conversation_shows_its_pictures_with_every_turn(root: Path, decoder: Decoder) -> None:
    talk = Talk(decoder, Chat(), {"max_new_tokens": 4})
    talk.show(str(root / "a.png"))
    first = "".join(piece.text for piece in talk.answer("one"))
    a = Picture.read(root / "a.png")
    asked: list[dict[str, Any]] = [PicturePrompt((a, "one")).message()]
    assert first == decoder.generate(asked, chat=True, max_new_tokens=4).text[0]
    second = "".join(piece.text for piece in talk.answer("two"))
    asked += [{"role": "assistant", "content": first}, {"role": "user", "content": "two"}]
    assert second == decoder.generate(asked, chat=True, max_new_tokens=4).text[0]
    assert talk.make_room("x" * 3900) == 0
    assert talk.make_room("x" * 4020) == 1
    assert [turn.pictures for turn in talk.turns] == [()]


def test_a_chat_in_a_terminal_takes_pictures(root: Path) -> None:
    options = ("--model", root / "model", "--max-new-tokens", "4", "--quiet")
    lines = f"/image {root / 'a.png'}\nhello\n/image none.png\n"
    found = nldc("chat", root / "two", *options, input=lines)
    assert "1 picture will go with the next message" in found.output
    assert "cannot read `none.png`" in found.output
    assert found.exit_code == 1
    other = nldc("chat", root / "two", input=f"/image {root / 'a.png'}\n")
    assert "the model reads text and no pictures" in other.output
