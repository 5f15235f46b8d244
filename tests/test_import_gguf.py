"""Importing GGUF: a tiny model written with the gguf package comes back as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import nldc.import_gguf
from nldc.gguf_tokenizer import CONTROL, NORMAL, UNUSED, Vocabulary, build_tokenizer, choose_mask
from nldc.import_gguf import Report, half_split, import_gguf
from nldc.runtime.checkpoint.config import ModelConfig
from nldc.runtime.decoder import Decoder
from nldc.runtime.errors import CheckpointError, TokenizerError
from nldc.runtime.reference.backbone import PlainBackbone
from nldc.runtime.rows.layout import Layout
from nldc.runtime.rows.pattern import Pattern
from nldc.runtime.step.batch import Batch
from nldc.runtime.step.values import Emit
from nldc.runtime.text.chat import chat_prompt
from nldc.runtime.text.tokenizer import Tokenizer

RELEASED = Path(__file__).parent / "golden_checkpoints" / "random-1"
HIDDEN, MLP, LAYERS, HEADS, KV_HEADS, HEAD_DIM = 64, 96, 2, 4, 2, 16
SPECIAL = ["<|end|>", "<|im_start|>", "<|im_end|>", "<repo>", "<empty>"]
MERGES = ["h e", "l l", "he ll", "hell o", "Ġ w", "1 2", "Ġ Ġ"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_characters() -> list[str]:
    from tokenizers.pre_tokenizers import ByteLevel

    return sorted(ByteLevel.alphabet())


TOKENS = [*SPECIAL, *byte_characters(), *(merge.replace(" ", "") for merge in MERGES)]


def llama_cpp_order(rows: np.ndarray, heads: int) -> np.ndarray:
    """Reorder as llama.cpp's converter does: the two halves of each head interleaved."""
    return rows.reshape(heads, 2, -1, rows.shape[-1]).swapaxes(1, 2).reshape(rows.shape)


def random_weights(*, tied: bool = True) -> dict[str, np.ndarray]:
    """Weights under the names of a checkpoint, so that the test owns the mapping of names."""
    rng = np.random.default_rng(5)
    query, key, vocabulary = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM, len(TOKENS)
    shapes: dict[str, tuple[int, ...]] = {"encoder.embed_tokens": (vocabulary, HIDDEN)}
    for layer in range(LAYERS):
        shapes |= {
            f"encoder.layers.{layer}.input_layernorm": (HIDDEN,),
            f"encoder.layers.{layer}.post_attention_layernorm": (HIDDEN,),
            f"encoder.layers.{layer}.self_attn.q_proj": (query, HIDDEN),
            f"encoder.layers.{layer}.self_attn.k_proj": (key, HIDDEN),
            f"encoder.layers.{layer}.self_attn.v_proj": (key, HIDDEN),
            f"encoder.layers.{layer}.self_attn.o_proj": (HIDDEN, query),
            f"encoder.layers.{layer}.mlp.gate_proj": (MLP, HIDDEN),
            f"encoder.layers.{layer}.mlp.up_proj": (MLP, HIDDEN),
            f"encoder.layers.{layer}.mlp.down_proj": (HIDDEN, MLP),
        }
    shapes["encoder.norm"] = (HIDDEN,)
    if not tied:
        shapes["diffusion_head"] = (vocabulary, HIDDEN)
    return {
        f"{name}.weight": rng.normal(0, 0.2, shape).astype(np.float32)
        for name, shape in shapes.items()
    }


GGUF_NAMES = {
    "encoder.embed_tokens": "token_embd",
    "encoder.norm": "output_norm",
    "diffusion_head": "output",
    "encoder.layers": "blk",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name: str) -> str:
    for ours, theirs in GGUF_NAMES.items():
        name = name.replace(ours, theirs)
    return name


