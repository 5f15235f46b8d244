"""The sizes of a model that is trained from scratch, and the config.json that says them."""

from dataclasses import dataclass

from nldc.runtime.checkpoint.config import ModelConfig, parse_config
from nldc.runtime.train.tokenizer import BOS, EOS, MASK


@dataclass(frozen=True)
class Geometry:
    """The sizes of a checkpoint, as its config.json names them."""

    vocab_size: int = 1024
    hidden_size: int = 256
    intermediate_size: int = 640
    num_hidden_layers: int = 5
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 64
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    max_position_embeddings: int = 4096


def config_file(geometry: Geometry, block_size: int) -> dict[str, object]:
    """Return config.json as plain data.

    The weights are stored in 16 bits and computed with in 32: a model this small takes no time.
    """
    g = geometry
    return {
        "architectures": ["NemotronLabsDiffusionModel"],
        "model_type": "nemotron_labs_diffusion",
        "hidden_size": g.hidden_size,
        "intermediate_size": g.intermediate_size,
        "num_hidden_layers": g.num_hidden_layers,
        "num_attention_heads": g.num_attention_heads,
        "num_key_value_heads": g.num_key_value_heads,
        "head_dim": g.head_dim,
        "vocab_size": g.vocab_size,
        "rms_norm_eps": g.rms_norm_eps,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "mask_token_id": MASK,
        "block_size": block_size,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "tie_word_embeddings": False,
        "max_position_embeddings": g.max_position_embeddings,
        "rope_parameters": {"rope_type": "default", "rope_theta": g.rope_theta},
        "dlm_paradigm": "bidirectional",
        "torch_dtype": "float32",
    }


def model_config(geometry: Geometry, block_size: int) -> ModelConfig:
    """Return the config that the exported checkpoint will have."""
    return parse_config(config_file(geometry, block_size))
