"""`nldc quantize`, and checkpoints with weights of 8 and 4 bits, from the folder to the tokens."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from random_model import decoders_on, random_checkpoint
from safetensors.torch import load_file, save_file
from torch import Tensor

from nldc.runtime import Decoder
from nldc.runtime.checkpoint import quantising
from nldc.runtime.checkpoint.adapter import Adapter, Selected
from nldc.runtime.checkpoint.config import ModelConfig
from nldc.runtime.checkpoint.quantising import quantize
from nldc.runtime.checkpoint.weights import load_weights
from nldc.runtime.errors import CheckpointError
from nldc.runtime.invariant.interleaved import Interleaved
from nldc.runtime.invariant.linear import linear
from nldc.runtime.invariant.quantised import Quantised
from nldc.runtime.invariant.quantised_ways import pack_for_kernels, pack_weight
from nldc.runtime.loading import Backend, load
from nldc.runtime.reference.backbone import PlainBackbone

CPU = torch.device("cpu")
WIDE = {"hidden_size": 64, "intermediate_size": 128, "dtype": "bfloat16"}


def source_of(root: Path, **settings: Any) -> Path:
    return random_checkpoint(root / "source", **{**WIDE, **settings})


@pytest.fixture(scope="module", params=[4, 8])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp(f"q{request.param}")
    quantize(source_of(root), root / "out", request.param)
    return root / "out"


def test_weights_are_off_by_no_more_than_the_report_says(tmp_path: Path) -> None:
    source = source_of(tmp_path)
    for bits, most in ((4, 0.1), (8, 0.02)):
        report = quantize(source, tmp_path / f"q{bits}", bits)
        assert report.error < most
        assert report.after < report.before / (4 if bits == 8 else 5) * 1.5
        assert f"to {bits} bits" in str(report)
        config = ModelConfig.load(tmp_path / f"q{bits}")
        assert config.quantised
        before = PlainBackbone.load(source, torch.float32).weights
        after = PlainBackbone.load(tmp_path / f"q{bits}", torch.float32).weights
        for name in ("qkv", "output", "gate", "up", "down"):
            old, new = getattr(before.layers[1], name), getattr(after.layers[1], name)
            assert 0 < float((old - new).norm() / old.norm()) < most
        assert torch.equal(before.layers[0].input_norm, after.layers[0].input_norm)


def test_what_is_loaded_is_the_packed_form_and_an_embedding_in_bits(model: Path) -> None:
    weights = load_weights(model, ModelConfig.load(model), torch.bfloat16, CPU)
    assert isinstance(weights.embedding, Quantised)
    assert not isinstance(weights.head, Tensor | Quantised)
    for layer in weights.layers:
        for name in ("qkv", "output", "gate", "up", "down"):
            assert not isinstance(getattr(layer, name), Tensor | Quantised), name


@pytest.mark.parametrize("strategy", ["linear_ss", "quadratic_ss"])
def test_self_speculation_gives_the_tokens_of_ar(
    model: Path, tmp_path: Path, strategy: str
) -> None:
    get = decoders_on(model, tmp_path, "bfloat16")
    prompts = [[5, 9, 2, 77], [8] * 70]
    options = {"max_new_tokens": 20, "eos": ()}
    want = get("ar").generate(prompts, **options).tokens
    assert get(strategy).generate(prompts, **options).tokens == want


def test_greedy_tokens_are_those_of_the_dense_weights_in_float32(
    model: Path, tmp_path: Path
) -> None:
    """In float32 the weights are exactly what the file says, computed with as any others are."""
    quantised = decoders_on(model, tmp_path, "float32")("ar")
    plain = PlainBackbone.load(model, torch.float32)
    dense = tmp_path / "dense"
    dense.mkdir()
    data = json.loads((model / "config.json").read_text())
    del data["quantization_config"]
    (dense / "config.json").write_text(json.dumps(data))
    save_file(_named(plain), dense / "model.safetensors")
    prompt = [[5, 9, 2, 77]]
    options: dict[str, Any] = {"max_new_tokens": 12, "eos": ()}
    want = decoders_on(dense, tmp_path / "d", "float32")("ar").generate(prompt, **options)
    assert quantised.generate(prompt, **options).tokens == want.tokens


def _named(plain: PlainBackbone) -> dict[str, Tensor]:
    """Return the weights of a backbone under the names of a checkpoint."""
    config, weights = plain.config, plain.weights
    heights = [config.num_heads * config.head_dim, *[config.num_kv_heads * config.head_dim] * 2]
    found: dict[str, Any] = {
        "encoder.embed_tokens.weight": weights.embedding,
        "encoder.norm.weight": weights.norm,
        "diffusion_head.weight": weights.head,
    }
    for number, layer in enumerate(weights.layers):
        own = f"encoder.layers.{number}."
        assert isinstance(layer.qkv, Tensor)
        for part, rows in zip("qkv", torch.split(layer.qkv, heights), strict=True):
            found[f"{own}self_attn.{part}_proj.weight"] = rows
        found |= {
            f"{own}self_attn.o_proj.weight": layer.output,
            f"{own}mlp.gate_proj.weight": layer.gate,
            f"{own}mlp.up_proj.weight": layer.up,
            f"{own}mlp.down_proj.weight": layer.down,
            f"{own}input_layernorm.weight": layer.input_norm,
            f"{own}post_attention_layernorm.weight": layer.post_norm,
        }
    return {name: value.clone() for name, value in found.items()}


def test_matrices_of_one_product_in_different_bits_still_load(tmp_path: Path) -> None:
    source = source_of(tmp_path)
    quantize(source, tmp_path / "q4", 4)
    tensors = load_file(tmp_path / "q4" / "model.safetensors")
    name = "encoder.layers.0.self_attn.v_proj.weight"
    for part in [each for each in tensors if each.startswith(name)]:
        del tensors[part]
    tensors[name] = load_file(source / "model.safetensors")[name]
    save_file(tensors, tmp_path / "q4" / "model.safetensors")
    mixed = PlainBackbone.load(tmp_path / "q4", torch.float32).weights.layers[0].qkv
    plain = PlainBackbone.load(source, torch.float32).weights.layers[0].qkv
    assert isinstance(mixed, Tensor)
    assert isinstance(plain, Tensor)
    assert torch.equal(mixed[-32:], plain[-32:])
    assert not torch.equal(mixed[:32], plain[:32])


def test_a_tied_head_is_the_embedding_in_bits(tmp_path: Path) -> None:
    source = source_of(tmp_path, tie_word_embeddings=True)
    quantize(source, tmp_path / "q4", 4)
    weights = load_weights(tmp_path / "q4", ModelConfig.load(tmp_path / "q4"), torch.bfloat16, CPU)
    assert isinstance(weights.embedding, Quantised)
    assert not isinstance(weights.head, Tensor)
    assert torch.allclose(
        weights.head.to_dense().float(), weights.embedding.to_dense().float(), atol=0.01
    )


def test_everything_else_of_the_folder_is_copied(tmp_path: Path) -> None:
    source = source_of(tmp_path)
    (source / "chat_template.jinja").write_text("{{ x }}")
    (source / "linear_spec_lora").mkdir()
    (source / "linear_spec_lora" / "adapter_config.json").write_text("{}")
    (source / "model.safetensors.index.json").write_text("{}")
    quantize(source, tmp_path / "out", 8)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "chat_template.jinja",
        "config.json",
        "linear_spec_lora",
        "model.safetensors",
    ]
    assert (tmp_path / "out" / "linear_spec_lora" / "adapter_config.json").read_text() == "{}"


def refusal(call: Callable[[], object]) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        call()
    return caught.value


def test_what_cannot_be_quantised_is_said_and_nothing_is_written(tmp_path: Path) -> None:
    source, out = source_of(tmp_path), tmp_path / "out"
    for call, message, hint in (
        (lambda: quantize(source, out, 3), "3 bits are not supported", "use 4 or 8"),
        (lambda: quantize(source, out, 4, 48), "groups of 48 are not supported", "use 32, 64, 128"),
        (
            lambda: quantize(source, out, 4, 128),
            (
                "groups of 128 do not divide the width 64 of "
                "`encoder.layers.0.self_attn.q_proj.weight`"
            ),
            "use --group 32 or 64",
        ),
        (lambda: quantize(source, source / "in", 4), f"{source}/in lies inside {source}", None),
        (lambda: quantize(tmp_path / "none", out, 4), f"{tmp_path}/none is not a folder", None),
    ):
        problem = refusal(call)
        assert problem.message == message
        assert hint is None or problem.hint == hint
    quantize(source, out, 4)
    again = refusal(lambda: quantize(out, tmp_path / "again", 4))
    assert again.message == f"{out} is quantised already"
    assert refusal(lambda: quantize(source, out, 4)).message == f"{out} is not empty"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    source = source_of(tmp_path)
    tensors = load_file(source / "model.safetensors")
    tensors["encoder.layers.1.mlp.up_proj.weight"][3, 3] = torch.nan
    save_file(tensors, source / "model.safetensors")
    problem = refusal(lambda: quantize(source, tmp_path / "out", 4))
    assert "`encoder.layers.1.mlp.up_proj.weight` holds values that are no numbers" in str(problem)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_disk_that_fills_up_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, *_args: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(quantising, "write_tensors", full)
    problem = refusal(lambda: quantize(source_of(tmp_path), tmp_path / "out", 4))
    assert "cannot be written: No space left on device" in problem.message
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("_scale", lambda t: t[:, :1].repeat(1, 3), "does not divide [64, 64] into groups"),
        ("_packed", lambda t: t[:, :-1], "which is none of [64, 64] in 4 or 8 bits"),
        ("_packed", lambda t: t.float(), "holds F32, not I32"),
        ("_zero_point", lambda t: t[:-1], "is not of the shape [8, 2]"),
        ("_shape", lambda t: t + 1, "holds [65, 65], not [64, 64]"),
        ("_scale", lambda t: t * torch.inf, "holds values that are no numbers"),
        ("_scale", None, "is in none of the weight files"),
    ],
)
def test_damaged_parts_of_a_weight_are_named(
    tmp_path: Path, part: str, change: Callable[[Tensor], Tensor] | None, message: str
) -> None:
    quantize(source_of(tmp_path), tmp_path / "out", 4)
    file = tmp_path / "out" / "model.safetensors"
    tensors = load_file(file)
    name = f"encoder.layers.1.self_attn.q_proj.weight{part}"
    tensor = tensors.pop(name)
    if change is not None:
        tensors[name] = change(tensor).contiguous()
    save_file(tensors, file)
    config = ModelConfig.load(tmp_path / "out")
    problem = refusal(lambda: load_weights(tmp_path / "out", config, torch.bfloat16, CPU))
    assert message in problem.message
    assert name in problem.message


def test_an_adapter_drafts_beside_quantised_weights(model: Path, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    tensors = {}
    for module, out, width in (("self_attn.k_proj", 32, 64), ("mlp.down_proj", 64, 128)):
        name = f"base_model.model.encoder.layers.1.{module}"
        tensors[f"{name}.lora_A.weight"] = torch.randn(2, width, generator=generator)
        tensors[f"{name}.lora_B.weight"] = torch.randn(out, 2, generator=generator)
    folder = tmp_path / "lora"
    folder.mkdir()
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    save_file(tensors, folder / "adapter_model.safetensors")
    adapter = Adapter.load(folder, ModelConfig.load(model), torch.bfloat16, CPU)
    weights = load_weights(model, ModelConfig.load(model), torch.bfloat16, CPU)
    rows = torch.randn(6, 128, generator=generator).to(torch.bfloat16)
    down = weights.layers[1].down
    base = linear(rows, down)
    some = Selected(adapter, torch.tensor([1, 4])).linear(1, "down", rows, down)
    (low,) = adapter.products[1, "down"]
    want = base.clone()
    want[[1, 4]] += low.scale * linear(linear(rows[[1, 4]], low.down), low.up)
    assert torch.allclose(some, want, rtol=0.02)
    assert torch.equal(some[[0, 2, 3, 5]], base[[0, 2, 3, 5]]), "rows without it are as they were"
    assert not torch.equal(some[1], base[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_kernels_get_weights_in_their_bits_and_float32_is_dequantised(
    model: Path, dtype: torch.dtype
) -> None:
    config = ModelConfig.load(model)
    weights = load_weights(model, config, dtype, CPU, form=pack_for_kernels)
    stored = sum(each.nbytes for each in load_file(model / "model.safetensors").values())
    matrices = [weights.head] + [
        getattr(layer, name)
        for layer in weights.layers
        for name in ("qkv", "output", "gate", "up", "down")
    ]
    if dtype == torch.float32:
        assert not any(isinstance(each, Interleaved | Quantised) for each in matrices)
        return
    assert isinstance(weights.embedding, Quantised)
    taken = 0
    for each in matrices:
        assert isinstance(each, Interleaved)
        taken += sum(x.nbytes for x in (each.words, each.scale, each.offset) if x is not None)
    # rows of 64 values are half a block or a quarter, and are filled up
    assert taken < 4 * stored
    plain = PlainBackbone.load(model, torch.float32).weights
    assert isinstance(plain.layers[1].down, Tensor)
    dense = weights.layers[1].down.to_dense().float()
    assert torch.allclose(dense, plain.layers[1].down, atol=0.01)


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_the_backend_says_in_which_form_weights_are_loaded(
    model: Path, monkeypatch: pytest.MonkeyPatch, backend: Backend
) -> None:
    """A GPU's kernels read their own form, and torch dequantises there, or takes its own."""
    asked = []

    def told(*_given: object, form: object, **_more: object) -> None:
        asked.append(form)
        raise CheckpointError("enough is known", "")

    monkeypatch.setattr("nldc.runtime.loading._backend", lambda *_args, **_more: backend)
    monkeypatch.setattr("nldc.runtime.loading._device", lambda _device: torch.device("cuda"))
    monkeypatch.setattr("nldc.runtime.loading.load_weights", told)
    with pytest.raises(CheckpointError, match="enough"):
        load(Decoder, model, None, None, None, backend, None, None, None)
    assert asked == [pack_for_kernels if backend == "triton" else pack_weight]


@pytest.mark.parametrize("symmetric", [True, False])
def test_zeros_that_the_config_denies_or_that_are_missing_are_refused(
    tmp_path: Path, symmetric: bool
) -> None:
    """Taken without its zeros, a group of numbers would be off, and nothing would show it."""
    out = tmp_path / "out"
    quantize(source_of(tmp_path), out, 4, symmetric=symmetric)
    path = out / "config.json"
    given = path.read_text()
    swapped = '"symmetric": false', '"symmetric": true'
    path.write_text(given.replace(*(swapped if not symmetric else swapped[::-1])))
    said = str(refusal(lambda: load_weights(out, ModelConfig.load(out), torch.bfloat16, CPU)))
    assert ("lacks its tensor" if symmetric else "has the tensor") in said
    assert "weight_zero_point" in said
    assert "model.safetensors" in said


def test_bits_that_the_config_does_not_describe_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    quantize(source_of(tmp_path), out, 4)
    path = out / "config.json"
    path.write_text(path.read_text().replace('"num_bits": 4', '"num_bits": 8'))
    said = str(refusal(lambda: load_weights(out, ModelConfig.load(out), torch.bfloat16, CPU)))
    assert "has 4 bits, and config.json describes no weights of so many" in said
