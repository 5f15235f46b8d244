"""LoRA: beside the base weights, on the rows that ask for it, and only for the model it fits."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from handwritten import BIDIRECTIONAL, CHECKPOINTS, Ar, LinearSS, block_layout
from safetensors.torch import load_file, save_file
from test_golden import batch_of

from nldc.runtime.checkpoint.adapter import Adapter
from nldc.runtime.checkpoint.config import ModelConfig
from nldc.runtime.decoder import Decoder
from nldc.runtime.errors import AdapterError, CheckpointWarning

FOLDER = CHECKPOINTS[4]
CONFIG = ModelConfig.load(FOLDER)
CPU = torch.device("cpu")


def write_adapter(folder: Path, tensors: dict[str, torch.Tensor], **settings: Any) -> Path:
    folder.mkdir(exist_ok=True)
    config = {"peft_type": "LORA", "r": 3, "lora_alpha": 6, "bias": "none", **settings}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def lora(layer: int, module: str, inputs: int, outputs: int) -> dict[str, torch.Tensor]:
    name = f"base_model.model.encoder.layers.{layer}.{module}"
    return {
        f"{name}.lora_A.weight": torch.randn(3, inputs) / 5,
        f"{name}.lora_B.weight": torch.randn(outputs, 3) / 5,
    }


MODULES = {  # module: (inputs, outputs) of random-4
    "self_attn.q_proj": (40, 64),
    "self_attn.k_proj": (40, 16),
    "self_attn.v_proj": (40, 16),
    "self_attn.o_proj": (64, 40),
    "mlp.gate_proj": (40, 40),
    "mlp.up_proj": (40, 40),
    "mlp.down_proj": (40, 40),
}


def block_logits(decoder: Decoder, **options: Any) -> torch.Tensor:
    batch = batch_of(decoder)
    with torch.inference_mode():
        seen = batch.forward(
            torch.tensor([[4, 8, 8, 8]]), block_layout(4), BIDIRECTIONAL, **options
        )
        return batch.head(seen).values[0]


@pytest.mark.parametrize("module", MODULES)
def test_an_adapter_of_any_module_equals_weights_with_its_product_added(
    module: str, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    tensors = lora(1, module, *MODULES[module])
    folder = write_adapter(tmp_path / "lora", tensors)
    decoder = LinearSS.from_checkpoint(
        FOLDER, adapter=folder, dtype="float64", device="cpu", backend="torch"
    )
    found = block_logits(decoder, adapter="drafter")
    down, up = (tensor.double() for tensor in tensors.values())
    merged = Path(shutil.copytree(FOLDER, tmp_path / "merged"))
    weights = load_file(merged / "model.safetensors")
    name = f"encoder.layers.1.{module}.weight"
    weights = {key: value.double() for key, value in weights.items()}
    weights[name] += 6 / 3 * up @ down
    save_file(weights, merged / "model.safetensors")
    plain = Ar.from_checkpoint(merged, dtype="float64", device="cpu", backend="torch")
    torch.testing.assert_close(found, block_logits(plain), rtol=1e-9, atol=1e-9)
    assert not torch.allclose(found, block_logits(decoder))


def test_base_weights_and_rows_without_the_adapter_are_bitwise_untouched() -> None:
    decoder = LinearSS.from_checkpoint(FOLDER, dtype="float32", device="cpu", backend="torch")
    layer = decoder.model.backbone.weights.layers[-1]
    before = layer.output.to_dense().clone()
    adapter = decoder.model.adapters["drafter"]
    only_last = Adapter(
        {k: v for k, v in adapter.products.items() if k[0] == CONFIG.num_layers - 1}
    )
    decoder.model.adapters["drafter"] = only_last
    base = block_logits(decoder)
    some = block_logits(decoder, adapter="drafter", adapter_rows=[False, True, False, True])
    every = block_logits(decoder, adapter="drafter")
    # In the last layer a row's adapter reaches no other row.
    assert torch.equal(some[[0, 2]], base[[0, 2]])
    torch.testing.assert_close(some[[1, 3]], every[[1, 3]])
    assert not torch.equal(every, base)
    assert torch.equal(layer.output.to_dense(), before)


def test_no_rows_and_all_rows_are_the_base_and_the_whole_adapter() -> None:
    decoder = LinearSS.from_checkpoint(FOLDER, dtype="float64", device="cpu", backend="torch")
    none = block_logits(decoder, adapter="drafter", adapter_rows=[False] * 4)
    every = block_logits(decoder, adapter="drafter", adapter_rows=[True] * 4)
    assert torch.equal(none, block_logits(decoder))
    assert torch.equal(every, block_logits(decoder, adapter="drafter"))


def test_a_checkpoint_without_the_adapter_decodes_without_it(tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(FOLDER, bare, ignore=shutil.ignore_patterns("linear_spec_lora"))
    assert LinearSS.from_checkpoint(bare, device="cpu", backend="torch").model.adapters == {}


def test_rank_stabilised_adapters_scale_by_the_root_of_the_rank(tmp_path: Path) -> None:
    tensors = lora(0, "mlp.down_proj", 40, 40)
    folder = write_adapter(tmp_path, tensors, use_rslora=True)
    (product,) = Adapter.load(folder, CONFIG, torch.float32, CPU).products[0, "down"]
    assert product.scale == pytest.approx(6 / 3**0.5)


GOOD = lora(0, "mlp.down_proj", 40, 40)
HALF = dict(list(GOOD.items())[:1])


@pytest.mark.parametrize(
    ("tensors", "settings", "message"),
    [
        (lora(0, "mlp.down_proj", 41, 40), {}, "has the shape [3, 41], not [3, 40]"),
        (lora(0, "mlp.down_proj", 40, 44), {}, "has the shape [44, 3], not [40, 3]"),
        (lora(9, "mlp.down_proj", 40, 40), {}, "fits no module of the model"),
        (lora(0, "mlp.odd_proj", 40, 40), {}, "fits no module of the model"),
        (HALF, {}, "lora_B.weight` is missing"),
        (GOOD, {"r": 4}, "has the shape [3, 40], not [4, 40]"),
        (GOOD, {"r": None}, "r = None"),
        (GOOD, {"r": True}, "r = True"),
        (GOOD, {"r": 10**400}, "r = 1000"),
        (GOOD, {"lora_alpha": math.nan}, "lora_alpha = nan"),
        (GOOD, {"lora_alpha": math.inf}, "lora_alpha = inf"),
        (GOOD, {"lora_alpha": 10**400}, "lora_alpha = 1000"),
        (GOOD, {"use_rslora": "no"}, "use_rslora = 'no' is not supported"),
        (GOOD, {"bias": "all"}, "bias = 'all' is not supported"),
        (GOOD, {"use_dora": True}, "use_dora = True is not supported"),
        (GOOD, {"peft_type": "IA3"}, "describes no LoRA adapter"),
        (GOOD, {"lora_alpha": 0}, "lora_alpha = 0, so that the adapter would do nothing"),
        (GOOD, {"init_lora_weights": "pissa"}, "init_lora_weights = 'pissa' is not supported"),
        (GOOD, {"init_lora_weights": "pissa_niter_4"}, "'pissa_niter_4' is not supported"),
        (GOOD, {"init_lora_weights": "olora"}, "init_lora_weights = 'olora' is not supported"),
        (GOOD, {"init_lora_weights": "loftq"}, "init_lora_weights = 'loftq' is not supported"),
        (GOOD, {"alora_invocation_tokens": [5]}, "alora_invocation_tokens = [5] is not supported"),
        (GOOD, {"layer_replication": [[0, 2]]}, "layer_replication = [[0, 2]] is not supported"),
        (GOOD, {"lora_bias": True}, "lora_bias = True is not supported"),
        (GOOD, {"fan_in_fan_out": True}, "fan_in_fan_out = True is not supported"),
        (GOOD, {"rank_pattern": {"down_proj": 4}}, "rank_pattern = {'down_proj': 4} is not"),
        (GOOD, {"alpha_pattern": {"down_proj": 4}}, "alpha_pattern = {'down_proj': 4} is not"),
        (GOOD, {"modules_to_save": ["embed_tokens"]}, "modules_to_save = ['embed_tokens'] is not"),
        (GOOD, {"trainable_token_indices": [1]}, "trainable_token_indices = [1] is not supported"),
        (GOOD, {"target_parameters": ["x"]}, "target_parameters = ['x'] is not supported"),
        (GOOD, {"target_modules": ["o_proj"]}, "tensors for `encoder.layers.0.mlp.down_proj`"),
        (GOOD, {"exclude_modules": ["down_proj"]}, "exclude_modules = ['down_proj'], but"),
        (GOOD, {"layers_to_transform": [1]}, "layers_to_transform = [1], but there are tensors"),
        (GOOD, {"layers_to_transform": 1}, "layers_to_transform = 1, but there are tensors"),
    ],
)
def test_an_adapter_that_does_not_fit_is_an_error_that_names_the_tensor_or_setting(
    tensors: dict[str, torch.Tensor], settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = write_adapter(tmp_path, tensors, **settings)
    with pytest.raises(AdapterError) as caught:
        Adapter.load(folder, CONFIG, torch.float32, CPU)
    assert message in caught.value.message
    assert caught.value.hint


def test_an_adapter_of_another_model_is_an_error() -> None:
    with pytest.raises(AdapterError, match="made for this model"):
        LinearSS.from_checkpoint(
            FOLDER, adapter=CHECKPOINTS[0] / "linear_spec_lora", device="cpu", backend="torch"
        )


def test_an_adapter_that_is_not_there_or_not_used_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"adapter_config\.json is missing"):
        LinearSS.from_checkpoint(FOLDER, adapter=tmp_path, device="cpu", backend="torch")
    with pytest.raises(AdapterError, match="`ar` uses no adapter"):
        Ar.from_checkpoint(FOLDER, adapter=tmp_path, device="cpu", backend="torch")


def test_settings_that_ask_for_nothing_else_are_fine(tmp_path: Path) -> None:
    settings = {
        "task_type": "CAUSAL_LM", "base_model_name_or_path": "x", "lora_dropout": 0.1,
        "target_modules": ["down_proj", "o_proj"], "layers_to_transform": [0, 1],
        "init_lora_weights": True, "use_dora": False, "rank_pattern": {}, "modules_to_save": None,
        "alora_invocation_tokens": None, "layer_replication": None, "peft_version": "0.19",
        "something_new": None, "something_off": False,
    }  # fmt: skip
    adapter = Adapter.load(write_adapter(tmp_path, GOOD, **settings), CONFIG, torch.float32, CPU)
    assert set(adapter.products) == {(0, "down")}


def test_settings_that_nobody_knows_are_named_in_one_warning(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path, GOOD, gate="relu", warp=2)
    with pytest.warns(CheckpointWarning) as caught:
        Adapter.load(folder, CONFIG, torch.float32, CPU)
    (warning,) = caught
    assert f"{folder / 'adapter_config.json'}: not known and ignored: gate, warp" in str(
        warning.message
    )
