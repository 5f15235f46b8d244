"""config.json: every number from the file, and a clear error for what cannot be computed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from handwritten import CHECKPOINTS

from nldc.runtime.checkpoint.config import ModelConfig, parse_config
from nldc.runtime.checkpoint.config_keys import FIXED, READ, ROPE
from nldc.runtime.checkpoint.quantization import Kind
from nldc.runtime.checkpoint.rope_frequencies import inverse_frequencies
from nldc.runtime.errors import CheckpointError, CheckpointWarning

RELEASED: dict[str, Any] = json.loads((CHECKPOINTS[3] / "config.json").read_text())


def changed(**settings: Any) -> dict[str, Any]:
    return {**RELEASED, **settings}


def _quantised(
    weights: dict[str, Any] | None = None, inputs: dict[str, Any] | None = None, **settings: Any
) -> dict[str, Any]:
    """Return a quantization_config that is read, but for what is given."""
    group = {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int", **(weights or {})}}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {"group_0": {**group, "input_activations": inputs}},
        **settings,
    }


def test_a_config_says_whether_weights_are_quantised() -> None:
    assert parse_config(changed(quantization_config=_quantised())).quantised
    assert not parse_config(changed(quantization_config=None)).quantised


def _floats(
    weights: dict[str, Any] | None = None, inputs: dict[str, Any] | None = None, **settings: Any
) -> dict[str, Any]:
    """Return the same of floats of 8 bits."""
    weights = {"num_bits": 8, "type": "float", "strategy": "channel", **(weights or {})}
    return _quantised(weights, inputs, **{"format": "float-quantized", **settings})


DYNAMIC = {"num_bits": 8, "type": "float", "dynamic": True, "strategy": "token"}


def test_a_config_says_of_which_kinds_quantised_weights_are() -> None:
    def kinds(given: dict[str, Any]) -> list[Kind]:
        return sorted(parse_config(changed(quantization_config=given)).quantised)

    assert kinds(_quantised(weights={"symmetric": False})) == [Kind(4, symmetric=False)]
    floats = Kind(8, symmetric=True, floating=True)
    for given in (_floats(), _floats(format="naive-quantized"), _floats({"strategy": "tensor"})):
        assert kinds(given) == [floats]
    assert kinds(_floats(inputs=DYNAMIC)) == [floats._replace(activations=True)]
    both = _quantised(format="mixed-precision")
    both["config_groups"]["group_1"] = _floats()["config_groups"]["group_0"]
    assert kinds(both) == [Kind(4, symmetric=True), floats]


def test_every_number_is_read_from_the_file() -> None:
    config = parse_config(
        changed(head_dim=10, eos_token_id=[2, 7], block_size=8, max_position_embeddings=99)
    )
    assert (config.hidden_size, config.intermediate_size, config.num_layers) == (48, 40, 3)
    assert (config.num_heads, config.num_kv_heads, config.head_dim) == (2, 1, 10)
    assert (config.vocab_size, config.context, config.block_size) == (61, 99, 8)
    assert (config.mask_token_id, config.eos_token_ids, config.bos_token_id) == (41, (2, 7), 1)
    assert config.rms_norm_eps == 1e-5
    rope = config.rope
    assert (rope.rope_type, rope.theta, rope.factor) == ("yarn", 1e6, 16.0)
    assert (rope.original_context, rope.beta_fast, rope.beta_slow) == (16384, 32.0, 1.0)
    assert (rope.mscale, rope.mscale_all_dim, rope.llama_4_beta) == (1.0, 1.0, 0.1)


def test_one_eos_id_is_a_list_of_one_and_none_is_an_empty_list() -> None:
    assert parse_config(changed(eos_token_id=5)).eos_token_ids == (5,)
    assert parse_config(changed(eos_token_id=None)).eos_token_ids == ()


def test_rope_settings_of_older_configs_are_read() -> None:
    data = changed(rope_theta=5000.0, rope_scaling=None)
    del data["rope_parameters"]
    assert parse_config(data).rope.theta == 5000.0
    assert parse_config(data).rope.rope_type == "default"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_size": None}, "c: `hidden_size` is missing"),
        ({"hidden_size": "48"}, "c: hidden_size = '48'"),
        ({"num_hidden_layers": 0}, "c: num_hidden_layers = 0"),
        ({"num_hidden_layers": True}, "c: num_hidden_layers = True"),
        ({"model_type": "llama"}, "c: model_type is `llama`"),
        ({"hidden_act": "gelu"}, "c: hidden_act = 'gelu' is not supported"),
        ({"attention_bias": True}, "c: attention_bias = True is not supported"),
        ({"mlp_bias": True}, "c: mlp_bias = True is not supported"),
        ({"sliding_window": 128}, "c: sliding_window = 128 is not supported"),
        (
            {"quantization_config": {}},
            "c: quantization_config: quant_method None is not supported",
        ),
        ({"num_key_value_heads": 3}, "c: 2 attention heads cannot share 3 key-value heads evenly"),
        ({"head_dim": 9}, "c: head_dim 9 is odd"),
        ({"mask_token_id": 61}, "c: mask_token_id 61 is not in the vocabulary of 61"),
        ({"eos_token_id": [2, 700]}, "c: eos_token_id 700 is not in the vocabulary of 61"),
        ({"eos_token_id": "</s>"}, "c: eos_token_id = '</s>'"),
        ({"rope_parameters": []}, "c: rope_parameters is no object"),
        (
            {"rope_parameters": {"rope_type": "longrope", "rope_theta": 1.0}},
            "c: rope_parameters: rope_type `longrope` is not supported",
        ),
        (
            {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}},
            "c: rope_parameters: `factor` is missing",
        ),
        ({"rope_parameters": {"rope_theta": -1}}, "c: rope_parameters: rope_theta = -1"),
        ({"rope_parameters": {"rope_theta": 1}}, "c: rope_parameters: rope_theta = 1.0"),
        ({"rope_parameters": {"rope_theta": math.inf}}, "c: rope_parameters: rope_theta = inf"),
        ({"rms_norm_eps": 10**400}, f"c: rms_norm_eps = {10**400}"),
        ({"tie_word_embeddings": "no"}, "c: tie_word_embeddings = 'no'"),
        (
            {"rope_parameters": None, "rope_theta": 1e4, "rope_scaling": {"type": "linear"}},
            "c: rope_parameters: rope_type `linear` is not supported",
        ),
    ],
)
def test_a_setting_that_cannot_be_used_is_named_with_its_value(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError) as caught:
        parse_config(changed(**settings), "c")
    assert caught.value.message == message
    assert caught.value.hint


def test_a_missing_folder_file_and_broken_json_are_told_apart(tmp_path: Path) -> None:
    for folder, content, message in (
        (tmp_path / "none", None, "is not a folder"),
        (tmp_path, None, "config.json is missing"),
        (tmp_path, "{", "cannot be read as JSON"),
        (tmp_path, "[]", "holds no JSON object"),
        (tmp_path, "[" * 100_000, "cannot be read as JSON: it is nested too deeply"),
    ):
        if content is not None:
            (folder / "config.json").write_text(content)
        with pytest.raises(CheckpointError, match=message):
            ModelConfig.load(folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_hidden_layers": 10**12}, "c: num_hidden_layers = 1000000000000"),
        ({"hidden_size": 1e300}, "c: hidden_size = 1e+300"),
        ({"hidden_size": 48.5}, "c: hidden_size = 48.5"),
        ({"head_dim": "128"}, "c: head_dim = '128'"),
        ({"head_dim": -16}, "c: head_dim = -16"),
        ({"num_key_value_heads": []}, "c: num_key_value_heads = []"),
        ({"rms_norm_eps": "1e-5"}, "c: rms_norm_eps = '1e-5'"),
        ({"rms_norm_eps": math.nan}, "c: rms_norm_eps = nan"),
        ({"block_size": -1}, "c: block_size = -1"),
        ({"max_position_embeddings": "4096"}, "c: max_position_embeddings = '4096'"),
        ({"dtype": "int8"}, "c: dtype = 'int8' is not supported"),
        ({"dtype": 16}, "c: dtype = 16 is not supported"),
        ({"torch_dtype": "float8_e4m3fn"}, "c: torch_dtype = 'float8_e4m3fn' is not supported"),
        ({"dtype": "float16"}, "c: dtype is float16 and torch_dtype float32"),
        ({"dlm_paradigm": "causal"}, "c: dlm_paradigm = 'causal'"),
        ({"dlm_type": "dream"}, "c: dlm_type = 'dream' is not supported"),
        ({"num_ar_layers": 2}, "c: num_ar_layers = 2 is not supported"),
        (
            {"quantization_config": {"quant_method": "gptq", "bits": 4}},
            "c: quantization_config: quant_method 'gptq' is not supported",
        ),
        (
            {"quantization_config": _quantised(format="int-quantized")},
            "c: quantization_config: format 'int-quantized' is not supported",
        ),
        (
            {"quantization_config": _quantised(kv_cache_scheme={"num_bits": 8})},
            "c: quantization_config: kv_cache_scheme is not supported",
        ),
        (
            {"quantization_config": _quantised(weights={"num_bits": 3})},
            "c: quantization_config.config_groups.group_0.weights: num_bits = 3 is not supported",
        ),
        (
            {"quantization_config": _quantised(weights={"actorder": "group"})},
            (
                "c: quantization_config.config_groups.group_0.weights: "
                "actorder = 'group' is not supported"
            ),
        ),
        (
            {"quantization_config": _quantised(inputs={"num_bits": 8})},
            "c: quantization_config.config_groups.group_0: input_activations is not supported",
        ),
        (
            {"quantization_config": _quantised(inputs=DYNAMIC)},
            "c: quantization_config.config_groups.group_0: input_activations is not supported",
        ),
        *(
            (
                {"quantization_config": _floats(inputs={**DYNAMIC, **static})},
                "c: quantization_config.config_groups.group_0: input_activations is not supported",
            )
            for static in ({"dynamic": False}, {"dynamic": "local"}, {"type": "int"})
        ),
        (
            {"quantization_config": _floats(format="pack-quantized")},
            (
                "c: quantization_config.config_groups.group_0.weights: "
                "type = 'float' is not supported in format 'pack-quantized'"
            ),
        ),
        (
            {"quantization_config": _quantised(format="float-quantized")},
            (
                "c: quantization_config.config_groups.group_0.weights: "
                "type = 'int' is not supported in format 'float-quantized'"
            ),
        ),
        *(
            (
                {"quantization_config": _floats({key: value})},
                (
                    "c: quantization_config.config_groups.group_0.weights: "
                    f"{key} = {value!r} is not supported"
                ),
            )
            for key, value in (
                ("num_bits", 4),
                ("symmetric", False),
                ("strategy", "block"),
                ("block_structure", [128, 128]),
            )
        ),
        ({"quantization": {"bits": 4}}, "c: quantization = {'bits': 4} is not supported"),
        ({"use_qk_norm": True}, "c: use_qk_norm = True is not supported"),
        ({"final_logit_softcapping": 30.0}, "c: final_logit_softcapping = 30.0 is not supported"),
        ({"num_local_experts": 8}, "c: num_local_experts = 8 is not supported"),
        ({"partial_rotary_factor": 0.5}, "c: partial_rotary_factor = 0.5 is not supported"),
        (
            {"text_config": {"hidden_size": 1}},
            "c: text_config = {'hidden_size': 1} is not supported",
        ),
        (
            {"layer_types": ["full_attention", "sliding_attention", "full_attention"]},
            "c: layer_types[1] = 'sliding_attention' is not supported",
        ),
        ({"layer_types": ["full_attention"]}, "c: layer_types has 1 names for 3 layers"),
        ({"layer_types": "full_attention"}, "c: layer_types = 'full_attention'"),
        (
            {"rope_scaling": {"rope_type": "default", "rope_theta": 1e4}},
            "c: rope_parameters and rope_scaling differ",
        ),
        ({"rope_theta": 5.0}, "c: rope_parameters: rope_theta is 1000000.0, and 5.0 at the root"),
        (
            {"rope_parameters": {"full_attention": {"rope_theta": 1e4}}},
            "c: rope_parameters.full_attention is an object",
        ),
        (
            {"rope_parameters": {"rope_type": "yarn", "type": "linear"}},
            "c: rope_parameters: rope_type is `yarn` and type `linear`",
        ),
        (
            {"rope_parameters": RELEASED["rope_parameters"] | {"beta_fast": 0.5}},
            "c: rope_parameters: beta_fast = 0.5",
        ),
        ({"rope_parameters": {}}, "c: rope_parameters: `rope_theta` is missing"),
    ],
)
def test_a_value_that_is_odd_or_contradicts_another_is_one_error_with_a_remedy(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError) as caught:
        parse_config(changed(**settings), "c")
    assert caught.value.message.startswith(message)
    assert caught.value.hint


ODD: list[Any] = [
    "7",
    "",
    -3,
    0,
    10**30,
    2.5,
    math.inf,
    math.nan,
    True,
    None,
    [],
    [1],
    {},
    {"a": 1},
]


def read_or_refused(data: dict[str, Any]) -> tuple[ModelConfig | None, str]:
    """Return the config, or None and the message of the error that has a hint."""
    try:
        return parse_config(data, "c"), ""
    except CheckpointError as problem:
        return None, problem.message if problem.hint else ""


@pytest.mark.parametrize("key", sorted(READ | FIXED.keys()))
def test_any_value_of_any_key_is_read_or_refused_by_name(key: str) -> None:
    for value in ODD:
        config, message = read_or_refused(changed(**{key: value}))
        assert message.startswith("c: ") if config is None else key not in config.unknown


@pytest.mark.parametrize("key", sorted(ROPE))
def test_any_value_of_any_rotary_setting_is_read_or_refused_by_name(key: str) -> None:
    for value in ODD:
        data = changed(rope_parameters={**RELEASED["rope_parameters"], key: value})
        config, message = read_or_refused(data)
        if config is None:
            assert message.startswith("c: rope_parameters")
        else:
            assert torch.isfinite(inverse_frequencies(config.rope, 16)).all()


def test_whole_numbers_that_are_written_as_decimals_are_whole_numbers() -> None:
    rope = {**RELEASED["rope_parameters"], "original_max_position_embeddings": 16384.0}
    config = parse_config(changed(rope_parameters=rope, hidden_size=48.0))
    assert (config.rope.original_context, config.hidden_size) == (16384, 48)


def test_linear_scaling_is_read_with_its_factor() -> None:
    data = changed(rope_theta=5000.0, rope_scaling={"type": "linear", "factor": 4.0})
    del data["rope_parameters"]
    rope = parse_config(data).rope
    assert (rope.rope_type, rope.theta, rope.factor) == ("linear", 5000.0, 4.0)


@pytest.mark.parametrize("spelling", ["bfloat16", "torch.bfloat16"])
@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_the_dtype_is_read_in_either_spelling(key: str, spelling: str) -> None:
    data = {name: value for name, value in RELEASED.items() if name != "torch_dtype"}
    assert parse_config({**data, key: spelling}).dtype == "bfloat16"
    assert parse_config({**data, key: "auto"}).dtype is None
    assert parse_config(data).dtype is None


def test_keys_that_nobody_knows_are_named_in_one_warning(tmp_path: Path) -> None:
    data = changed(
        gate_type="relu2",
        rope_parameters={**RELEASED["rope_parameters"], "short_factor": [1.0]},
        switched_off=False,
        absent=None,
        _private="x",
        some_loss_weight=0.5,
    )
    (tmp_path / "config.json").write_text(json.dumps(data))
    with pytest.warns(CheckpointWarning) as caught:
        ModelConfig.load(tmp_path)
    (warning,) = caught
    text = str(warning.message)
    assert text.startswith(f"{tmp_path / 'config.json'}: gate_type, rope_parameters.short_factor ")
    assert not any(name in text for name in ("switched_off", "absent", "_private", "some_loss"))


def test_many_unknown_keys_are_counted_and_control_characters_are_escaped(tmp_path: Path) -> None:
    data = changed(**{"\x1b[31m": 1, **{f"k{n}": 1 for n in range(20)}})
    (tmp_path / "config.json").write_text(json.dumps(data))
    with pytest.warns(CheckpointWarning, match="and 13 more") as caught:
        ModelConfig.load(tmp_path)
    assert "\x1b" not in str(caught[0].message)