@dataclass
class Model:
    """What goes into a GGUF file; a test changes what it is about."""

    architecture: str = "llama"
    weights: dict[str, np.ndarray] = field(default_factory=random_weights)
    formats: Callable[[str], Any] = lambda _name: gguf.GGMLQuantizationType.F32
    tokens: list[str] = field(default_factory=lambda: list(TOKENS))
    kinds: list[int] | None = None
    model: str = "gpt2"
    pre: str = "smollm"
    eos: int | None = 2
    template: str | None = TEMPLATE
    skip: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    def write(self, path: Path) -> Path:
        writer = gguf.GGUFWriter(path, self.architecture)
        writer.add_block_count(LAYERS)
        writer.add_context_length(512)
        writer.add_embedding_length(HIDDEN)
        writer.add_feed_forward_length(MLP)
        writer.add_head_count(HEADS)
        writer.add_head_count_kv(KV_HEADS)
        writer.add_rope_freq_base(100000.0)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_rope_dimension_count(HEAD_DIM)
        writer.add_tokenizer_model(self.model)
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self.tokens)
        kinds = [CONTROL] * len(SPECIAL) + [NORMAL] * (len(self.tokens) - len(SPECIAL))
        writer.add_token_types(self.kinds or kinds)
        writer.add_token_merges(MERGES)
        writer.add_bos_token_id(1)
        if self.eos is not None:
            writer.add_eos_token_id(self.eos)
        writer.add_pad_token_id(2)
        if self.template is not None:
            writer.add_chat_template(self.template)
        for key, value in self.extra.items():
            add = {
                str: writer.add_string,
                int: writer.add_uint32,
                float: writer.add_float32,
                list: writer.add_array,
            }
            add[type(value)](key, value)
        for name, values in self.weights.items():
            if self.skip and self.skip in gguf_name(name):
                continue
            heads = HEADS if "q_proj" in name else KV_HEADS if "k_proj" in name else 0
            stored = llama_cpp_order(values, heads) if heads else values
            kind = self.formats(name)
            if kind != gguf.GGMLQuantizationType.F32:
                stored = gguf.quantize(stored, kind)
            writer.add_tensor(gguf_name(name), stored, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path


def run(model: Model, folder: Path, **options: Any) -> tuple[Report, Path]:
    out = folder / "out"
    return import_gguf(model.write(folder / "tiny.gguf"), out, **options), out


def refusal(model: Model, folder: Path, **options: Any) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        run(model, folder, **options)
    assert sorted(path.name for path in folder.iterdir()) == ["tiny.gguf"], "nothing half-written"
    assert caught.value.hint
    return caught.value


def test_weights_come_back_bitwise_and_a_tied_head_is_written_out(tmp_path: Path) -> None:
    model = Model()
    report, out = run(model, tmp_path)
    found = load_file(out / "model.safetensors")
    assert torch.equal(found.pop("diffusion_head.weight"), found["encoder.embed_tokens.weight"])
    assert found.keys() == model.weights.keys()
    for name, values in model.weights.items():
        assert torch.equal(found[name], torch.from_numpy(values)), name
    assert report.tied_head
    assert report.parameters == sum(v.size for v in model.weights.values()) + len(TOKENS) * HIDDEN


def test_an_untied_head_is_taken_from_the_file(tmp_path: Path) -> None:
    model = Model(weights=random_weights(tied=False))
    told: list[tuple[int, int]] = []
    report, out = run(model, tmp_path, progress=lambda *each: told.append(each))
    count = len(model.weights)
    assert told == [(number, count) for number in range(count)]
    head = load_file(out / "model.safetensors")["diffusion_head.weight"]
    assert torch.equal(head, torch.from_numpy(model.weights["diffusion_head.weight"]))
    assert not report.tied_head


@pytest.mark.parametrize("name", ["Q8_0", "Q4_1", "Q4_0", "F16", "BF16"])
def test_quantised_tensors_are_dequantised(tmp_path: Path, name: str) -> None:
    kind = gguf.GGMLQuantizationType[name]
    f32 = gguf.GGMLQuantizationType.F32
    model = Model(formats=lambda tensor: kind if "proj" in tensor or "embed" in tensor else f32)
    report, out = run(model, tmp_path)
    found = load_file(out / "model.safetensors")
    for tensor in ("layers.1.self_attn.k_proj", "layers.0.mlp.down_proj", "embed_tokens"):
        wanted = model.weights[f"encoder.{tensor}.weight"]
        heads = KV_HEADS if "k_proj" in tensor else 0
        stored = llama_cpp_order(wanted, heads) if heads else wanted
        rounded = gguf.dequantize(gguf.quantize(stored, kind), kind)
        rounded = half_split(rounded, heads) if heads else rounded
        assert np.array_equal(found[f"encoder.{tensor}.weight"].numpy(), rounded)
        assert np.abs(rounded - wanted).max() < 0.1
    assert report.formats == {name: 15, "F32": 5}


@pytest.mark.parametrize("name", ["Q8_0", "Q4_1", "Q4_0"])
def test_quantised_tensors_can_be_kept_as_they_are(tmp_path: Path, name: str) -> None:
    kind = gguf.GGMLQuantizationType[name]
    plain_kind = gguf.GGMLQuantizationType.F32
    model = Model(formats=lambda key: plain_kind if "norm" in key else kind)
    for folder in ("plain", "kept"):
        (tmp_path / folder).mkdir()
    _, plain = run(model, tmp_path / "plain")
    report, kept = run(model, tmp_path / "kept", keep_quantised=True)
    assert report.kept == (name,)
    assert f"kept as they are: {report.formats[name]} {name}" in str(report)
    config = json.loads((kept / "config.json").read_text())
    own = config["quantization_config"]["quant_method"]
    assert own == ("nldc" if name == "Q4_1" else "compressed-tensors")
    assert config["torch_dtype"] == "bfloat16"
    values, numbers = load_file(plain / "model.safetensors"), load_file(kept / "model.safetensors")
    matrices = [key for key, tensor in values.items() if tensor.dim() == 2]
    assert not set(matrices) & set(numbers)
    exact = PlainBackbone.load(kept, torch.float32).weights
    dense = PlainBackbone.load(plain, torch.float32).weights
    assert_equal(exact.embedding, dense.embedding)
    assert_equal(exact.head, dense.head)
    for ours, theirs in zip(exact.layers, dense.layers, strict=True):
        for part in ("qkv", "output", "gate", "up", "down"):
            assert_equal(getattr(ours, part), getattr(theirs, part))


def assert_equal(ours: Any, theirs: Any) -> None:
    """Both are matrices, bitwise the same."""
    assert isinstance(ours, Tensor)
    assert torch.equal(ours, theirs)


def test_formats_that_a_checkpoint_cannot_hold_are_dequantised_beside_those_kept(
    tmp_path: Path,
) -> None:
    kinds = gguf.GGMLQuantizationType
    model = Model(formats=lambda name: kinds.Q4_0 if "mlp" in name else kinds.F16)
    report, kept = run(model, tmp_path, keep_quantised=True)
    names = set(load_file(kept / "model.safetensors"))
    assert report.kept == ("Q4_0",)
    assert "encoder.layers.0.mlp.up_proj.weight_packed" in names
    assert "encoder.layers.0.self_attn.q_proj.weight" in names
    ignored = json.loads((kept / "config.json").read_text())["quantization_config"]["ignore"]
    assert "encoder.layers.0.self_attn.q_proj" in ignored
    assert ModelConfig.load(kept).quantised


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_weights_can_be_stored_in_half_the_bytes(tmp_path: Path, dtype: str) -> None:
    model = Model()
    _, out = run(model, tmp_path, dtype=dtype)
    kind = getattr(torch, dtype)
    for name, values in load_file(out / "model.safetensors").items():
        wanted = model.weights.get(name, model.weights["encoder.embed_tokens.weight"])
        assert torch.equal(values, torch.from_numpy(wanted).to(kind)), name


def test_the_config_has_the_keys_of_a_released_one(tmp_path: Path) -> None:
    _, out = run(Model(), tmp_path)
    made = json.loads((out / "config.json").read_text())
    released = json.loads((RELEASED / "config.json").read_text())
    assert list(made) == list(released)
    assert made["rope_parameters"] == {"rope_type": "default", "rope_theta": 100000.0}
    config = ModelConfig.load(out)
    assert (config.num_kv_heads, config.head_dim, config.rms_norm_eps) == (2, 16, 1e-5)
    assert (config.bos_token_id, config.eos_token_ids, config.mask_token_id) == (1, (2,), 4)


class Ar(Decoder):
    def prefill(self, batch: Batch, prompt: Tensor) -> Emit:
        context = batch.forward(prompt, Layout.causal(prompt.shape[1]), CAUSAL)
        seed = batch.sample(batch.head(context.take(slice(-1, None))))
        return Emit(seed, carry={"seed": seed})

    def step(self, batch: Batch, carry: dict[str, Tensor]) -> Emit:
        choice = batch.sample(batch.head(batch.forward(carry["seed"], Layout.causal(1), CAUSAL)))
        return Emit(choice, carry={"seed": choice})


CAUSAL = Pattern("causal", lambda q, k: k.position <= q.position, sees_prefix=True)


def test_the_imported_model_decodes_and_its_chat_template_works(tmp_path: Path) -> None:
    _, out = run(Model(), tmp_path)
    decoder: Decoder = Ar.from_checkpoint(out, device="cpu")
    result = decoder.generate(["hello world"], max_new_tokens=5)
    assert len(result.tokens[0]) in range(1, 6)
    tokens = chat_prompt(decoder.tokenizer, "hello", "prompt 0")
    hello = TOKENS.index("hello")
    assert tokens[0] == 1
    assert tokens.count(1) == 2
    assert tokens.count(hello) == 1
    assert decoder.generate(["hello"], max_new_tokens=3, chat=True).tokens[0]


@pytest.mark.parametrize(
    "text", ["hello world", "x = 3412 + 12\n\n\tnaïve 日本語 🎉", "  two  spaces ", "don't\r\n"]
)
@pytest.mark.parametrize("pre", ["smollm", "gpt-2", "llama-bpe"])
def test_text_survives_the_tokenizer(tmp_path: Path, text: str, pre: str) -> None:
    _, out = run(Model(pre=pre), tmp_path)
    tokenizer = Tokenizer.load(out)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_digits_are_split_one_by_one_where_the_model_was_trained_so(tmp_path: Path) -> None:
    texts = {}
    for pre in ("smollm", "gpt-2"):
        tokenizer = Tokenizer.load(run(Model(pre=pre), tmp_path / pre_folder(tmp_path, pre))[1])
        texts[pre] = [TOKENS[token] for token in tokenizer.encode("a 12")]
    assert texts == {"smollm": ["a", "Ġ", "1", "2"], "gpt-2": ["a", "Ġ", "12"]}


def pre_folder(root: Path, name: str) -> str:
    (root / name).mkdir()
    return name


def test_special_tokens_are_one_id_and_left_out_of_text(tmp_path: Path) -> None:
    _, out = run(Model(), tmp_path)
    tokenizer = Tokenizer.load(out)
    tokens = tokenizer.encode("<|im_start|>hello<|im_end|>")
    assert tokens == [1, TOKENS.index("hello"), 2]
    assert tokenizer.decode(tokens) == "hello"


def test_a_begin_token_is_added_where_the_file_asks_for_it() -> None:
    fields = vocabulary_fields() | {"tokenizer.ggml.add_bos_token": True}
    tokenizer = build_tokenizer(Vocabulary.of(fields))
    assert tokenizer.encode("hello").ids == [1, TOKENS.index("hello")]
    assert tokenizer.encode("hello", add_special_tokens=False).ids == [TOKENS.index("hello")]


def vocabulary_fields() -> dict[str, Any]:
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": list(TOKENS),
        "tokenizer.ggml.token_type": [CONTROL] * len(SPECIAL)
        + [NORMAL] * (len(TOKENS) - len(SPECIAL)),
        "tokenizer.ggml.merges": list(MERGES),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }


