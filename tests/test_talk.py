"""A conversation: what the model is told, what is kept in the cache, what is forgotten."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nldc import api
from nldc.runtime.decoder import Decoder
from nldc.runtime.errors import PromptError
from nldc.runtime.text.chat import Chat
from nldc.runtime.text.thoughts import Said, ThoughtSplit
from nldc.talk import INTERRUPTED, Talk

LONG = "import os, sys\n" * 20


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    folder = tmp_path_factory.mktemp("artifacts") / "ar"
    kind: Any = api.load(api.compile("ar", folder, certify=False))
    made: Decoder = kind.from_checkpoint(device="cpu")
    return made


@pytest.fixture
def talk(decoder: Decoder) -> Talk:
    return talking(decoder)


def talking(decoder: Decoder, **options: Any) -> Talk:
    return Talk(decoder, Chat(), {"max_new_tokens": 12, **options})


def said(talk: Talk, message: str) -> str:
    return "".join(piece.text for piece in talk.answer(message))


def test_the_model_is_told_every_turn_as_the_template_writes_it(talk: Talk) -> None:
    decoder, first = talk.decoder, said(talk, "a = 1")
    want = decoder.generate("<s># user\na = 1\n# assistant\n", max_new_tokens=12)
    assert first == want.text[0]
    talk.tell("be brief")
    second = said(talk, "b = 2")
    prompt = (
        "<s># system\nbe brief\n# user\na = 1\n# assistant\n"
        f"{first}</s>\n# user\nb = 2\n# assistant\n"
    )
    assert second == decoder.generate(prompt, max_new_tokens=12).text[0]
    assert [turn.answer for turn in talk.turns] == [first, second]


def test_a_turn_does_not_compute_again_what_was_asked_before(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nldc.runtime.model.torch_backend import TorchBackend

    rows: list[int] = []
    layer = TorchBackend.layer

    def counting(self: Any, number: int, states: Any, shared: Any) -> Any:
        if number == 0:
            rows.append(len(states))
        return layer(self, number, states, shared)

    monkeypatch.setattr(TorchBackend, "layer", counting)
    said(talk, LONG * 3)
    asked = rows[0]
    rows.clear()
    said(talk, "a = 1")
    assert asked > 300
    assert rows[0] < asked / 2, "the first message was computed again"


def test_an_answer_that_is_broken_off_stays_and_is_marked(talk: Talk) -> None:
    pieces = talk.answer("def f(a):")
    first = next(pieces).text
    pieces.close()
    assert talk.engine.idle
    (turn,) = talk.turns
    assert (turn.answer, turn.finish) == (first, "cancelled")
    assert turn.messages()[1]["content"] == f"{first} {INTERRUPTED}".lstrip()
    second = said(talk, "b")
    assert talk.turns[1].answer == second
    fresh = talking(talk.decoder)
    fresh.turns = [turn]
    assert said(fresh, "b") == second


def test_an_interrupt_within_a_step_keeps_what_was_said(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = talk.engine.step
    left = iter(range(4))

    def interrupted() -> Any:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return step()

    monkeypatch.setattr(talk.engine, "step", interrupted)
    pieces = []
    with pytest.raises(KeyboardInterrupt):
        pieces.extend(piece.text for piece in talk.answer("def f(a):"))
    monkeypatch.undo()
    assert talk.turns[0].finish == "cancelled"
    assert talk.engine.idle
    assert said(talk, "b")


def test_an_interrupt_where_the_books_are_written_keeps_what_was_said(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine cannot take such a step up again, and ends the request with an error."""
    from nldc.runtime.cache.holdings import Holdings

    missing, left = Holdings.missing, iter(range(9))

    def interrupted(self: Any, *given: int) -> int:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return missing(self, *given)

    monkeypatch.setattr(Holdings, "missing", interrupted)
    pieces = []
    with pytest.raises(KeyboardInterrupt):
        pieces.extend(piece.text for piece in talk.answer("def f(a):"))
    monkeypatch.undo()
    (turn,) = talk.turns
    assert (turn.answer, turn.finish) == ("".join(pieces), "cancelled")
    assert talk.engine.idle
    assert said(talk, "b")


