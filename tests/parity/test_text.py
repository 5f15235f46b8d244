"""Tokens, text, ends and chat prompts are those of transformers, from the same folders.

Folders differ in what every file beside config.json says: which tokens are special, which are
added and where, what goes around a text, how long texts may be.
"""

from __future__ import annotations

import json
import random
import warnings
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from nldc.runtime.errors import CheckpointWarning, NldcRuntimeError
from nldc.runtime.text.chat import Chat, chat_text
from nldc.runtime.text.endings import find_endings
from nldc.runtime.text.tokenizer import TextStream, Tokenizer

pytestmark = pytest.mark.parity
transformers = pytest.importorskip("transformers", minversion="5.0")

SPECIAL = ("<unk>", "<s>", "</s>")
MORE = ("<x>", "<think>", "</think>", "<|end|>")
TEXTS = ("def f(x):\n  return x</s> ok <s>a<x>  b", "<s>hi", "", "  <|end|> é 🦀", "a <x> b",
         "<think>a</think>b <extra>c", "[PAD]hi <tool>", "a . b !  n't")  # fmt: skip


def base() -> dict[str, Any]:
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {text: number for number, text in enumerate((*SPECIAL, *letters, "hi"))}
    inner = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[("h", "i")]))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    inner.add_special_tokens(list(SPECIAL))
    data: dict[str, Any] = json.loads(inner.to_str())
    return data


def around(*texts: str) -> dict[str, Any]:
    pieces = [
        {"Sequence": {"id": "A", "type_id": 0}}
        if text == "A"
        else {"SpecialToken": {"id": text, "type_id": 0}}
        for text in texts
    ]
    ids = {text: number for number, text in enumerate(SPECIAL)}
    return {
        "type": "TemplateProcessing", "single": pieces,
        "pair": [*pieces, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {t: {"id": t, "ids": [n], "tokens": [t]} for t, n in ids.items()},
    }  # fmt: skip


def write(folder: Path, draw: random.Random) -> None:
    """Write a tokenizer and files beside it that say something else about its tokens."""
    data = base()
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"
    }  # fmt: skip
    maybe = lambda share: draw.random() < share  # noqa: E731
    for text in MORE:
        if maybe(0.4):
            data["added_tokens"].append({
                "id": 260 + len(data["added_tokens"]) - 3, "content": text, "single_word": False,
                "lstrip": maybe(0.3), "rstrip": maybe(0.3), "normalized": False,
                "special": maybe(0.6),
            })  # fmt: skip
    if maybe(0.3):
        data["truncation"] = {"direction": "Right", "max_length": 3, "stride": 0,
                              "strategy": "LongestFirst"}  # fmt: skip
    if maybe(0.3):
        data["padding"] = {"strategy": {"Fixed": 40}, "direction": "Left", "pad_id": 0,
                           "pad_to_multiple_of": None, "pad_type_id": 0,
                           "pad_token": "<unk>"}  # fmt: skip
    data["post_processor"] = draw.choice([None, around("<s>", "A"), around("<s>", "A", "</s>")])
    choices: dict[str, list[Any]] = {
        "add_bos_token": [True, False], "eos_token": ["<|end|>", "<x>", "hi"],
        "pad_token": ["[PAD]", "hi"], "additional_special_tokens": [["<tool>"], ["<x>", "hi"]],
        "extra_special_tokens": [{"tool_token": "<tool>"}, ["<extra>"], ["<x>"]],
        "split_special_tokens": [True], "clean_up_tokenization_spaces": [True],
        "add_prefix_space": [True],
    }  # fmt: skip
    settings |= {name: draw.choice(values) for name, values in choices.items() if maybe(0.25)}
    if maybe(0.3):
        settings["added_tokens_decoder"] = {
            str(token["id"]): {
                **{key: value for key, value in token.items() if key != "id"},
                "special": maybe(0.7),
            }
            for token in data["added_tokens"]
        }
    files: dict[str, Any] = {"tokenizer": data, "tokenizer_config": settings, "config": {}}
    if maybe(0.3):
        spelt = {"content": "</s>", "lstrip": False, "rstrip": False, "normalized": False}
        eos = draw.choice(["<|end|>", "hi", {**spelt, "single_word": False}])
        files["special_tokens_map"] = {"eos_token": eos, "additional_special_tokens": ["<tool>"]}
    if maybe(0.3):
        files["added_tokens"] = {"<extra>": 260 + draw.randint(0, 2)}
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))