def with_token(text: str, kind: int) -> Vocabulary:
    fields = vocabulary_fields()
    fields["tokenizer.ggml.tokens"] += [text, "zz"]
    fields["tokenizer.ggml.token_type"] += [kind, NORMAL]
    return Vocabulary.of(fields)


@pytest.mark.parametrize(
    ("text", "kind"),
    [("<mask>", NORMAL), ("[PAD7]", UNUSED), ("<|reserved_special_token_3|>", CONTROL)],
)
def test_a_token_made_for_it_becomes_the_mask(text: str, kind: int) -> None:
    assert choose_mask(with_token(text, kind)) == len(TOKENS)


def test_the_mask_is_otherwise_the_last_control_token_that_is_not_in_use() -> None:
    fields = vocabulary_fields()
    assert choose_mask(Vocabulary.of(fields)) == SPECIAL.index("<empty>")
    fields["tokenizer.chat_template"] = "{{ '<empty>' }}"
    assert choose_mask(Vocabulary.of(fields)) == SPECIAL.index("<repo>")


@pytest.mark.parametrize("wanted", [3, "3", "<repo>"])
def test_the_mask_can_be_chosen(tmp_path: Path, wanted: int | str) -> None:
    report, out = run(Model(), tmp_path, mask_token=wanted)
    assert (report.mask_token_id, report.mask_token) == (3, "<repo>")
    assert ModelConfig.load(out).mask_token_id == 3


