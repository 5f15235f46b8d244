"""The keys of config.json: what each may hold, and which of them do not touch the numbers.

Three kinds: keys that the backbone computes with are read in `config.py`; keys of `FIXED` may only
say what the backbone does anyway; keys of `HARMLESS` are of training or of other software. Any
other key is one that nobody here has looked at, and is named in a warning.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

READ = frozenset(
    {
        *("model_type", "hidden_size", "intermediate_size", "num_hidden_layers"),
        *("num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size", "rms_norm_eps"),
        *("max_position_embeddings", "rope_parameters", "rope_scaling", "rope_theta"),
        *("mask_token_id", "eos_token_id", "bos_token_id", "end_think_token_id", "block_size"),
        *("tie_word_embeddings", "dtype", "torch_dtype", "dlm_paradigm", "layer_types"),
        "quantization_config",
    }
)
"""Keys that `config.py` reads."""

OFF: tuple[Any, ...] = (None, False)
ONE: tuple[Any, ...] = (None, 1)
NONE: tuple[Any, ...] = (None,)
ZERO: tuple[Any, ...] = (None, 0)

FIXED: Mapping[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),
    # parts that the layers do not have
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    **dict.fromkeys(("qkv_bias", "attention_out_bias", "use_bias", "add_bias_linear"), OFF),
    **dict.fromkeys(("lm_head_bias", "use_qk_norm", "qk_norm", "qk_layernorm"), OFF),
    **dict.fromkeys(("parallel_attn", "use_parallel_residual", "add_cross_attention"), OFF),
    "is_encoder_decoder": OFF,
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), ZERO),
    # which rows a row sees
    "sliding_window": NONE,
    "use_sliding_window": OFF,
    "attention_chunk_size": NONE,
    # rotary positions
    "partial_rotary_factor": ONE,
    **dict.fromkeys(("rope_interleave", "rope_interleaved"), OFF),
    **dict.fromkeys(("no_rope_layers", "no_rope_layer_interval"), (None, [])),
    # factors and limits on what flows
    **dict.fromkeys(("attn_logit_softcapping", "final_logit_softcapping"), NONE),
    **dict.fromkeys(("attention_multiplier", "query_pre_attn_scalar"), NONE),
    **dict.fromkeys(("logit_scale", "logits_scaling", "embedding_multiplier"), ONE),
    **dict.fromkeys(("residual_multiplier", "lm_head_multiplier", "scale_emb"), ONE),
    "attn_temperature_tuning": OFF,
    # weights in another form
    **dict.fromkeys(("quantization", "compression_config"), NONE),
    "pruned_heads": (None, {}),
    # how the model was trained to predict
    "dlm_type": (None, "llada"),
    "dlm_arch": (None, "encoder"),
    **dict.fromkeys(("num_ar_layers", "num_diffusion_layers"), ZERO),
    # the settings of the text model stand at the root in a released config
    "text_config": NONE,
}
"""What keys may hold; the first value is what a message offers."""

REASONS: Mapping[str, str] = {
    "sliding_window": "the backbone attends to the whole context: sliding_window must be null",
    "quantization": "quantised weights are read where quantization_config describes them",
    "compression_config": "quantised weights are read where quantization_config describes them",
    "dlm_type": "masked rows predict the token at their own position, which is `llada`",
    "text_config": "the settings of the text model stand at the root of a released config",
}
"""Remedies where the value that is wanted does not say enough."""

HARMLESS = frozenset(
    {
        *("architectures", "auto_map", "transformers_version", "use_cache", "initializer_range"),
        *("attn_implementation", "attention_dropout", "hidden_dropout", "pad_token_id"),
        *("unk_token_id", "sep_token_id", "cls_token_id", "decoder_start_token_id"),
        *("return_dict", "output_attentions", "output_hidden_states", "is_decoder", "torchscript"),
        *("use_bfloat16", "tie_encoder_decoder", "chunk_size_feed_forward", "problem_type"),
        *("id2label", "label2id", "finetuning_task", "task_specific_params", "tokenizer_class"),
        *("pretraining_tp", "max_window_layers", "prefix", "num_labels", "name_or_path"),
        *("classifier_dropout", "head_dropout", "embd_pdrop", "resid_pdrop"),
        # training of the released models
        *("adaptive_mask_rate", "ada_perm_ratio_global", "ada_perm_ratio_per_block"),
        *("complementary_mask", "dp_varying_mask_ratio", "multi_sampling", "prefix_ratio"),
        *("random_length_prob", "tok_mask_half_life_ratio", "enable_self_spec", "diffusion_lm"),
        # how long and how to sample when nobody says so: the options of `generate` do
        *("max_length", "min_length", "do_sample", "num_beams", "temperature", "top_k", "top_p"),
        *("typical_p", "early_stopping", "num_return_sequences", "output_scores"),
        *("return_dict_in_generate", "num_beam_groups", "diversity_penalty"),
    }
)
HARMLESS_FORM = re.compile(r"_.*|.*loss.*|.*_quant_state|unsloth_.*")
"""Keys by form: private ones of the library that wrote the file, and weights of losses."""

VISION = frozenset(
    {
        *("vision_config", "spatial_merge_size", "projector_hidden_act", "vision_feature_layer"),
        *("multimodal_projector_bias", "image_token_id", "image_token_index"),
    }
)
"""Keys of the vision part, which `vision/config.py` reads when a picture comes."""

ROPE = frozenset(
    {
        *("rope_type", "type", "rope_theta", "factor", "original_max_position_embeddings"),
        *("max_position_embeddings", "beta_fast", "beta_slow", "mscale", "mscale_all_dim"),
        *("attention_factor", "truncate", "llama_4_scaling_beta", "partial_rotary_factor"),
    }
)
"""Keys inside `rope_parameters` and `rope_scaling`."""


def is_switched_off(value: object) -> bool:
    """Whether a value says that there is nothing: such a key needs no warning."""
    return value is None or value is False or (isinstance(value, list | dict) and not value)


def unknown_keys(data: Mapping[str, Any], *, vision: bool) -> list[str]:
    """Return the keys that are neither read, nor fixed, nor known to do no harm."""
    return [
        key
        for key, value in data.items()
        if key not in READ
        and key not in FIXED
        and key not in HARMLESS
        and not (vision and key in VISION)
        and not HARMLESS_FORM.fullmatch(key)
        and not is_switched_off(value)
    ]
