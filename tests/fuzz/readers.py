"""Every reader of a file, and what a damaged one of its files looks like."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import save

from nldc import __version__, api
from nldc.diagnostics import StrategyError
from nldc.expr import ExprError, parse
from nldc.import_gguf import import_gguf
from nldc.prompts import read_prompts
from nldc.render import render_json, render_text
from nldc.reuse import load
from nldc.runtime.abi import ABI_VERSION
from nldc.runtime.artifact import check_artifact
from nldc.runtime.checkpoint.adapter import Adapter
from nldc.runtime.checkpoint.config import ModelConfig, parse_config
from nldc.runtime.checkpoint.weights import load_weights, open_files, tensor_shapes
from nldc.runtime.errors import NldcRuntimeError
from nldc.runtime.text.chat import chat_prompt
from nldc.runtime.text.tokenizer import Tokenizer

from . import gguf_bytes
from .edits import edit_bytes, edit_json

CPU = torch.device("cpu")
Write = Callable[[Random, Path], None]
Read = Callable[[Path], object]


@dataclass(frozen=True)
class Reader:
    """A kind of file: how often it is tried, how a damaged one is made, and who reads it."""

    name: str
    share: int
    write: Write
    read: Read


def refused(problem: Exception, folder: Path) -> str | None:
    """Return what is wrong with how a file was refused, or None: it was refused in words."""
    if isinstance(problem, ExprError):
        return None if problem.start <= problem.end else "a place that is none"
    if isinstance(problem, StrategyError):
        if not problem.diagnostics or not render_json(problem.diagnostics):
            return "no diagnostic"
        return None if render_text(problem.diagnostics[:3]) else "no text"
    if not isinstance(problem, NldcRuntimeError):
        return f"{type(problem).__name__} instead of an error of ours"
    text = f"{problem.message} {problem.hint or ''}"
    names = [path.name for path in folder.rglob("*")]
    if str(folder) not in text and not any(name in text for name in names):
        return "the message names no file"
    if len(problem.message) > 2000:
        return f"the message has {len(problem.message)} characters"
    return None


# Strategies and expressions

_FRAGMENT = Path(__file__).parents[1] / "diagnostics" / "NLD024_free_name" / "good.yaml"
_FILES = [path.read_text(encoding="utf-8") for path in (*api.library().values(), _FRAGMENT)]
_WORDS = sorted({word for text in _FILES for word in re.findall(r"[\w$.]+|[^\w\s]", text)})
_HOSTILE = (
    "__import__('os').system('x')", "9**9**9", "x" * 3000, "(" * 200 + "1" + ")" * 200,
    "a" + "[0]" * 100, "!!python/object:x", "&a [*a]", "<<: *a", "*x", "|", ">", "? a", "\\x00",
    '"\\UFFFFFFFF"', '"\\ud800"', "\\u2028", "'\"\"\"", "{{", "%s", "1e400", "-0", "nan", "\t",
    "2147483648", "not not 1", "a; b", "#", "!t " * 50, "&a " * 50, "[" * 60, "- " * 60, "\x1b[2J",
    "\u202e", "0x7f", "é", "9" * 400, " " * 4000, "k: 1\n" * 100, "~", "null", "[]", "{}", "1.5",
)  # fmt: skip


def _words(draw: Random, text: str) -> str:
    pieces = re.split(r"([\w$.]+|[^\w\s])", text)
    for _ in range(draw.choice((1, 1, 2))):
        place = draw.randrange(len(pieces))
        pieces[place] = draw.choice((*_WORDS, *_HOSTILE, pieces[place] * 2, ""))
    return "".join(pieces)


def _write_strategy(draw: Random, folder: Path) -> None:
    text = draw.choice(_FILES)
    kind = draw.randrange(4)
    if kind == 0:
        data = edit_bytes(draw, text.encode())
    elif kind == 1:
        parts = draw.choices((*_HOSTILE, *_WORDS, "\n", "\n  ", ": ", "- ", "{", "}"), k=30)
        data = "".join(parts).encode("utf-8", "replace")
    else:
        data = _words(draw, text).encode("utf-8", "replace")
    (folder / "strategy.yaml").write_bytes(data)


def _read_source(folder: Path) -> object:
    return load(folder / "strategy.yaml")


def _read_strategy(folder: Path) -> object:
    return api.check_source(load(folder / "strategy.yaml"))


def _write_expression(draw: Random, folder: Path) -> None:
    pieces = (*_WORDS, *_HOSTILE, " ", "(", ")", "q.row", "k.prefix", "<=", "1", "+", "and")
    text = "".join(draw.choices(pieces, k=draw.randint(1, 12)))
    (folder / "expression").write_text(text, encoding="utf-8", errors="replace", newline="")


def _read_expression(folder: Path) -> object:
    return parse((folder / "expression").read_text(encoding="utf-8"))


# Checkpoints

_CONFIG: dict[str, Any] = {
    "model_type": "nemotron_labs_diffusion", "architectures": ["NemotronLabsDiffusionModel"],
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "vocab_size": 40, "rms_norm_eps": 1e-5,
    "max_position_embeddings": 64, "mask_token_id": 3, "eos_token_id": [2], "bos_token_id": 1,
    "block_size": 8, "hidden_act": "silu", "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "rope_parameters": {
        "rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "beta_fast": 32.0,
        "original_max_position_embeddings": 16, "llama_4_scaling_beta": 0.1, "mscale": 1.0,
    },
    "dlm_paradigm": "bidirectional",
}  # fmt: skip


@cache
def _tensors() -> dict[str, torch.Tensor]:
    shapes = tensor_shapes(parse_config(_CONFIG, "the fuzz config"))
    return {name: torch.zeros(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}


@cache
def _weights() -> bytes:
    return save(_tensors())


@cache
def _shards() -> tuple[bytes, bytes, dict[str, str]]:
    names = sorted(_tensors())
    halves = [{name: _tensors()[name] for name in part} for part in (names[:4], names[4:])]
    places = {name: f"model-{n}.safetensors" for n, half in enumerate(halves, 1) for name in half}
    return save(halves[0]), save(halves[1]), places


def _edited_safetensors(draw: Random, data: bytes) -> bytes:
    size = int.from_bytes(data[:8], "little")
    header, body = data[8 : 8 + size], data[8 + size :]
    kind = draw.randrange(5)
    if kind < 3:
        text = edit_json(draw, json.loads(header))
        return len(text).to_bytes(8, "little") + text + body
    if kind == 3:
        length = draw.choice((0, 1, size - 1, size + 1, len(data), 2**31, 2**63, 2**64 - 1))
        return length.to_bytes(8, "little") + header + body
    return edit_bytes(draw, data)


def _write_config(draw: Random, folder: Path) -> None:
    (folder / "config.json").write_bytes(edit_json(draw, _CONFIG))


def _write_weights(draw: Random, folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(_CONFIG))
    (folder / "model.safetensors").write_bytes(_edited_safetensors(draw, _weights()))


def _read_weights(folder: Path) -> object:
    return load_weights(folder, ModelConfig.load(folder), torch.float32, CPU)


def _write_index(draw: Random, folder: Path) -> None:
    first, second, places = _shards()
    (folder / "model-1.safetensors").write_bytes(first)
    (folder / "model-2.safetensors").write_bytes(second)
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    text = edit_json(draw, index)
    (folder / "model.safetensors.index.json").write_bytes(text)


_ADAPTER: dict[str, Any] = {
    "peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["o_proj"], "bias": "none",
    "lora_dropout": 0.0, "fan_in_fan_out": False, "use_rslora": False, "modules_to_save": None,
}  # fmt: skip


@cache
def _adapter_weights() -> bytes:
    at = "base_model.model.encoder.layers.0.self_attn.o_proj.lora_"
    return save({f"{at}A.weight": torch.zeros(2, 16), f"{at}B.weight": torch.zeros(16, 2)})


def _write_adapter(draw: Random, folder: Path) -> None:
    is_json = draw.random() < 0.6
    data = edit_json(draw, _ADAPTER) if is_json else json.dumps(_ADAPTER).encode()
    (folder / "adapter_config.json").write_bytes(data)
    weights = _adapter_weights()
    if not is_json:
        weights = _edited_safetensors(draw, weights)
    (folder / "adapter_model.safetensors").write_bytes(weights)


def _read_adapter(folder: Path) -> object:
    return Adapter.load(folder, parse_config(_CONFIG, "the fuzz config"), torch.float32, CPU)


# Text

_TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_JINJA = (
    "{{", "}}", "{%", "%}", "{% for x in range(999999999) %}", "{% endfor %}", "messages",
    "{{ x.y.z }}", "{{ ''.__class__.__mro__ }}", "{{ 'a' * 99999 }}", "| tojson", "raise_exception",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "loop.index", "{% if", "{{ 1 / 0 }}", "\0",
    "{% set ns = namespace(x=1) %}", "bos_token", "{#", "{{ 1 | replace }}", "strftime_now('%s')",
)  # fmt: skip


@cache
def _tokenizer() -> dict[str, Any]:
    from tokenizers import AddedToken, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Library

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {
        text: n for n, text in enumerate(["<unk>", "<s>", "</s>", "<mask>", *letters, "he"])
    }
    made = Library(models.BPE(vocab=vocabulary, merges=[("h", "e")]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken("<s>", special=True), AddedToken("</s>", special=True)])
    data: dict[str, Any] = json.loads(made.to_str())
    return data


_SETTINGS: dict[str, Any] = {
    "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "mask_token": "<mask>",
    "eos_token": {"content": "</s>", "special": True}, "add_bos_token": False,
    "clean_up_tokenization_spaces": False, "model_max_length": 64, "chat_template": _TEMPLATE,
    "added_tokens_decoder": {"1": {"content": "<s>", "special": True}},
}  # fmt: skip
_BESIDE: dict[str, Any] = {
    "generation_config.json": {"eos_token_id": [2], "bos_token_id": 1, "temperature": 0.5},
    "special_tokens_map.json": {"eos_token": "</s>", "bos_token": {"content": "<s>"}},
    "added_tokens.json": {"<s>": 1},
}


def _write_text(draw: Random, folder: Path) -> None:
    files = {"tokenizer.json": _tokenizer(), "tokenizer_config.json": _SETTINGS, **_BESIDE}
    files["config.json"] = _CONFIG
    chosen = draw.choice(("tokenizer.json", *list(files)[:-1]))
    for name, data in files.items():
        text = edit_json(draw, data) if name == chosen else json.dumps(data).encode()
        (folder / name).write_bytes(text)


def _read_text(folder: Path) -> object:
    ModelConfig.load(folder)
    tokenizer = Tokenizer.load(folder)
    return tokenizer.decode(tokenizer.encode("hello <s> \u00e9\n"))


def _pattern(draw: Random) -> dict[str, str]:
    texts = (
        "",
        " ",
        "a",
        "(a+)+$",
        "(",
        "\\\\p{L}+|\\\\s",
        "[",
        "(?i:x)",
        "\\u2581",
        ".*" * 20,
        "x" * 999,
    )
    return {draw.choice(("Regex", "String")): draw.choice(texts)}


def _part(draw: Random, kind: str) -> Any:
    """Return a part of a tokenizer that its library knows, with what it rarely holds."""
    text = draw.choice(("", " ", "\u2581", "x", "\0", "<s>", "x" * 3000))
    flag = draw.random() < 0.5
    parts: dict[str, tuple[Any, ...]] = {
        "normalizer": (
            {"type": "Replace", "pattern": _pattern(draw), "content": text},
            {"type": "Prepend", "prepend": text},
            {"type": "Strip", "strip_left": flag, "strip_right": not flag},
            {"type": "Precompiled", "precompiled_charsmap": draw.choice(("", "AAAA", "!", text))},
            {"type": draw.choice(("NFC", "NFKD", "Lowercase", "Nmt", "StripAccents", "ByteLevel"))},
        ),
        "pre_tokenizer": (
            {"type": "Split", "pattern": _pattern(draw), "behavior": "Isolated", "invert": flag},
            {"type": "ByteLevel", "add_prefix_space": flag, "trim_offsets": True,
             "use_regex": True},
            {"type": "Metaspace", "replacement": text or "x", "prepend_scheme": "always",
             "split": flag},
            {"type": "Digits", "individual_digits": flag},
            {"type": "CharDelimiterSplit", "delimiter": text[:1] or "x"},
            {"type": draw.choice(("Whitespace", "BertPreTokenizer", "UnicodeScripts", "Odd"))},
        ),
        "decoder": (
            {"type": "Replace", "pattern": _pattern(draw), "content": text},
            {"type": "Strip", "content": text[:1] or "x", "start": 10**6 * flag, "stop": 1},
            {"type": "WordPiece", "prefix": text, "cleanup": flag},
            {"type": draw.choice(("ByteFallback", "Fuse", "ByteLevel", "Odd"))},
        ),
        "post_processor": (
            {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": text, "type_id": 0}}],
             "pair": [],
             "special_tokens": {text: {"id": "x", "ids": [1], "tokens": ["x"]}} if flag else {}},
            {"type": "BertProcessing", "sep": [text, 2], "cls": ["<s>", 1]},
            {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True,
             "use_regex": True},
        ),
        "model": (
            {"type": "Unigram", "unk_id": draw.choice((None, 0, 99)), "vocab": [["x", -1]] * flag},
            {"type": "WordLevel", "vocab": {"x": 0} if flag else {}, "unk_token": text},
            {"type": "WordPiece", "vocab": {"x": 0}, "unk_token": text,
             "continuing_subword_prefix": "##", "max_input_chars_per_word": flag * 9},
            {"type": "BPE", "vocab": {"x": 0} if flag else {}, "merges": [], "byte_fallback": flag,
             "unk_token": text, "fuse_unk": flag, "dropout": draw.choice((None, 0.5, 1.0))},
        ),
    }  # fmt: skip
    part = draw.choice(parts[kind])
    lists = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "decoder": "decoders"}
    if kind in lists and draw.random() < 0.2:
        return {"type": "Sequence", lists[kind]: [part] * draw.choice((0, 2, 40))}
    return part


def _write_parts(draw: Random, folder: Path) -> None:
    data = dict(_tokenizer())
    for _ in range(draw.choice((1, 1, 2))):
        kind = draw.choice(("normalizer", "pre_tokenizer", "decoder", "post_processor", "model"))
        data[kind] = _part(draw, kind)
    if draw.random() < 0.2:
        added = {
            "id": draw.choice((0, 1, 500, 2**31)),
            "content": draw.choice(("", "<x>", "x" * 999)),
        }
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), True)
        data["added_tokens"] = [*data["added_tokens"], {**added, **flags}]
    (folder / "tokenizer.json").write_text(json.dumps(data))
    (folder / "tokenizer_config.json").write_text(json.dumps(_SETTINGS))
    (folder / "config.json").write_text(json.dumps(_CONFIG))


def _write_template(draw: Random, folder: Path) -> None:
    (folder / "tokenizer.json").write_text(json.dumps(_tokenizer()))
    (folder / "tokenizer_config.json").write_text(json.dumps(_SETTINGS))
    text = _TEMPLATE
    if draw.random() < 0.5:
        data = edit_bytes(draw, text.encode())
    else:
        pieces = re.split(r"(\w+|[^\w\s])", text)
        pieces[draw.randrange(len(pieces))] = draw.choice(_JINJA)
        data = "".join(pieces).encode()
    (folder / "chat_template.jinja").write_bytes(data)


def _read_template(folder: Path) -> object:
    return chat_prompt(Tokenizer.load(folder), "hello", f"the chat in {folder}")


def _write_prompts(draw: Random, folder: Path) -> None:
    lines = [b"def f(x):", b"[1, 2, 3]", b'{"prompt": "x"}', edit_json(draw, {"prompt": [1, "x"]})]
    draw.shuffle(lines)
    (folder / "prompts.jsonl").write_bytes(edit_bytes(draw, b"\n".join(lines)))


def _read_prompts(folder: Path) -> object:
    return read_prompts(folder / "prompts.jsonl")


def _write_gguf(draw: Random, folder: Path) -> None:
    (folder / "model.gguf").write_bytes(gguf_bytes.edited(draw))


def _read_gguf(folder: Path) -> object:
    return import_gguf(folder / "model.gguf", folder / "out")


# Artifacts


def _write_artifact(draw: Random, folder: Path) -> None:
    files = {"__init__.py": "x = 1\n", "decode.py": "y = 2\n", "strategy.yaml": "nldc: 1\n"}
    manifest: dict[str, Any] = {
        "abi": ABI_VERSION, "compiler": __version__, "strategy": "s", "summary": "",
        "guarantee": {"claimed": "exact", "proved": "exact"}, "params": {},
        "files": {n: hashlib.sha256(text.encode()).hexdigest() for n, text in files.items()},
    }  # fmt: skip
    for name, text in files.items():
        (folder / name).write_text(text)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    kind = draw.randrange(5)
    if kind < 3:
        (folder / "manifest.json").write_bytes(edit_json(draw, manifest))
    elif kind == 3:
        name = draw.choice(list(files))
        (folder / name).write_bytes(edit_bytes(draw, files[name].encode()))
    else:
        name = draw.choice(("decode.so", "x.py", "__pycache__", "decode", "a\x1b", "notes.txt"))
        what = draw.randrange(3)
        if what == 0:
            (folder / name).write_bytes(b"")
        elif what == 1:
            (folder / name).mkdir()
        else:
            (folder / name).symlink_to(folder)


READERS = (
    Reader("expressions", 170, _write_expression, _read_expression),
    Reader("YAML", 60, _write_strategy, _read_source),
    Reader("strategies", 30, _write_strategy, _read_strategy),
    Reader("config.json", 140, _write_config, ModelConfig.load),
    Reader("safetensors", 130, _write_weights, _read_weights),
    Reader("index files", 120, _write_index, open_files),
    Reader("adapters", 100, _write_adapter, _read_adapter),
    Reader("tokenizer files", 30, _write_text, _read_text),
    Reader("tokenizer parts", 28, _write_parts, _read_text),
    Reader("chat templates", 2, _write_template, _read_template),
    Reader("GGUF", 80, _write_gguf, _read_gguf),
    Reader("artifacts", 80, _write_artifact, check_artifact),
    Reader("prompt files", 50, _write_prompts, _read_prompts),
)
