"""A tokenizer.json of any content ends in one error: no panic, no hang, no growth without bound."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_tokenizer import byte_level, ends_by

from nldc.runtime.errors import PromptError, TokenizerError
from nldc.runtime.text.tokenizer import Tokenizer
from nldc.runtime.text.tokenizer_check import GROWTH, Unfit, check_tokenizer, repeats_a_repetition

BASE: dict[str, Any] = json.loads(byte_level().to_str())


def split(**pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}


def replace(content: str, **pattern: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def chain(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "normalizers": list(parts)}


def template(**changes: Any) -> dict[str, Any]:
    return {**ends_by("<s>", "A"), **changes}


def nested(depth: int) -> dict[str, Any]:
    part: dict[str, Any] = {"type": "NFC"}
    for _ in range(depth):
        part = chain(part)
    return part


def chained(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(parts)}


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
              "use_regex": False}  # fmt: skip
SPACED = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}
TO_LONG = base64.b64encode((4).to_bytes(4, "little") + bytes(4) + b"x" * 60 + b"\0").decode()
"""A map with texts of 60 letters."""
TO_LIGATURE = base64.b64encode((4).to_bytes(4, "little") + bytes(4) + b"x" * 33 + b"\0").decode()
"""A map whose longest text is that of the longest ligature, as in the map of SentencePiece."""
WORDS: dict[str, Any] = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}
HARMFUL: list[tuple[dict[str, Any], str]] = [
    ({"pre_tokenizer": split(Regex="(a+)+$")}, "repeats a repetition"),
    ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [split(Regex="(.*)*x")]}}, "repeats"),
    ({"normalizer": replace("b", Regex="(?:a{2,}b?){3,}")}, "repeats a repetition"),
    ({"normalizer": replace("x", String="")}, "with an empty pattern"),
    ({"normalizer": replace("x", Regex="")}, "with an empty pattern"),
    ({"decoder": replace("x", String="")}, "with an empty pattern"),
    ({"pre_tokenizer": {"type": "FixedLength", "length": 0}}, "a FixedLength of 0"),
    ({"normalizer": chain(*[replace("aaaaaaaa", String="a")] * 9)}, "times longer"),
    ({"normalizer": chain(*[replace("yy", Regex="x*")] * 9)}, "normalizer that makes"),
    ({"normalizer": chain(*[{"type": "ByteLevel"}] * 9)}, "normalizer that makes"),
    ({"normalizer": chain(*[{"type": "Precompiled", "precompiled_charsmap": TO_LONG}] * 3)},
     "normalizer that makes"),
    ({"normalizer": chain(*[{"type": "NFKD"}, replace("\ufdfa", String="\u0644")] * 4)},
     "normalizer that makes"),
    ({"pre_tokenizer": chained(*[BYTE_LEVEL] * 40)}, "pre_tokenizer that makes"),
    ({"pre_tokenizer": chained(*[split(Regex="."), SPACED] * 5)}, "pre_tokenizer that makes"),
    ({"normalizer": chain(*[replace("yy", String="x")] * 5),
      "pre_tokenizer": chained(*[BYTE_LEVEL] * 3)}, "pre_tokenizer that makes"),
    ({"post_processor": {"type": "Sequence", "processors": [
        template(single=[{"Sequence": {"id": "A", "type_id": 0}}] * 2)] * 8}}, "processor that ma"),
    ({"post_processor": template(
        single=[{"SpecialToken": {"id": "<s>", "type_id": 0}}] * 2,
        special_tokens={"<s>": {"id": "<s>", "ids": [0] * 200, "tokens": ["<s>"] * 200}})},
     "adds more than 256 tokens"),
    ({"model": {"type": "WordPiece", "vocab": {"a": 0}, "unk_token": "a",
                "continuing_subword_prefix": "##", "max_input_chars_per_word": 10**6}},
     "max_input_chars_per_word 1000000"),
    ({"normalizer": {"type": "Prepend", "prepend": "x" * 10_000_000}}, "of 10000000 characters"),
    ({"normalizer": replace("x" * 5000, String="y")}, "of 5000 characters"),
    ({"normalizer": chain(*[{"type": "NFC"}] * 300)}, "more than 256 parts"),
    ({"normalizer": nested(40)}, "nested too deeply"),
    ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}, "map is damaged"),
    ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": None}}, "map is damaged"),
    ({"post_processor": template(special_tokens={})}, "names '<s>'"),
    ({"post_processor": template(single=[{"Sequence": {"id": "B", "type_id": 0}}])}, "names 'B'"),
    ({"post_processor": template(single=[{}])}, "holds {}"),
    ({"post_processor": template(special_tokens={"<s>": {"id": "<s>", "ids": [0, 0],
                                                         "tokens": ["<s>"]}})}, "not spelt out"),
    ({"post_processor": template(special_tokens={"<s>": {"id": "<s>", "ids": [2**32 - 1],
                                                         "tokens": ["<s>"]}})}, "is no token"),
    ({"model": {**BASE["model"], "vocab": {}}}, "has an empty vocabulary"),
    ({"model": {**BASE["model"], "vocab": None}}, "has an empty vocabulary"),
    ({"model": {**BASE["model"], "vocab": {"a": -1}}}, "gives token 'a' the id -1"),
    ({"model": {**BASE["model"], "vocab": {"a": 2**31}}}, "gives token 'a' the id 2147483648"),
    ({"model": {**BASE["model"], "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]],
                "continuing_subword_prefix": "####"}}, "lacks `####`"),
    ({"model": {**BASE["model"], "unk_token": "nope"}}, "unk_token 'nope'"),
    ({"model": {**WORDS, "unk_token": "u"}}, "unk_token 'u'"),
    ({"model": {"type": "Unigram", "unk_id": None, "vocab": [["a", 0.0]]}}, "without unk_id"),
    ({"model": {"type": "Unigram", "unk_id": 5, "vocab": [["a", 0.0]]}}, "unk_id 5"),
    ({"model": None}, "has no model"),
    ({"added_tokens": {"a": 1}}, "added_tokens that are no list"),
    ({"added_tokens": [{"id": 1}]}, "an added token without a text"),
    ({"added_tokens": [{"id": 1e9, "content": "x"}]}, "gives token 'x' the id 1000000000.0"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), HARMFUL)
def test_what_would_panic_or_never_end_is_refused_before_it_is_loaded(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps({**BASE, **change}))
    with pytest.raises(TokenizerError) as caught:
        Tokenizer.load(tmp_path)
    assert str(tmp_path / "tokenizer.json") in caught.value.message
    assert message in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": chain(replace('"', String="``"), replace('"', String="''"),
                             {"type": "NFKD"}, {"type": "StripAccents"}, {"type": "Lowercase"},
                             {"type": "Precompiled", "precompiled_charsmap": TO_LIGATURE}),
         "pre_tokenizer": SPACED},
        {"normalizer": chain({"type": "Prepend", "prepend": "\u2581"},
                             replace("\u2581", String=" "))},
        {"pre_tokenizer": chained({"type": "WhitespaceSplit"}, SPACED)},
        {"pre_tokenizer": chained({"type": "Digits", "individual_digits": True},
                                  {**BYTE_LEVEL, "add_prefix_space": True})},
        {"normalizer": chain({"type": "NFD"}, {"type": "Lowercase"}, {"type": "StripAccents"},
                             replace(" ", Regex=" {2,}"))},
    ],
    ids=["albert", "llama", "t5", "gpt", "bert"],
)  # fmt: skip
def test_what_released_tokenizers_do_to_a_text_is_no_growth_without_bound(
    change: dict[str, Any],
) -> None:
    check_tokenizer({**BASE, **change})


@pytest.mark.parametrize(
    "change",
    [
        {"pre_tokenizer": chained(*[BYTE_LEVEL] * 7)},
        {"pre_tokenizer": chained(*[split(Regex="."), SPACED] * 3)},
        {"normalizer": chain(*[replace("hh", String="h")] * 5)},
        {"normalizer": chain({"type": "NFKD"}, *[replace("x" * 5, Regex=".")] * 2)},
        {"post_processor": template(single=[{"Sequence": {"id": "A", "type_id": 0}}] * 30)},
    ],
)  # fmt: skip
def test_what_passes_makes_a_text_no_longer_than_is_said(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps({**BASE, **change}))
    text = "\ufdfa h\u00e9 " * 20
    tokens = Tokenizer.load(tmp_path).encode(text)
    assert 0 < len(tokens) <= 11 * GROWTH * len(text.encode())


@pytest.mark.parametrize("text", ["[]", "5", "null", "[" * 100_000, "\xff", '{"model": {}}'])
def test_what_is_no_tokenizer_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokenizer.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(TokenizerError, match=r"tokenizer\.json "):
        Tokenizer.load(tmp_path)


GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@pytest.mark.parametrize(
    "pattern",
    [GPT2, TEKKEN, LLAMA3, "(?>a+)+", "(a++)+", "[(a+)+]", r"\(a+\)+", " {2,}", "(ab?)+", "(a+)",
     "[a[b]+]+", "[]+]+", "[^]a]+", "(a{1,3})+", "(a+)?", "(?:(a)+|b)c"],
)  # fmt: skip
def test_the_patterns_of_released_tokenizers_and_harmless_ones_pass(pattern: str) -> None:
    assert not repeats_a_repetition(pattern)


@pytest.mark.parametrize(
    "pattern",
    ["(a+)+", "(a*)*", "(?:.+)*", "((a+)b?)+", "(a{1,})+", "([ab]+){2,}", "(?:(?:a+))*",
     "(a+){20}", "(a|a+)+", "(?<n>x+)+", "(a+?)+", "(a+)+?", "((a+)?)*"],
)  # fmt: skip
def test_patterns_that_repeat_a_repetition_are_found(pattern: str) -> None:
    assert repeats_a_repetition(pattern)


def test_a_panic_while_text_is_encoded_is_an_error_about_the_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = {**BASE, "pre_tokenizer": split(Regex="(a|a)+$")}
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    tokenizer = Tokenizer.load(tmp_path)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json fails on the prompt"):
        tokenizer.encode("a" * 60 + "!")
    assert capfd.readouterr().out == ""


PLACES = st.sampled_from(["normalizer", "pre_tokenizer", "post_processor", "decoder"])
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-1, 300), st.floats(), st.text(max_size=3),
    st.sampled_from(["A", "<s>", "", "(a+)+", [], {}]),
)  # fmt: skip
PARTS: list[dict[str, Any]] = [
    split(Regex=GPT2), split(String="a"), replace("b", String="a"), template(), chain(),
    {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    {"type": "Strip", "content": " ", "start": 1, "stop": 0}, {"type": "Fuse"},
    {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
    {"type": "FixedLength", "length": 3}, {"type": "Prepend", "prepend": "▁"},
    {"type": "Punctuation", "behavior": "Isolated"}, {"type": "CTC", "pad_token": "<pad>",
     "word_delimiter_token": "|", "cleanup": True}, {"type": "ByteFallback"},
    {"type": "WordPiece", "prefix": "##", "cleanup": True},
    {"type": "BPEDecoder", "suffix": "</w>"},
    {"type": "BertProcessing", "sep": ["<s>", 0], "cls": ["</s>", 1]},
    {"type": "Precompiled", "precompiled_charsmap": "BAAAAAAAAAAA"},
]  # fmt: skip


@given(st.sampled_from(PARTS), PLACES, st.data())
def test_a_file_with_one_or_two_edits_loads_and_works_or_is_refused(
    part: dict[str, Any], place: str, data: st.DataObject
) -> None:
    made = json.loads(json.dumps({**BASE, place: part}))
    for _ in range(data.draw(st.integers(0, 2))):
        where = data.draw(
            st.sampled_from([made, made["model"], made[place], made["added_tokens"][0]])
        )
        if isinstance(where, dict) and where:
            where[data.draw(st.sampled_from(sorted(where)))] = data.draw(VALUES)
        if not all(isinstance(made[name], dict) for name in ("model", place)):
            break
        if not (isinstance(made["added_tokens"], list) and made["added_tokens"]):
            break
    begun = time.monotonic()
    try:
        check_tokenizer(made)
        tokenizer = loaded(made)
        tokenizer.decode(tokenizer.encode("ab <s> c\u00e9")[:40])
    except (Unfit, TokenizerError, PromptError):
        pass
    assert time.monotonic() - begun < 5


def loaded(data: dict[str, Any]) -> Tokenizer:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "tokenizer.json").write_text(json.dumps(data))
        return Tokenizer.load(folder)
