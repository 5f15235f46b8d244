"""`nldc quantize --float`, and checkpoints with floats of 8 bits, from the folder to the tokens."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from random_model import decoders_on, random_checkpoint
from safetensors.torch import load_file, save_file
from torch import Tensor

from nldc.cli import cli
from nldc.runtime.checkpoint.config import ModelConfig
from nldc.runtime.checkpoint.quantising import quantize
from nldc.runtime.checkpoint.quantization import UNROUNDED
from nldc.runtime.checkpoint.weights import load_weights
from nldc.runtime.errors import CheckpointError
from nldc.runtime.invariant.blocked import Blocked
from nldc.runtime.invariant.interleaved import Interleaved
from nldc.runtime.invariant.quantised import FLOAT8
from nldc.runtime.invariant.quantised_ways import pack_for_kernels
from nldc.runtime.loading import Backend
from nldc.runtime.reference.backbone import PlainBackbone

CPU = torch.device("cpu")
BF16 = torch.bfloat16
WIDE = {"hidden_size": 64, "intermediate_size": 128, "dtype": "bfloat16"}
QUERY = "encoder.layers.1.self_attn.q_proj.weight"
MATRICES = ("qkv", "output", "gate", "up", "down")
PROMPTS = [[5, 9, 2, 77], [8] * 70]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_checkpoint(tmp_path_factory.mktemp("source") / "model", **WIDE)


@pytest.fixture
def model(source: Path, tmp_path: Path) -> Path:
    """Return a checkpoint of floats, which a test may change."""
    quantize(source, tmp_path / "floats", 8, floating=True)
    return tmp_path / "floats"


def changed(model: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Write a checkpoint's tensors again, as `change` leaves them."""
    tensors = load_file(model / "model.safetensors")
    change(tensors)
    save_file(
        {name: each.contiguous() for name, each in tensors.items()}, model / "model.safetensors"
    )