@pytest.mark.parametrize("wanted", [-1, 10**6, "no such token"])
def test_a_mask_that_is_no_token_is_refused(tmp_path: Path, wanted: int | str) -> None:
    assert "mask token" in refusal(Model(), tmp_path, mask_token=wanted).message


def test_a_vocabulary_without_a_free_token_asks_for_a_mask() -> None:
    fields = vocabulary_fields()
    fields["tokenizer.ggml.token_type"] = [NORMAL] * len(TOKENS)
    with pytest.raises(CheckpointError, match="no token of the vocabulary is free"):
        choose_mask(Vocabulary.of(fields))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Model(architecture="qwen2"), "architecture is `qwen2`"),
        (Model(skip="blk.1.attn_v"), "`blk.1.attn_v.weight` is missing"),
        (Model(skip="output_norm"), "`output_norm.weight` is missing"),
        (
            Model(weights={**random_weights(), "rope_freqs.weight": np.ones(8, np.float32)}),
            "`rope_freqs.weight` is not part",
        ),
        (
            Model(
                weights={
                    **random_weights(),
                    "encoder.norm.weight": np.ones(HIDDEN // 2, np.float32),
                }
            ),
            "shape [32], not [64]",
        ),
        (Model(model="llama"), "`llama`, not a byte-level BPE"),
        (Model(pre="tekken"), "`tekken`"),
        (Model(tokens=[*TOKENS[:-1], TOKENS[0]]), "two tokens have the same text"),
        (Model(tokens=[*TOKENS, "more"]), "shape [268, 64], not [269, 64]"),
        (Model(kinds=[NORMAL]), "token types"),
        (Model(eos=10**6), "eos_token_id 1000000"),
        (Model(extra={"llama.rope.scaling.type": "linear"}), "rope.scaling.type = 'linear'"),
        (Model(extra={"llama.rope.scaling.type": "yarn"}), "rope.scaling.type = 'yarn'"),
        (Model(extra={"llama.rope.scaling.factor": -4.0}), "rope.scaling.factor is -4.0"),
        (Model(extra={"llama.rope.scale_linear": "4"}), "rope.scaling.factor is '4'"),
        (Model(extra={"llama.expert_count": 8}), "expert_count = 8"),
        (Model(extra={"llama.attention.key_length": 32}), "rope.dimension_count = 16"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else "",
)
def test_a_model_that_is_not_plain_llama_is_refused(
    tmp_path: Path, model: Model, message: str
) -> None:
    assert message in refusal(model, tmp_path).message


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({}, {"rope_type": "default"}),
        ({"rope.scaling.factor": 4.0}, {"rope_type": "linear", "factor": 4.0}),
        ({"rope.scale_linear": 4.0}, {"rope_type": "linear", "factor": 4.0}),
        (
            {"rope.scaling.factor": 2.0, "rope.scale_linear": 4.0},
            {"rope_type": "linear", "factor": 2.0},
        ),
        (
            {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
            {"rope_type": "linear", "factor": 4.0},
        ),
        ({"rope.scaling.type": "none", "rope.scaling.factor": 4.0}, {"rope_type": "default"}),
        ({"rope.scaling.factor": 0.0}, {"rope_type": "default"}),
        ({"rope.scaling.factor": 1.0}, {"rope_type": "default"}),
    ],
)
def test_positions_are_scaled_as_llama_cpp_reads_the_fields(
    tmp_path: Path, fields: dict[str, Any], wanted: dict[str, Any]
) -> None:
    model = Model(extra={f"llama.{name}": value for name, value in fields.items()})
    _, out = run(model, tmp_path)
    found = json.loads((out / "config.json").read_text())["rope_parameters"]
    assert found == {"rope_theta": 100000.0, **wanted}


