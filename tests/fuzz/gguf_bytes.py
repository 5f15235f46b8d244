"""GGUF files from plain lists, so that any field, length and type of one can be wrong."""

from __future__ import annotations

import struct
from random import Random
from typing import Any

from .edits import edit_bytes, odd

U32, F32, BOOL, STRING, ARRAY, U64 = 4, 6, 7, 8, 9, 10
FORMS = {0: "<B", 2: "<H", U32: "<I", 5: "<i", F32: "<f", BOOL: "<B", U64: "<Q", 12: "<d"}

Field = tuple[str, int, Any]
Tensor = tuple[str, tuple[int, ...], int]
"""Its name, its shape with the fastest dimension first, its type; data is zeros."""


def valid() -> tuple[list[Field], list[Tensor]]:
    """Return the fields and tensors of a tiny Llama model."""
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>"]
    tokens = [*special, *(chr(33 + n) for n in range(80)), "he"]
    kinds = [3] * len(special) + [1] * (len(tokens) - len(special))
    fields: list[Field] = [
        ("general.architecture", STRING, "llama"),
        ("llama.block_count", U32, 1),
        ("llama.context_length", U32, 64),
        ("llama.embedding_length", U32, 8),
        ("llama.feed_forward_length", U32, 8),
        ("llama.attention.head_count", U32, 2),
        ("llama.attention.head_count_kv", U32, 1),
        ("llama.rope.freq_base", F32, 1e4),
        ("llama.attention.layer_norm_rms_epsilon", F32, 1e-5),
        ("tokenizer.ggml.model", STRING, "gpt2"),
        ("tokenizer.ggml.pre", STRING, "llama-bpe"),
        ("tokenizer.ggml.tokens", ARRAY, (STRING, tokens)),
        ("tokenizer.ggml.token_type", ARRAY, (5, kinds)),
        ("tokenizer.ggml.merges", ARRAY, (STRING, ["h e"])),
        ("tokenizer.ggml.bos_token_id", U32, 0),
        ("tokenizer.ggml.eos_token_id", U32, 1),
        ("tokenizer.ggml.add_bos_token", BOOL, 1),
        ("tokenizer.chat_template", STRING, "{{ messages[0].content }}"),
    ]
    shapes = {"attn_q": (8, 8), "attn_k": (8, 4), "attn_v": (8, 4), "attn_output": (8, 8),
              "ffn_gate": (8, 8), "ffn_up": (8, 8), "ffn_down": (8, 8),
              "attn_norm": (8,), "ffn_norm": (8,)}  # fmt: skip
    tensors: list[Tensor] = [("token_embd.weight", (8, len(tokens)), 0)]
    tensors += [(f"blk.0.{name}.weight", shape, 0) for name, shape in shapes.items()]
    tensors += [("output_norm.weight", (8,), 0)]
    return fields, tensors


def write(fields: list[Field], tensors: list[Tensor], lengths: dict[str, int]) -> bytes:
    """Return the bytes; `lengths` replaces counts by name."""
    out = bytearray(b"GGUF" + struct.pack("<I", 3))
    out += struct.pack("<Q", lengths.get("tensors", len(tensors)))
    out += struct.pack("<Q", lengths.get("fields", len(fields)))
    for name, kind, value in fields:
        out += _text(name) + struct.pack("<I", kind & 0xFFFFFFFF) + _value(kind, value, lengths)
    offset = 0
    for name, shape, kind in tensors:
        out += _text(name) + struct.pack("<I", lengths.get("dimensions", len(shape)) & 0xFFFFFFFF)
        out += b"".join(struct.pack("<Q", size & (2**64 - 1)) for size in shape)
        out += struct.pack("<IQ", kind & 0xFFFFFFFF, lengths.get("offset", offset))
        size = 4
        for each in shape:
            size *= each
        offset += size + -size % 32
    out += bytes(-len(out) % 32)
    return bytes(out) + bytes(min(offset, 1 << 16))


def _text(text: Any) -> bytes:
    data = str(text).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(data)) + data


def _value(kind: int, value: Any, lengths: dict[str, int]) -> bytes:
    if kind == STRING:
        return _text(value)
    if kind == ARRAY:
        item, items = value if isinstance(value, tuple) else (U32, [0])
        head = struct.pack("<IQ", item & 0xFFFFFFFF, lengths.get("items", len(items)))
        return head + b"".join(_value(item, each, lengths) for each in items)
    form = FORMS.get(kind, "<I")
    number = value if isinstance(value, int | float) else 0
    try:
        return struct.pack(form, number)
    except (struct.error, OverflowError):
        return struct.pack(form, 0)


def edited(draw: Random) -> bytes:
    """Return the bytes of a file with one or two edits."""
    fields, tensors = valid()
    if draw.random() < 0.3:
        return edit_bytes(draw, write(fields, tensors, {}))
    lengths: dict[str, int] = {}
    for _ in range(draw.choice((1, 1, 2))):
        kind = draw.randrange(9)
        place = draw.randrange(len(fields))
        name, form, value = fields[place]
        number = draw.choice((0, 1, 2, 3, 8, 2**16, 2**31, 2**32 - 1, 10**7))
        if kind == 0:
            del fields[place]
        elif kind == 1 and form in FORMS:
            fields[place] = (name, form, number)
        elif kind == 2:
            fields[place] = (name, draw.choice((*FORMS, STRING, ARRAY, 13, 2**31)), value)
        elif kind == 3 and form == STRING:
            fields[place] = (name, form, str(odd(draw)))
        elif kind == 4 and form == ARRAY and isinstance(value, tuple):
            item, items = value
            items = list(items)
            at = draw.randrange(max(len(items), 1))
            changed: Any = draw.choice((str(odd(draw)), "<reserved" + "9" * 3000, "he", " "))
            items[at : at + draw.choice((0, 1, 9))] = [changed if item == STRING else number]
            fields[place] = (name, form, (draw.choice((item, item, STRING, U32)), items))
        elif kind == 5:
            counts = ("tensors", "fields", "items", "dimensions", "offset")
            lengths[draw.choice(counts)] = draw.choice((number, 2**63, 2**64 - 1))
        elif kind == 6:
            at = draw.randrange(len(tensors))
            given, shape, own = tensors[at]
            shape = draw.choice((shape[::-1], shape[1:], (number, *shape[1:]), (*shape, 1)))
            tensors[at] = (given, shape, draw.choice((own, own, 1, 8, 14, 99)))
        elif kind == 7:
            tensors.pop(draw.randrange(len(tensors)))
        else:
            known = ("general.alignment", "split.count", "llama.vocab_size", "\x1b")
            extra = draw.choice((*known, "llama.rope.scaling.type", "llama.rope.scaling.factor"))
            fields.append((extra, draw.choice((U32, STRING, F32)), draw.choice((number, "x"))))
    return write(fields, tensors, lengths)