@pytest.mark.parametrize("seed", range(60))
def test_tokens_text_and_end_are_those_of_transformers(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    write(tmp_path, draw)
    reference = transformers.AutoTokenizer.from_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CheckpointWarning)
        own = Tokenizer.load(tmp_path)
    for text in TEXTS:
        assert own.encode(text) == reference(text).input_ids
        plain = reference(text, add_special_tokens=False).input_ids
        assert own.encode(text, special=False) == plain
    for _ in range(20):
        tokens = [draw.randrange(264) for _ in range(draw.randint(0, 9))]
        for keep in (False, True):
            want = reference.decode(tokens, skip_special_tokens=not keep)
            stream = TextStream(own, keep_special_tokens=keep)
            assert own.decode(tokens, keep_special_tokens=keep) == want
            assert stream.feed(tokens) + stream.flush() == want
    assert find_endings(tmp_path, (), 300, own).ids == (reference.eos_token_id,)


TALK: list[dict[str, Any]] = [
    {"role": "system", "content": "be é"},
    {"role": "user", "content": "hi <b>\n"},
    {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "a": [1]}}]},
    {"role": "user", "content": [{"type": "text", "text": "x"}]},
]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
TEMPLATES = (
    "{% for m in messages %}{{ m.role }}: {{ m['content'] }}\n{% endfor %}",
    "{{ add_generation_prompt }}{{ messages[0]['content'] }}",
    "{{ messages | tojson(indent=2) }}{{ tools | tojson }}{{ documents }}",
    "{{ bos_token }}{{ eos_token }}{{ pad_token is defined }}{{ mask_token is defined }}",
    "{%- generation %}\n  {{ messages[0].content | trim }}\n{%- endgeneration -%}\n  x",
    "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.role }}{% endfor %}",
    "{% for m in messages %}{% if loop.index == 3 %}{% break %}{% endif %}{{ m.role }}{% endfor %}",
    "{{ 'é<' | tojson(ensure_ascii=True) }}{{ {'b': 1, 'a': 2} | tojson(sort_keys=True) }}",
    "{{ enable_thinking is defined and enable_thinking }}{{ tools is defined }}",
    "{{ messages[3].content is string }}{{ messages[2].name is none }}{{ 2 ** 3 }}",
    "{{ raise_exception('bad ' + messages[0].role) }}",
    "{{ messages.append(1) }}",
    "  {% if true %}\n    a\r\n  {% endif %}\nb\n",
    "{{ strftime_now('%Y') }}{{ messages[0].get('no') }}{{ messages[0].no }}",
)  # fmt: skip


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("tools", [None, TOOLS])
def test_a_rendered_conversation_is_that_of_transformers(
    tmp_path: Path, template: str, tools: list[dict[str, Any]] | None
) -> None:
    write(tmp_path, random.Random(0))
    (tmp_path / "chat_template.jinja").write_text(template, newline="")
    if tools is not None and "tools" not in template:
        tools = None
    reference = transformers.AutoTokenizer.from_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CheckpointWarning)
        own = Tokenizer.load(tmp_path)
    failed, want = None, ""
    try:
        want = reference.apply_chat_template(
            TALK, tools=tools, tokenize=False, add_generation_prompt=True
        )
    except Exception as problem:  # the library raises what the template makes it raise
        failed = str(problem)
    if failed is None:
        assert chat_text(own, TALK, "prompt 0", Chat(tools=tools)) == want
        return
    with pytest.raises(NldcRuntimeError) as caught:
        chat_text(own, TALK, "prompt 0", Chat(tools=tools))
    assert failed in caught.value.message