def test_scaled_positions_turn_by_so_much_less(tmp_path: Path) -> None:
    turns = []
    for name, extra in (("plain", {}), ("scaled", {"llama.rope.scaling.factor": 4.0})):
        (tmp_path / name).mkdir()
        _, out = run(Model(extra=extra), tmp_path / name)
        turns.append(Ar.from_checkpoint(out, device="cpu").model.backbone.rope.frequencies)
    assert torch.equal(turns[1], turns[0] / 4)


def split(
    folder: Path, count: int = 2, changes: dict[str, dict[int, int]] | None = None
) -> list[Path]:
    """Write a model in several files; `changes` are fields that a part, by number, has wrong."""
    model, names = Model(), list(random_weights())
    paths = []
    for number in range(count):
        part = names[number::count]
        fields = {"split.no": number, "split.count": count, "split.tensors.count": len(names)}
        fields |= {
            f"split.{key}": by[number] for key, by in (changes or {}).items() if number in by
        }
        path = folder / f"m-{number + 1:05}-of-{count:05}.gguf"
        paths.append(Model(weights={n: model.weights[n] for n in part}, extra=fields).write(path))
    return paths


def test_a_model_in_several_files_is_read_whole_from_any_of_them(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    _, whole = run(Model(), tmp_path / "whole")
    for number, path in enumerate(split(tmp_path, 3)):
        out = tmp_path / f"out{number}"
        import_gguf(path, out)
        for file in ("config.json", "model.safetensors", "tokenizer.json"):
            assert (out / file).read_bytes() == (whole / file).read_bytes()


def test_a_part_of_a_model_says_what_is_missing(tmp_path: Path) -> None:
    first, *others = split(tmp_path, 4)
    for path in others[:2]:
        path.unlink()
    with pytest.raises(CheckpointError) as caught:
        import_gguf(first, tmp_path / "out")
    assert "is one part of a split model of 4: m-00002-of-00004.gguf and 1 more is missing" in str(
        caught.value
    )
    renamed = first.rename(tmp_path / "model.gguf")
    with pytest.raises(CheckpointError, match="its name does not say which"):
        import_gguf(renamed, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"no": {1: 0}}, "says that it is part 0 of 2, counted from 0, not 1 of 2"),
        ({"count": {1: 5}}, "says that it is part 1 of 5"),
        ({"tensors.count": {0: 99}}, "the parts hold 20 tensors, not 99"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(
    tmp_path: Path, changes: dict[str, dict[int, int]], message: str
) -> None:
    first, _ = split(tmp_path, changes=changes)
    with pytest.raises(CheckpointError, match=message):
        import_gguf(first, tmp_path / "out")


def test_every_token_at_which_llama_cpp_ends_a_text_is_an_end(tmp_path: Path) -> None:
    report, out = run(Model(extra={"tokenizer.ggml.eot_token_id": 3}), tmp_path)
    ends = json.loads((out / "generation_config.json").read_text())
    # those that the file names come first, then `<|end|>`, known by its text
    assert ends == {"eos_token_id": [2, 3, 0], "bos_token_id": 1}
    assert report.ends == ("<|im_end|>", "<repo>", "<|end|>")
    assert "a text ends at `<|im_end|>`, `<repo>`, `<|end|>`" in str(report)


def ends_of(texts: list[str], **fields: int) -> list[str]:
    named = {f"tokenizer.ggml.{name}_token_id": value for name, value in fields.items()}
    data = vocabulary_fields() | {"tokenizer.ggml.tokens": texts, "tokenizer.ggml.merges": []}
    vocabulary = Vocabulary.of(
        {**data, "tokenizer.ggml.token_type": [NORMAL] * len(texts), **named}
    )
    for end in vocabulary.ends:
        assert vocabulary.kinds[end] == CONTROL, "an end is special, whatever the file says"
    return [texts[end] for end in vocabulary.ends]


def test_ends_are_found_by_their_texts_and_by_what_stands_beside_them() -> None:
    plain = ["a", "b", "c"]
    assert ends_of([*plain, "<|eot_id|>", "</s>"], eos=0, bos=1) == ["a", "<|eot_id|>", "</s>"]
    assert ends_of([*plain, "<|eom_id|>"], eos=0, eot=1, eom=2, bos=1) == [
        "a",
        "b",
        "c",
        "<|eom_id|>",
    ]
    assert ends_of([*plain, "<PAD>", "[PAD]"], eos=0, bos=1) == ["a", "<PAD>"]
    assert ends_of([*plain, "<PAD>"], eos=0, bos=1, fim_pad=2) == ["a", "c"]
    harmony = [*plain, "<|end|>", "<|return|>", "<|call|>"]
    assert ends_of(harmony, eos=0, bos=1) == ["a", "<|return|>", "<|call|>"]
    assert ends_of(harmony[:-1], eos=0, bos=1) == ["a", "<|end|>", "<|return|>"]
    gemma = [*plain, "</s>", "<|tool_response>"]
    assert ends_of(gemma, eos=0, bos=1) == ["a", "<|tool_response>"]


def test_merges_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    model = Model(tokens=[f"<{text}>" if text == "hello" else text for text in TOKENS])
    with pytest.raises(TokenizerError, match="merges do not fit"):
        run(model, tmp_path)


def test_a_truncated_file_is_named_as_such_wherever_it_ends(tmp_path: Path) -> None:
    whole = Model().write(tmp_path / "whole.gguf").read_bytes()
    short, out = tmp_path / "short.gguf", tmp_path / "out"
    for length in [*range(4, len(whole) - 64, len(whole) // 60), len(whole) - 32]:
        short.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="truncated"):
            import_gguf(short, out)
        assert not out.exists()


def test_a_damaged_header_never_hangs_or_raises_anything_else(tmp_path: Path) -> None:
    whole = Model().write(tmp_path / "whole.gguf").read_bytes()
    rng = np.random.default_rng(0)
    for number in range(150):
        damaged = bytearray(whole)
        damaged[int(rng.integers(4, 2500))] ^= int(rng.integers(1, 256))
        path, out = tmp_path / "damaged.gguf", tmp_path / f"out{number}"
        path.write_bytes(damaged)
        try:
            import_gguf(path, out)
        except (CheckpointError, TokenizerError):
            assert not out.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "no GGUF file"), (b"PK\x03\x04 a zip", "no GGUF file"), (None, "missing")],
)
def test_a_file_of_another_kind_is_refused(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    source = tmp_path / "model.gguf"
    if content is not None:
        source.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        import_gguf(source, tmp_path / "out")
    with pytest.raises(CheckpointError, match="cannot be read"):
        import_gguf(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_in_it_is_not_touched(tmp_path: Path) -> None:
    source, out = Model().write(tmp_path / "tiny.gguf"), tmp_path / "out"
    out.mkdir()
    import_gguf(source, out)
    before = {path: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(CheckpointError, match="is not empty"):
        import_gguf(source, out)
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    with pytest.raises(CheckpointError, match="is no folder"):
        import_gguf(source, source)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    source = Model().write(tmp_path / "tiny.gguf")
    with pytest.raises(CheckpointError, match="cannot be written"):
        import_gguf(source, source / "below" / "out")


def test_a_disk_that_fills_up_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nldc.import_gguf, "_write_weights", full)
    assert "No space left on device" in refusal(Model(), tmp_path).message


def test_an_unknown_dtype_is_refused(tmp_path: Path) -> None:
    assert "'int8'" in refusal(Model(), tmp_path, dtype="int8").message


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Model().write(tmp_path / "tiny.gguf")
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(CheckpointError) as caught:
        import_gguf(source, tmp_path / "out")
    assert caught.value.hint == "pip install nldc[gguf]"
