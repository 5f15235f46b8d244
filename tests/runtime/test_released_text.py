"""Text of released checkpoints in miniature: their files, special tokens, templates and ends.

The folders have the released layout with a byte-level vocabulary of 400: `<|im_end|>` is 11,
`<think>` 12 and `</think>` 13, as in the released models.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from handwritten import Ar, LinearSS
from random_model import random_checkpoint

from nldc.runtime.decoder import Decoder
from nldc.runtime.text.chat import Chat, chat_text
from nldc.runtime.text.tokenizer import Tokenizer

CONTROL = {0: "<unk>", 1: "<s>", 2: "</s>", 10: "<|im_start|>", 11: "<|im_end|>", 12: "<think>",
           13: "</think>", 18: "<image>"}  # fmt: skip
OFFSET = 130
TEMPLATE = """\
{%- set enable_thinking = enable_thinking if enable_thinking is defined else false -%}
{%- set truncate_history_thinking = truncate_history_thinking
    if truncate_history_thinking is defined else true -%}
{{- bos_token }}
{%- for message in messages %}
{%- set content = message.content %}
{%- if truncate_history_thinking and message.role == 'assistant' and '</think>' in content %}
{%- set content = content.split('</think>')[-1] %}
{%- endif %}
{{- '<|im_start|>' + message.role + '\\n' }}
{%- if message.role == 'assistant' %}{% generation %}{{ content }}{% endgeneration %}
{%- else %}{{ content }}{% endif %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if tools %}{{ tools | tojson(indent=None) }}{% endif %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' + ('<think>\\n' if enable_thinking else '<think></think>') }}
{%- endif %}
"""
MODELS: dict[str, dict[str, Any]] = {
    "3B-Base": {"eos": 2, "name": "</s>", "chat": False},
    "3B": {"eos": 11, "name": "<|im_end|>", "chat": True},
    "14B": {"eos": 11, "name": "<|im_end|>", "chat": True},
    "VLM-8B": {"eos": 11, "name": "<|im_end|>", "chat": True},
}


def tokenizer() -> tokenizers.Tokenizer:
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {f"<SPECIAL_{number}>": number for number in range(OFFSET)}
    for number, text in CONTROL.items():
        del vocabulary[f"<SPECIAL_{number}>"]
        vocabulary[text] = number
    vocabulary |= {letter: OFFSET + number for number, letter in enumerate(letters)}
    inner = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    inner.add_special_tokens(sorted(CONTROL.values(), key=lambda text: vocabulary[text]))
    inner.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    return inner


def released(folder: Path, model: str) -> Path:
    """Write a miniature of a released checkpoint: what its config says of ends is not followed by
    all of its files, as with the real ones.
    """
    own = MODELS[model]
    random_checkpoint(folder, vocab_size=400, eos_token_id=own["eos"], bos_token_id=1)
    tokenizer().save(str(folder / "tokenizer.json"))
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": own["name"],
        "unk_token": "<unk>", "model_max_length": 10**30, "clean_up_tokenization_spaces": False,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "special_tokens_map.json").write_text(json.dumps({"eos_token": own["name"]}))
    generation = {"bos_token_id": 1, "eos_token_id": own["eos"], "transformers_version": "5.0.0"}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    if own["chat"]:
        (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


def load(folder: Path, kind: type[Decoder] = Ar) -> Decoder:
    return kind.from_checkpoint(folder, dtype="float64", device="cpu", backend="torch")


@pytest.mark.parametrize("model", MODELS)
def test_ends_and_special_tokens_are_those_of_the_files(tmp_path: Path, model: str) -> None:
    decoder = load(released(tmp_path, model))
    own = decoder.tokenizer
    assert decoder.endings.ids == (MODELS[model]["eos"],)
    assert own.encode("a") == [1, *own.encode("a", special=False)]
    assert own.decode([1, *own.encode("hé", special=False), 12, 13, 11, 2]) == "hé"
    assert decoder.end_think_token_id == 13


@pytest.mark.parametrize("model", ["3B", "14B", "VLM-8B"])
def test_the_template_closes_thinking_unless_it_is_enabled(tmp_path: Path, model: str) -> None:
    own = Tokenizer.load(released(tmp_path, model))
    said = "<s><|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert chat_text(own, "hi", "p") == f"{said}<think></think>"
    on = Chat(variables={"enable_thinking": True})
    assert chat_text(own, "hi", "p", on) == f"{said}<think>\n"
    decoder = load(tmp_path)
    tokens = own.encode_chat(chat_text(own, "hi", "p"))
    assert tokens.count(1) == 1
    assert tokens[-2:] == [12, 13]
    want = decoder.generate([tokens], max_new_tokens=8).tokens
    assert decoder.generate("hi", chat=True, max_new_tokens=8).tokens == want


def test_thoughts_of_earlier_turns_are_left_out_unless_they_are_asked_for(tmp_path: Path) -> None:
    own = Tokenizer.load(released(tmp_path, "3B"))
    talk = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "<think>long</think>b"},
        {"role": "user", "content": "c"},
    ]
    assert "long" not in chat_text(own, talk, "p")
    keep = Chat(variables={"truncate_history_thinking": False})
    assert "<think>long</think>b" in chat_text(own, talk, "p", keep)


@pytest.mark.parametrize("kind", [Ar, LinearSS])
def test_a_marker_ends_a_text_as_stop_string_and_is_shown_on_request(
    tmp_path: Path, kind: type[Decoder]
) -> None:
    decoder = load(released(tmp_path, "3B"), kind)
    free = decoder.generate("hi", chat=True, max_new_tokens=60, eos=()).tokens[0]
    place = next(place for place, token in enumerate(free) if token >= OFFSET and place > 3)
    for token, text in ((12, "<think>"), (free[place], None)):
        force = forcing(decoder, token, 8)
        options: dict[str, Any] = {
            "chat": True, "max_new_tokens": 20, "eos": (), "processors": [force]
        }  # fmt: skip
        stop = text or decoder.tokenizer.decode([token])
        result = decoder.generate("hi", stop=stop, **options)
        assert result.finish == ["stop"]
        tokens = result.tokens[0]
        if text is not None:
            assert tokens.index(token) == len(tokens) - 1
            assert result.text == [decoder.tokenizer.decode(tokens[:-1])]
            streamed = "".join(decoder.stream("hi", stop=stop, **options))
            assert streamed == result.text[0]
    kept = decoder.generate("hi", skip_special_tokens=False, **options)
    assert kept.text == [decoder.tokenizer.decode(kept.tokens[0], keep_special_tokens=True)]
    assert kept.text[0].count("<") >= 1
    cut = decoder.generate("hi", skip_special_tokens=False, stop="<think>", **options)
    assert "<think>" not in cut.text[0]


def forcing(decoder: Decoder, token: int, place: int) -> Any:
    """Return a processor that makes a token the only choice so many tokens behind the prompt."""
    prompt = len(decoder.tokenizer.encode_chat(chat_text(decoder.tokenizer, "hi", "p")))

    def process(logits: Any, positions: Any) -> Any:
        here = (positions == prompt + place).unsqueeze(-1)
        only = logits.new_full((logits.shape[-1],), float("-inf"))
        only[token] = 0.0
        return logits.where(~here, only)

    return process


@pytest.mark.parametrize("stop", [(), "nowhere", ["<|im_end|>", "zz"]])
def test_the_text_of_a_run_is_what_decoding_its_tokens_gives(tmp_path: Path, stop: Any) -> None:
    decoder = load(released(tmp_path, "3B"), LinearSS)
    for seed in range(4):
        options: dict[str, Any] = {
            "max_new_tokens": 40, "eos": (), "temperature": 1.5, "seed": seed, "stop": stop
        }  # fmt: skip
        result = decoder.generate(["a", "b"], **options)
        for text, tokens, finish in zip(result.text, result.tokens, result.finish, strict=True):
            shown = tokens[:-1] if finish == "stop" else tokens
            assert text == decoder.tokenizer.decode(shown)
        assert "".join(decoder.stream("a", **options)) == result.text[0]


def test_a_conversation_may_be_given_as_it_is(tmp_path: Path) -> None:
    decoder = load(released(tmp_path, "3B"))
    talk = [{"role": "user", "content": "hi"}]
    options: dict[str, Any] = {"chat": True, "max_new_tokens": 6}
    want = decoder.generate([talk], **options)
    assert decoder.generate(talk, **options).tokens == want.tokens
    assert decoder.generate("hi", **options).tokens == want.tokens
    assert "".join(decoder.stream(talk, **options)) == want.text[0]


@pytest.mark.parametrize("option", ["system", "tools", "template_variables", "chat_template"])
def test_options_of_conversations_are_refused_for_plain_text(tmp_path: Path, option: str) -> None:
    from nldc.runtime.errors import PromptError

    values = {"system": "x", "tools": [], "template_variables": {}, "chat_template": "default"}
    with pytest.raises(PromptError, match=f"{option} has no effect without chat"):
        load(released(tmp_path, "3B")).generate("hi", **{option: values[option]})
