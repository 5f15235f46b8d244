"""Text that grows by tokens, without half characters; tokens as all files of a checkpoint say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from nldc.runtime.errors import CheckpointWarning, PromptError, TokenizerError
from nldc.runtime.text.tokenizer import TextStream, Tokenizer

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


def streamed(tokenizer: Tokenizer, tokens: list[int], *, keep: bool = False) -> list[str]:
    stream = TextStream(tokenizer, keep_special_tokens=keep)
    return [*(stream.feed([token]) for token in tokens), stream.flush()]


def in_metaspace() -> tokenizers.Tokenizer:
    """Return a tokenizer whose decoder turns metaspaces into spaces, with tokens for bytes."""
    words = ["▁one", "▁", "▁▁", "x", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocabulary = {word: i for i, word in enumerate(SPECIAL + words)}
    inner = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    inner.decoder = tokenizers.decoders.Sequence(
        [
            tokenizers.decoders.ByteFallback(),
            tokenizers.decoders.Metaspace("▁", prepend_scheme="first"),
        ]
    )
    inner.add_special_tokens(SPECIAL)
    return inner


METASPACE = Tokenizer(in_metaspace(), {}, Path())
BAD = [7 + 0xFF, 7 + 0x80, 7 + 0xE2, 7 + 0xF0, 7 + 0x9F]
RUNS = st.lists(st.one_of(st.integers(0, 262), st.sampled_from(BAD)), max_size=12)


@pytest.mark.parametrize("tokenizer", [BYTES, SPACED, METASPACE])
@pytest.mark.parametrize("keep", [False, True])
@given(tokens=RUNS)
def test_all_pieces_together_are_what_decoding_gives_whatever_the_tokens(
    tokenizer: Tokenizer, keep: bool, tokens: list[int]
) -> None:
    whole = tokenizer.decode(tokens, keep_special_tokens=keep)
    assert "".join(streamed(tokenizer, tokens, keep=keep)) == whole


@pytest.mark.parametrize("keep", [False, True])
@given(tokens=RUNS)
def test_decoding_is_the_librarys_where_no_byte_is_bad(keep: bool, tokens: list[int]) -> None:
    for tokenizer in (BYTES, SPACED, METASPACE):
        own = tokenizer.decode(tokens, keep_special_tokens=keep)
        library = tokenizer.inner.decode(tokens, skip_special_tokens=not keep)
        assert own == library or (tokenizer is not BYTES and "\ufffd" in own)


def test_a_text_that_ends_in_the_replacement_character_keeps_it() -> None:
    text = "a bad byte: \ufffd"
    assert "".join(streamed(BYTES, BYTES.encode(text))) == BYTES.decode(BYTES.encode(text)) == text


def test_a_bad_byte_costs_the_run_of_bytes_around_it_nothing() -> None:
    crab = [7 + byte for byte in "🦀".encode()]
    tokens = [4, *crab, 7 + 0xFF, *crab, 5, 7 + 0xE2]
    assert SPACED.decode(tokens) == "one🦀\ufffd🦀 two\ufffd"
    assert "".join(streamed(SPACED, tokens)) == SPACED.decode(tokens)
    assert streamed(SPACED, [7 + 0xFF]) == ["\ufffd", ""]


def test_garbage_that_goes_on_does_not_hold_back_text() -> None:
    stream = TextStream(BYTES)
    byte = BYTES.encode("é")[1]
    assert [stream.feed([byte]) for _ in range(3)] == ["\ufffd"] * 3


def test_many_tokens_without_text_cost_no_more_than_others() -> None:
    stream = TextStream(BYTES)
    stream.feed([0] * 20000 + BYTES.encode(" \n") * 2000)
    assert len(stream._tokens) < 200


def test_a_character_of_four_tokens_is_shown_with_the_last() -> None:
    stream = TextStream(BYTES)
    assert [stream.feed([token]) for token in BYTES.encode("a🙂b")] == ["a", "", "", "", "🙂", "b"]


def test_a_character_that_is_never_finished_becomes_what_decoding_makes_of_it() -> None:
    stream = TextStream(BYTES)
    assert stream.feed(BYTES.encode("é")[:1]) == ""
    assert stream.held() == stream.flush() == "\ufffd" == BYTES.decode(BYTES.encode("é")[:1])


def test_spaces_between_words_survive_and_the_leading_one_is_dropped() -> None:
    stream = TextStream(SPACED)
    assert [stream.feed([token]) for token in (4, 5, 6, 4)] == ["one", " two", "three", " one"]
    stream = TextStream(SPACED)
    crab = [7 + byte for byte in "🦀".encode()]
    assert [stream.feed([token]) for token in (4, *crab, 5)] == ["one", "", "", "", "🦀", " two"]


@given(st.text(max_size=12))
def test_the_bytes_of_all_tokens_together_are_the_texts(text: str) -> None:
    assert b"".join(map(BYTES.bytes_of, BYTES.encode(text))) == text.encode()


def test_the_bytes_of_a_token_are_what_it_spells() -> None:
    for tokenizer in (SPACED, METASPACE):
        assert tokenizer.bytes_of(4) == b" one"
        assert tokenizer.bytes_of(1) == b"</s>"
        assert tokenizer.bytes_of(10**6) == b""


def test_special_tokens_have_no_text() -> None:
    stream = TextStream(BYTES)
    tokens = [0, *BYTES.encode("a"), 2, *BYTES.encode("b"), 1]
    assert "".join(stream.feed([token]) for token in tokens) == "ab"
    assert "".join(streamed(BYTES, tokens, keep=True)) == "<s>a[USER]b</s>"


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


Files = dict[str, Any]
Edit = Callable[[Files], object]


def written(folder: Path, edit: Edit = lambda _: None, **files: Any) -> Path:
    """Write the byte-level tokenizer, edited, and files beside it, `__` for the dot in a name."""
    folder.mkdir(exist_ok=True, parents=True)
    data = json.loads(byte_level().to_str())
    edit(data)
    (folder / "tokenizer.json").write_text(json.dumps(data))
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name.replace("__", ".")).write_text(text, encoding="utf-8")
    return folder


def ends_by(*texts: str) -> dict[str, Any]:
    """Return a post-processor that puts special tokens around a text: those before and after A."""
    pieces = [
        {"Sequence": {"id": "A", "type_id": 0}}
        if text == "A"
        else {"SpecialToken": {"id": text, "type_id": 0}}
        for text in texts
    ]
    known = {text: {"id": text, "ids": [SPECIAL.index(text)], "tokens": [text]} for text in SPECIAL}
    return {
        "type": "TemplateProcessing",
        "single": pieces,
        "pair": [*pieces, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": known,
    }


@pytest.mark.parametrize(
    "setting",
    [
        {"truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst",
                        "stride": 0}},
        {"padding": {"strategy": {"Fixed": 40}, "direction": "Left", "pad_to_multiple_of": None,
                     "pad_id": 0, "pad_type_id": 0, "pad_token": "<s>"}},
    ],
)  # fmt: skip
def test_a_prompt_is_neither_cut_nor_filled_up(tmp_path: Path, setting: Files) -> None:
    tokenizer = Tokenizer.load(written(tmp_path, lambda data: data.update(setting)))
    assert tokenizer.encode("def f(x)") == BYTES.encode("def f(x)")


def test_bos_is_what_the_post_processor_adds_and_a_template_does_not_double_it(
    tmp_path: Path,
) -> None:
    def edit(data: Files) -> None:
        data["post_processor"] = ends_by("<s>", "A")

    tokenizer = Tokenizer.load(written(tmp_path, edit))
    plain = BYTES.encode("hi")
    assert tokenizer.encode("hi") == [0, *plain]
    assert tokenizer.encode_chat("hi") == [0, *plain]
    assert tokenizer.encode_chat("<s>hi") == [0, *plain]
    assert BYTES.encode_chat("<s>hi") == [0, *plain]
    assert BYTES.encode_chat("hi") == plain


def test_a_token_begins_at_its_character_and_what_is_added_takes_no_room(tmp_path: Path) -> None:
    def edit(data: Files) -> None:
        data["post_processor"] = ends_by("<s>", "A", "</s>")

    tokenizer = Tokenizer.load(written(tmp_path, edit))
    assert tokenizer.encode("a€b")[0] == 0
    assert tokenizer.starts("a€b") == [0, 0, 1, 1, 1, 2, 2]


def test_a_setting_that_the_post_processor_contradicts_is_named(tmp_path: Path) -> None:
    folder = written(tmp_path, tokenizer_config__json={"add_bos_token": True, "bos_token": "<s>"})
    with pytest.warns(CheckpointWarning, match="not followed: add_bos_token"):
        assert Tokenizer.load(folder).encode("hi") == BYTES.encode("hi")


END = {"content": "<|end|>", "lstrip": False, "rstrip": False, "single_word": False,
       "normalized": False}  # fmt: skip


def with_end(data: Files, *, special: bool = False) -> None:
    data["added_tokens"].append({"id": 260, **END, "special": special})


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config__json": {"eos_token": "<|end|>"}},
        {"tokenizer_config__json": {"eos_token": {"__type": "AddedToken", **END}}},
        {"special_tokens_map__json": {"eos_token": "<|end|>"}},
        {"tokenizer_config__json": {"eos_token": "</s>"},
         "special_tokens_map__json": {"eos_token": END}},
        {"tokenizer_config__json": {"eos_token": "<|end|>",
                                    "added_tokens_decoder": {"260": {**END, "special": True}}},
         "special_tokens_map__json": {"eos_token": "</s>"}},
    ],
)  # fmt: skip
def test_a_token_is_special_if_any_file_says_so(tmp_path: Path, files: Files) -> None:
    tokenizer = Tokenizer.load(written(tmp_path, with_end, **files))
    assert tokenizer.id_of("eos") == 260
    assert tokenizer.decode([*BYTES.encode("a"), 260]) == "a"
    assert tokenizer.decode([*BYTES.encode("a"), 260], keep_special_tokens=True) == "a<|end|>"


def test_tokens_that_only_older_files_add_are_known(tmp_path: Path) -> None:
    files = {"added_tokens__json": {"<tool>": 260}, "special_tokens_map__json": {}}
    tokenizer = Tokenizer.load(written(tmp_path, **files))
    assert tokenizer.encode("a<tool>") == [*BYTES.encode("a"), 260]
    assert tokenizer.decode([260]) == "<tool>"


def test_an_added_token_with_another_id_than_said_is_named(tmp_path: Path) -> None:
    with pytest.warns(CheckpointWarning, match="`<tool>` is 260, not 300"):
        Tokenizer.load(written(tmp_path, added_tokens__json={"<tool>": 300}))


def test_special_tokens_in_a_prompt_are_split_where_the_settings_ask_for_it(tmp_path: Path) -> None:
    folder = written(tmp_path, tokenizer_config__json={"split_special_tokens": True})
    assert len(Tokenizer.load(folder).encode("</s>")) == 4
    assert BYTES.encode("</s>") == [1]


def test_files_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    folder = written(tmp_path, tokenizer_config__json='\ufeff{"eos_token": "</s>"}')
    path = folder / "tokenizer.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert Tokenizer.load(folder).id_of("eos") == 1


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"tokenizer_config__json": "["}, r"tokenizer_config\.json cannot be read as JSON"),
        ({"tokenizer_config__json": "[]"}, r"tokenizer_config\.json holds no JSON object"),
        ({"tokenizer_config__json": {"eos_token": 5}}, "eos_token = 5"),
        ({"tokenizer_config__json": {"added_tokens_decoder": []}}, "added_tokens_decoder is no"),
        ({"tokenizer_config__json": {"added_tokens_decoder": {"x": END}}}, "has the id 'x'"),
        ({"tokenizer_config__json": {"added_tokens_decoder": {"5": 6}}}, "decoder holds 6"),
        ({"tokenizer_config__json": {"extra_special_tokens": 5}}, "extra_special_tokens = 5"),
        ({"special_tokens_map__json": {"eos_token": {"content": 4}}}, "eos_token holds"),
        ({"added_tokens__json": {"<x>": -4}}, "`<x>` has the id -4"),
        ({"added_tokens__json": {"<x>": True}}, "`<x>` has the id True"),
    ],
)
def test_a_damaged_file_beside_the_tokenizer_is_named(
    tmp_path: Path, files: Files, message: str
) -> None:
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.load(written(tmp_path, **files))


def test_a_tokenizer_of_a_larger_model_is_named(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(written(tmp_path, with_end))
    with pytest.warns(CheckpointWarning, match="has 261 tokens, and the model 260"):
        tokenizer.warn_if_larger(260)
    tokenizer.warn_if_larger(261)
    tokenizer.check_fits([259], 260, "prompt 0")
    with pytest.raises(TokenizerError, match=r"prompt 0 holds `<\|end\|>`, which .* token 260"):
        tokenizer.check_fits(tokenizer.encode("a<|end|>"), 260, "prompt 0")


def test_half_a_surrogate_pair_is_no_text() -> None:
    with pytest.raises(PromptError, match="not UTF-8 text"):
        BYTES.encode("\ud83d")