def described(model: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Write a checkpoint's quantization_config again, as `change` leaves it."""
    data = json.loads((model / "config.json").read_text())
    change(data["quantization_config"])
    (model / "config.json").write_text(json.dumps(data))


def test_a_weight_is_its_floats_times_the_scale_of_its_row(source: Path, tmp_path: Path) -> None:
    report = quantize(source, tmp_path / "floats", 8, floating=True)
    assert report.floating
    said = "14 matrices to floats of 8 bits, a scale for a row; embedding and head as they were"
    assert said in str(report)
    assert 0.015 < report.error < 0.03  # 3 bits of mantissa
    tensors, before = (
        load_file(folder / "model.safetensors") for folder in (tmp_path / "floats", source)
    )
    assert tensors[QUERY].dtype == FLOAT8
    assert tensors[QUERY + "_scale"].shape == (64, 1)
    worth = tensors[QUERY].float() * tensors[QUERY + "_scale"].float()
    off = (worth - before[QUERY].float()).abs()
    assert bool((off <= before[QUERY].float().abs() * 2**-3 + 1e-6).all())
    for name in ("encoder.embed_tokens.weight", "diffusion_head.weight", "encoder.norm.weight"):
        assert torch.equal(tensors[name], before[name])
    plain = PlainBackbone.load(tmp_path / "floats", torch.float32).weights.layers[1].qkv
    assert isinstance(plain, Tensor)
    assert torch.equal(plain[:64], worth)


def test_the_config_says_what_compressed_tensors_would(model: Path) -> None:
    given = json.loads((model / "config.json").read_text())["quantization_config"]
    assert (given["quant_method"], given["format"]) == ("compressed-tensors", "float-quantized")
    assert given["ignore"] == ["diffusion_head", "encoder.embed_tokens"]
    (group,) = given["config_groups"].values()
    assert group["targets"] == ["Linear"]
    assert group["format"] == "float-quantized"
    assert group["weights"]["type"] == "float"
    assert group["weights"]["strategy"] == "channel"
    (kind,) = ModelConfig.load(model).quantised
    assert kind.floating
    assert not kind.activations


@pytest.mark.parametrize("backend", ["torch", "numba"])
@pytest.mark.parametrize("strategy", ["linear_ss", "quadratic_ss"])
def test_self_speculation_gives_the_tokens_of_ar(
    model: Path, tmp_path: Path, strategy: str, backend: Backend
) -> None:
    if backend == "numba":
        pytest.importorskip("numba")
    get = decoders_on(model, tmp_path, "bfloat16", backend)
    options = {"max_new_tokens": 20, "eos": ()}
    want = get("ar").generate(PROMPTS, **options).tokens
    made = get("ar").model.backbone.weights.layers[0].qkv
    assert get("ar").backend == backend
    assert isinstance(made, Blocked) == (backend == "numba")
    assert not isinstance(made, Blocked) or made.form == "f8"
    assert get(strategy).generate(PROMPTS, **options).tokens == want


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_kernels_get_floats_in_their_bits_and_float32_is_dequantised(
    model: Path, dtype: torch.dtype
) -> None:
    weights = load_weights(model, ModelConfig.load(model), dtype, CPU, form=pack_for_kernels)
    plain = PlainBackbone.load(model, torch.float32).weights
    for name in MATRICES:
        made, wanted = getattr(weights.layers[1], name), getattr(plain.layers[1], name)
        if dtype == torch.float32:
            assert not isinstance(made, Interleaved)
            continue
        assert isinstance(made, Interleaved)
        assert made.floating
        assert torch.equal(made.to_dense(), wanted.to(dtype))


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_one_scale_of_a_matrix_is_that_of_each_of_its_rows(
    model: Path, shape: tuple[int, ...]
) -> None:
    changed(model, lambda t: t.update({QUERY + "_scale": torch.full(shape, 0.125)}))
    floats = load_file(model / "model.safetensors")[QUERY]
    described(model, lambda c: c["config_groups"]["group_0"]["weights"].update(strategy="tensor"))
    plain = PlainBackbone.load(model, torch.float32).weights.layers[1].qkv
    assert isinstance(plain, Tensor)
    assert torch.equal(plain[:64], floats.float() / 8)


def test_matrices_that_are_left_as_they_are_or_have_groups_are_read_beside(
    model: Path, source: Path
) -> None:
    own = load_file(source / "model.safetensors")[QUERY]

    def mixed(tensors: dict[str, Tensor]) -> None:
        del tensors[QUERY + "_scale"]
        tensors[QUERY] = own
        tensors["encoder.layers.0.mlp.up_proj.weight_scale"] = torch.full((128, 2), 0.25)

    changed(model, mixed)
    floats = load_file(model / "model.safetensors")["encoder.layers.0.mlp.up_proj.weight"]
    layers = PlainBackbone.load(model, torch.float32).weights.layers
    assert isinstance(layers[1].qkv, Tensor)
    assert torch.equal(layers[1].qkv[:64], own.float())
    assert isinstance(layers[0].up, Tensor)
    assert torch.equal(layers[0].up, floats.float() / 4)


def test_whole_numbers_and_floats_are_read_beside_one_another(
    model: Path, source: Path, tmp_path: Path
) -> None:
    def qkv(folder: Path) -> Tensor:
        found = PlainBackbone.load(folder, torch.float32).weights.layers[1].qkv
        assert isinstance(found, Tensor)
        return found

    quantize(source, tmp_path / "whole", 4, 32)
    whole, floats = load_file(tmp_path / "whole" / "model.safetensors"), qkv(model)

    def mixed(tensors: dict[str, Tensor]) -> None:
        for part in ("", "_scale"):
            del tensors[QUERY + part]
        tensors.update({name: each for name, each in whole.items() if name.startswith(QUERY)})

    changed(model, mixed)
    own = json.loads((tmp_path / "whole" / "config.json").read_text())["quantization_config"]
    described(model, lambda c: c["config_groups"].update(whole=own["config_groups"]["group_0"]))
    described(model, lambda c: c.update(format="mixed-precision"))
    assert torch.equal(qkv(model), torch.cat((qkv(tmp_path / "whole")[:64], floats[64:])))


def refusal(call: Callable[[], object]) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        call()
    return caught.value


def loaded(model: Path) -> object:
    return load_weights(model, ModelConfig.load(model), BF16, CPU)


def none(code: int) -> Callable[[dict[str, Tensor]], object]:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors[QUERY].view(torch.uint8)[3, 5] = code

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (none(0x7F), f"`{QUERY}` holds values that are no numbers"),
        (none(0xFF), f"`{QUERY}` holds values that are no numbers"),
        (
            lambda t: t[QUERY + "_scale"].fill_(torch.nan),
            f"`{QUERY}_scale` holds values that are no numbers",
        ),
        (
            lambda t: t.pop(QUERY + "_scale"),
            f"tensor `{QUERY}_scale` is in none of the weight files",
        ),
        (
            lambda t: t.update({QUERY + "_scale": torch.ones(64, 3)}),
            f"tensor `{QUERY}_scale` has the shape [64, 3], which does not divide [64, 64] into",
        ),
        (
            lambda t: t.update({QUERY + "_scale": torch.ones(64)}),
            f"tensor `{QUERY}_scale` has the shape [64], which does not divide [64, 64] into",
        ),
        (
            lambda t: t.update({QUERY + "_scale": torch.ones(64, 1, dtype=torch.int32)}),
            f"tensor `{QUERY}_scale` holds I32, not F64",
        ),
        (
            lambda t: t.update({QUERY: t[QUERY].view(torch.uint8)[:-1].view(FLOAT8)}),
            f"tensor `{QUERY}` has the shape [63, 64], not [64, 64]",
        ),
        (
            lambda t: t.update({QUERY: t[QUERY].view(torch.uint8).view(torch.float8_e5m2)}),
            f"tensor `{QUERY}` holds F8_E5M2",
        ),
        (
            lambda t: t.update({QUERY + "_zero_point": torch.zeros(64, 1)}),
            f"tensor `{QUERY}_zero_point` does not belong to the model",
        ),
        (
            lambda t: t.update({"encoder.norm.weight": torch.ones(64).to(FLOAT8)}),
            "`encoder.norm.weight` is no matrix, and quantised",
        ),
    ],
)
def test_damaged_parts_of_a_weight_are_named(
    model: Path, change: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    changed(model, change)
    problem = refusal(lambda: loaded(model))
    assert message in problem.message
    assert "_scale` is in none" in message or "model.safetensors" in problem.message


def test_floats_that_the_config_does_not_describe_are_refused(source: Path, tmp_path: Path) -> None:
    quantize(source, tmp_path / "floats", 8, floating=True)
    quantize(source, tmp_path / "whole", 8)
    for kind in ("whole", "none"):
        if kind == "whole":
            given = json.loads((tmp_path / "whole" / "config.json").read_text())
        else:
            given.pop("quantization_config")
        (tmp_path / "floats" / "config.json").write_text(json.dumps(given))
        said = str(refusal(lambda: loaded(tmp_path / "floats")))
        assert "_proj.weight` holds F8_E4M3" in said
        assert ("config.json describes no weights of type float" in said) == (kind == "whole")


def test_numbers_that_are_whole_where_floats_are_described_are_refused(
    source: Path, tmp_path: Path
) -> None:
    quantize(source, tmp_path / "whole", 8)
    quantize(source, tmp_path / "floats", 8, floating=True)
    given = (tmp_path / "floats" / "config.json").read_text()
    (tmp_path / "whole" / "config.json").write_text(given)
    said = str(refusal(lambda: loaded(tmp_path / "whole")))
    assert "has 8 bits, and config.json describes no weights of so many" in said


def test_activations_that_would_be_rounded_are_not_and_the_decoder_says_so(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"max_new_tokens": 8, "eos": ()}
    get = decoders_on(model, tmp_path / "as-it-is", "bfloat16")
    want = get("ar").generate(PROMPTS, **options).tokens
    assert UNROUNDED not in get("ar").notes
    rounded = {"num_bits": 8, "type": "float", "dynamic": True, "strategy": "token"}
    described(model, lambda c: c["config_groups"]["group_0"].update(input_activations=rounded))
    with caplog.at_level(logging.WARNING, logger="nldc"):
        decoder = decoders_on(model, tmp_path / "rounded", "bfloat16")("ar")
    assert UNROUNDED in decoder.notes
    assert UNROUNDED in caplog.messages
    assert decoder.generate(PROMPTS, **options).tokens == want


def test_what_cannot_be_made_is_said_and_nothing_is_written(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    problem = refusal(lambda: quantize(source, out, 4, floating=True))
    assert (problem.message, problem.hint) == (
        "floats of 4 bits are not supported",
        "use --bits 8",
    )
    problem = refusal(lambda: quantize(source, out, 8, 32, floating=True))
    assert problem.message == "floats in groups are not supported"
    assert not list(tmp_path.iterdir())


def test_the_command_makes_floats_of_8_bits_only(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    given = ["quantize", str(source), "--float", "-o", str(out)]
    found = CliRunner().invoke(cli, [*given, "--bits", "4"])
    assert found.exit_code == 1
    assert "floats of 4 bits are not supported" in found.output
    assert not list(tmp_path.iterdir())
    found = CliRunner().invoke(cli, [*given, "--bits", "8", "--json"])
    assert found.exit_code == 0
    assert json.loads(found.stdout)["floating"] is True
    (kind,) = ModelConfig.load(out).quantised
    assert kind.floating
