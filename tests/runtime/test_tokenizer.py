"""Text that grows by tokens, without half characters; chat templates in a sandbox."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from nldc.runtime import chat
from nldc.runtime.chat import chat_prompt, render
from nldc.runtime.errors import PromptError, TokenizerError
from nldc.runtime.tokenizer import TextStream, Tokenizer

SPECIAL = ["<s>", "</s>", "[USER]", "[BOT]"]


def byte_level() -> tokenizers.Tokenizer:
    """Return a tokenizer with a token for each byte, as BPE before any merge."""
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(SPECIAL + letters)}
    inner = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    inner.add_special_tokens(SPECIAL)
    return inner


def with_leading_spaces() -> tokenizers.Tokenizer:
    """Return a tokenizer that, like SentencePiece, drops the first word's space in decoding."""
    words = ["▁one", "▁two", "three", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocabulary = {word: i for i, word in enumerate(SPECIAL + words)}
    inner = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    inner.decoder = tokenizers.decoders.Sequence(
        [
            tokenizers.decoders.Replace("▁", " "),
            tokenizers.decoders.ByteFallback(),
            tokenizers.decoders.Fuse(),
            tokenizers.decoders.Strip(" ", 1, 0),
        ]
    )
    inner.add_special_tokens(SPECIAL)
    return inner


BYTES = Tokenizer(byte_level(), {}, Path())
SPACED = Tokenizer(with_leading_spaces(), {}, Path())


@given(st.text(max_size=12))
def test_text_comes_in_whole_characters_and_adds_up(text: str) -> None:
    stream = TextStream(BYTES)
    pieces = [stream.feed([token]) for token in BYTES.encode(text)]
    assert "".join(pieces) + stream.flush() == text
    assert not any("\ufffd" in piece for piece in pieces if "\ufffd" not in text)


@given(st.lists(st.integers(4, 3 + 256), max_size=10))
def test_any_tokens_give_the_text_of_decoding_them_at_once_but_for_an_unfinished_end(
    tokens: list[int],
) -> None:
    stream = TextStream(BYTES)
    text = "".join(stream.feed([token]) for token in tokens) + stream.flush()
    assert text.rstrip("\ufffd") == BYTES.decode(tokens).rstrip("\ufffd")


def test_a_character_of_four_tokens_is_shown_with_the_last() -> None:
    stream = TextStream(BYTES)
    assert [stream.feed([token]) for token in BYTES.encode("a🙂b")] == ["a", "", "", "", "🙂", "b"]


def test_an_unfinished_character_at_the_end_is_not_shown() -> None:
    stream = TextStream(BYTES)
    assert stream.feed(BYTES.encode("é")[:1]) == ""
    assert stream.flush() == ""


def test_spaces_between_words_survive_and_the_leading_one_is_dropped() -> None:
    stream = TextStream(SPACED)
    assert [stream.feed([token]) for token in (4, 5, 6, 4)] == ["one", " two", "three", " one"]
    stream = TextStream(SPACED)
    crab = [7 + byte for byte in "🦀".encode()]
    assert [stream.feed([token]) for token in (4, *crab, 5)] == ["one", "", "", "", "🦀", " two"]


def test_special_tokens_have_no_text() -> None:
    stream = TextStream(BYTES)
    tokens = [0, *BYTES.encode("a"), 2, *BYTES.encode("b"), 1]
    assert "".join(stream.feed([token]) for token in tokens) == "ab"


def test_a_missing_or_damaged_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"tokenizer\.json is missing"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(TokenizerError, match=r"tokenizer\.json cannot be read"):
        Tokenizer.load(tmp_path)


TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}\n"
    "    {% if message.role == 'user' %}\n"
    "[USER]{{ message.content }}\n"
    "    {% elif message.role == 'assistant' %}\n"
    "[BOT]{{ message.content }}\n"
    "    {% else %}{{ raise_exception('unknown role ' + message.role) }}{% endif %}\n"
    "{% endfor %}{% if add_generation_prompt %}[BOT]{% endif %}"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    byte_level().save(str(tmp_path / "tokenizer.json"))
    settings = {"bos_token": {"content": "<s>"}, "chat_template": TEMPLATE}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    return tmp_path


def test_a_conversation_becomes_the_text_of_the_template(folder: Path) -> None:
    tokenizer = Tokenizer.load(folder)
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "ho"},
        {"role": "user", "content": "?"},
    ]
    assert render(tokenizer, messages) == "<s>[USER]hi\n[BOT]ho\n[USER]?\n[BOT]"
    assert chat_prompt(tokenizer, "hi", "prompt 0")[:2] == [0, 2]


def test_the_template_file_goes_before_the_one_in_the_settings(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}!")
    assert render(Tokenizer.load(folder), [{"role": "user", "content": "hi"}]) == "hi!"


def test_a_template_cannot_reach_out_of_its_sandbox(folder: Path) -> None:
    for attack in (
        "{{ messages.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{% for i in range(10**9) %}{% endfor %}",
        "{% include '/etc/passwd' %}",
        "{{ 9 ** (9 ** 9) }}",
    ):
        (folder / "chat_template.jinja").write_text(attack)
        with pytest.raises(TokenizerError, match="the chat template fails"):
            render(Tokenizer.load(folder), [{"role": "user", "content": "hi"}])


def test_a_template_that_loops_for_ever_is_stopped(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat, "SECONDS", 0.1)
    nested = "{% for i in range(99999) %}{% for i in range(99999) %}{% endfor %}{% endfor %}"
    (folder / "chat_template.jinja").write_text(nested)
    before = sys.gettrace()
    with pytest.raises(TokenizerError, match=r"template fails: it takes longer than 0\.1 s"):
        render(Tokenizer.load(folder), [{"role": "user", "content": "hi"}])
    assert sys.gettrace() is before


def test_a_template_that_writes_nothing_is_an_error_about_the_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("")
    with pytest.raises(PromptError, match="prompt 0 is empty: the chat template writes nothing"):
        chat_prompt(Tokenizer.load(folder), "hi", "prompt 0")


def test_a_refused_conversation_and_a_missing_template_are_told_apart(folder: Path) -> None:
    tokenizer = Tokenizer.load(folder)
    with pytest.raises(PromptError, match="prompt 3: unknown role judge"):
        chat_prompt(tokenizer, [{"role": "judge", "content": "no"}], "prompt 3")
    with pytest.raises(PromptError, match="prompt 3 is no conversation"):
        chat_prompt(tokenizer, [1, 2], "prompt 3")
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(TokenizerError, match=r"^(?!.*fails).*has no chat template"):
        chat_prompt(Tokenizer.load(folder), "hi", "prompt 0")