def test_an_answer_that_fails_leaves_the_conversation_as_it_was(decoder: Decoder) -> None:
    def broken(_logits: Any, _positions: Any) -> Any:
        raise ValueError("no")

    talk = talking(decoder, processors=[broken])
    with pytest.raises(PromptError, match="broken"):
        said(talk, "a")
    assert not talk.turns


def test_the_oldest_turns_that_do_not_fit_are_forgotten(decoder: Decoder) -> None:
    room = decoder.config.context
    talk = talking(decoder)
    said(talk, "a = 1")
    said(talk, LONG)
    assert talk.make_room("b") == 0
    talk.generation["max_new_tokens"] = room - 40
    assert talk.make_room("b") == 2
    assert not talk.turns
    talk.generation["max_new_tokens"] = 12
    said(talk, "a = 1")
    assert talk.make_room(LONG * 100) == 0, "nothing is forgotten for what cannot be answered"
    with pytest.raises(PromptError, match="more than the model's context of 4096"):
        said(talk, LONG * 100)
    assert len(talk.turns) == 1


# Thoughts


@pytest.mark.parametrize("cut", [lambda ids: [ids], lambda ids: [[each] for each in ids]])
def test_thoughts_are_told_apart_wherever_steps_are_cut(
    decoder: Decoder, cut: Callable[[list[int]], list[list[int]]]
) -> None:
    tokenizer = decoder.tokenizer
    start, end = tokenizer.id_of_text("<unk>"), tokenizer.id_of_text("<s>")
    answer = tokenizer.encode("a = é<unk>why<s>b")

    def split(prompt: list[int]) -> list[tuple[str, bool]]:
        splitter = ThoughtSplit(tokenizer, start, end, prompt)
        found = [one for step in cut(answer) for one in splitter.feed(step)]
        return joined([*found, *splitter.flush()])

    assert start is not None
    assert end is not None
    rest = [("why", True), ("b", False)]
    assert split([]) == [("a = é", False), *rest]
    assert split([end, start, 40]) == [("a = éwhy", True), ("b", False)]
    assert split([start, 40, end]) == [("a = é", False), *rest]


def joined(pieces: list[Said]) -> list[tuple[str, bool]]:
    found: list[tuple[str, bool]] = []
    for piece in pieces:
        if found and found[-1][1] is piece.is_thought:
            found[-1] = (found[-1][0] + piece.text, piece.is_thought)
        else:
            found.append((piece.text, piece.is_thought))
    return found


def test_what_a_character_lacks_when_a_thought_ends_is_shown_in_the_thought(
    decoder: Decoder,
) -> None:
    tokenizer = decoder.tokenizer
    half = tokenizer.encode("€", special=False)[:-1]
    splitter = ThoughtSplit(tokenizer, 0, 1, [0])
    found = [*splitter.feed([*half, 1, *tokenizer.encode("b")])]
    assert joined(found) == [("�", True), ("b", False)]


def test_a_thought_is_kept_apart_from_the_answer(decoder: Decoder, tmp_path: Path) -> None:
    template = tmp_path / "thinks.jinja"
    template.write_text(
        "{% for m in messages %}{{ m.content }}{% if m.reasoning_content %}"
        "<unk>{{ m.reasoning_content }}{% endif %}{% endfor %}<unk>"
    )
    marks = {"start_think_token_id": 0, "end_think_token_id": 1, "max_thinking_tokens": 5}
    talk = Talk(decoder, Chat(template=template), {"max_new_tokens": 12, **marks})
    pieces = list(talk.answer("def f(a):"))
    assert [piece.is_thought for piece in pieces] == sorted(
        (piece.is_thought for piece in pieces), reverse=True
    )
    (turn,) = talk.turns
    assert turn.thought
    assert turn.answer
    assert turn.messages()[1]["reasoning_content"] == turn.thought
