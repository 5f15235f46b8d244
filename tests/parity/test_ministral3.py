"""The backbone's logits are those of transformers' Ministral3ForCausalLM.

transformers computes rotary angles, norms and softmax in float32 whatever the dtype. An angle near
position 20000 is then off by a thousandth, so the reference gets its tables in float64, from
frequencies that are first held against its own; what is left of float32 sets the tolerance.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from nldc.runtime.cache.kv_cache import KVCache
from nldc.runtime.checkpoint.rope_frequencies import attention_factor, inverse_frequencies
from nldc.runtime.decoder import Decoder
from nldc.runtime.rows.layout import Layout
from nldc.runtime.rows.pattern import Pattern, RowFacts
from nldc.runtime.step.batch import Batch
from nldc.runtime.step.member import Member

pytestmark = pytest.mark.parity
transformers = pytest.importorskip("transformers", minversion="5.0")

VOCABULARY = 97
TOLERANCE = 5e-6
"""Of the largest logit."""

DEFAULT = {"rope_type": "default", "rope_theta": 10000.0}
RELEASED = {
    "rope_type": "yarn",
    "rope_theta": 1000000.0,
    "factor": 16.0,
    "original_max_position_embeddings": 16384,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.1,
}
SHORT = RELEASED | {"original_max_position_embeddings": 16, "llama_4_scaling_beta": 0.3}
MIDDLE = SHORT | {"original_max_position_embeddings": 1024, "rope_theta": 10000.0, "factor": 4.0}
ROPES = {
    "default": DEFAULT,
    "default_with_temperature": DEFAULT
    | {"original_max_position_embeddings": 8, "llama_4_scaling_beta": 0.2},
    "released": RELEASED,
    "short_context": SHORT,
    "middle_context": MIDDLE,
    "other_betas": MIDDLE | {"beta_fast": 16.0, "beta_slow": 2.0},
    "mscale_that_matters": MIDDLE | {"mscale": 1.0, "mscale_all_dim": 0.5},
    "no_mscale": {k: v for k, v in MIDDLE.items() if not k.startswith("mscale")},
    "given_attention_factor": MIDDLE | {"attention_factor": 1.3},
    "a_factor_below_one": MIDDLE | {"factor": 0.5, "mscale": 1.0, "mscale_all_dim": 0.5},
    "not_truncated": MIDDLE | {"truncate": False},
    "base_of_3b": RELEASED | {"factor": 0.25},
    "linear": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
}


def _causal(q: RowFacts, k: RowFacts) -> Tensor:
    return k.position <= q.position


def _everything(_q: RowFacts, _k: RowFacts) -> bool:
    return True


CAUSAL = Pattern("causal", _causal, sees_prefix=True)
EVERYTHING = Pattern("everything", _everything, sees_prefix=True)


@dataclass
class Pair:
    """A random model, twice."""

    ours: Decoder
    theirs: Any
    batch: Batch

    def forward(self, tokens: Tensor, layout: Layout, pattern: Pattern = CAUSAL) -> Tensor:
        with torch.inference_mode():
            return self.batch.head(self.batch.forward(tokens, layout, pattern)).values

    def reference(self, tokens: Tensor, positions: Tensor, **options: Any) -> Tensor:
        with torch.inference_mode():
            found: Tensor = self.theirs(tokens, position_ids=positions, **options).logits
        return found


def make_pair(
    folder: Path,
    rope: dict[str, Any],
    *,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 64,
    hidden: int = 48,
    layers: int = 2,
    capacity: int = 256,
    seed: int = 0,
) -> Pair:
    """Return a random model in transformers and, through a checkpoint on disk, in the runtime."""
    from transformers import Ministral3Config, Ministral3ForCausalLM

    shared = {
        "vocab_size": VOCABULARY,
        "hidden_size": hidden,
        "intermediate_size": 80,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "max_position_embeddings": 262144,
        "rope_parameters": rope,
        "eos_token_id": 2,
    }
    config = Ministral3Config(**shared, pad_token_id=None, attn_implementation="sdpa")
    # transformers multiplies by the temperature whatever the type of rope
    config.rope_parameters.setdefault("llama_4_scaling_beta", 0.0)
    config.rope_parameters.setdefault("original_max_position_embeddings", 1)
    torch.manual_seed(seed)
    theirs = Ministral3ForCausalLM(config).double().eval()
    for name, parameter in theirs.named_parameters():
        scale = 0.3 if "norm" in name else 1.5 * parameter.shape[-1] ** -0.5
        parameter.data.normal_(1.0 if "norm" in name else 0.0, scale)
    renamed = {
        name.replace("model.", "encoder.", 1).replace("lm_head", "diffusion_head"): values.clone()
        for name, values in theirs.state_dict().items()
    }
    save_file(renamed, folder / "model.safetensors")
    ours_too = {"model_type": "nemotron_labs_diffusion", "mask_token_id": 3}
    (folder / "config.json").write_text(json.dumps(shared | ours_too))
    ours = Decoder.from_checkpoint(folder, dtype="float64", device="cpu", backend="torch")
    backbone = ours.model.backbone
    check_rope_and_widen(theirs.model.rotary_emb, ours)
    cache = KVCache(ours.config, backbone.dtype, backbone.device)
    batch = Batch(ours.model, cache, [Member(cache.acquire(capacity), 0)])
    return Pair(ours, theirs, batch)


def check_rope_and_widen(rotary: Any, ours: Decoder) -> None:
    """Hold frequencies and factor against transformers', then let it use them in float64."""
    rope, dim = ours.config.rope, ours.config.head_dim
    frequencies = inverse_frequencies(rope, dim)
    torch.testing.assert_close(rotary.inv_freq.double(), frequencies, rtol=2e-6, atol=0)
    assert rotary.attention_scaling == pytest.approx(attention_factor(rope), rel=1e-6)

    def tables(_x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        angles = position_ids.double().unsqueeze(-1) * frequencies
        both = torch.cat((angles, angles), -1)
        scale = rotary.attention_scaling
        return both.cos() * scale, both.sin() * scale

    rotary.forward = tables


def random_tokens(count: int) -> Tensor:
    return torch.randint(0, VOCABULARY, (1, count), generator=torch.Generator().manual_seed(1))


def assert_same(found: Tensor, wanted: Tensor) -> None:
    assert found.shape == wanted.shape
    error = (found - wanted).abs().max() / wanted.abs().max()
    assert error < TOLERANCE, f"off by {error:.1e} of the largest logit"


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("rope", ROPES.values(), ids=ROPES.keys())
def test_every_kind_of_rope_gives_the_same_logits(tmp_path: Path, rope: dict[str, Any]) -> None:
    pair = make_pair(tmp_path, rope)
    tokens = random_tokens(70)
    wanted = pair.reference(tokens, torch.arange(70).unsqueeze(0))
    assert_same(pair.forward(tokens, Layout.causal(70)), wanted)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "hidden"),
    [(4, 4, 64, 48), (4, 1, 64, 48), (6, 2, 128, 40), (3, 1, 64, 192), (8, 2, 96, 36)],
)
def test_every_sharing_of_key_value_heads_gives_the_same_logits(
    tmp_path: Path, heads: int, kv_heads: int, head_dim: int, hidden: int
) -> None:
    pair = make_pair(
        tmp_path, MIDDLE, heads=heads, kv_heads=kv_heads, head_dim=head_dim, hidden=hidden
    )
    tokens = random_tokens(33)
    wanted = pair.reference(tokens, torch.arange(33).unsqueeze(0))
    assert_same(pair.forward(tokens, Layout.causal(33)), wanted)


@pytest.mark.parametrize("start", [0, 16383, 20000, 50000])
def test_rows_far_behind_the_original_context_have_the_same_logits(
    tmp_path: Path, start: int
) -> None:
    pair = make_pair(tmp_path, RELEASED, heads=6, kv_heads=2, head_dim=128)
    tokens, offsets = random_tokens(40), range(start, start + 40)
    layout = Layout.of([0] * 40, [0] * 40, range(40), range(40), offsets, [True] * 40, 0)
    wanted = pair.reference(tokens, torch.tensor([list(offsets)]))
    assert_same(pair.forward(tokens, layout), wanted)


def test_a_bidirectional_block_over_a_cached_prefix_has_the_same_logits(tmp_path: Path) -> None:
    pair = make_pair(tmp_path, SHORT)
    tokens = random_tokens(29)
    total = torch.arange(29)
    sees = (total[:, None] >= total) | (total[:, None] >= 21)
    bias = torch.zeros(1, 1, 29, 29, dtype=torch.float64).masked_fill_(~sees, -torch.inf)
    wanted = pair.reference(tokens, total.unsqueeze(0), attention_mask=bias)
    assert_same(pair.forward(tokens[:, :21], Layout.causal(21)), wanted[:, :21])
    block = Layout.causal(8, append=False, predicts_next=False)
    assert_same(pair.forward(tokens[:, 21:], block, EVERYTHING), wanted[:, 21:])
    assert_same(pair.forward(tokens[:, 21:], block, EVERYTHING), wanted[:, 21:])


def test_rows_that_share_a_position_have_the_same_logits(tmp_path: Path) -> None:
    pair = make_pair(tmp_path, SHORT)
    tokens = random_tokens(30)
    offsets = [*range(10), *range(10, 20), *range(10, 20)]
    group = [0] * 10 + [1] * 10 + [2] * 10
    groups = torch.tensor(group)
    position = torch.tensor(offsets)
    same = groups[:, None] == groups
    sees = (position[:, None] >= position) & (same | (groups == 0))
    bias = torch.zeros(1, 1, 30, 30, dtype=torch.float64).masked_fill_(~sees, -torch.inf)
    wanted = pair.reference(tokens, position.unsqueeze(0), attention_mask=bias)
    tree = Pattern(
        "tree",
        lambda q, k: (k.position <= q.position) & ((k.group == q.group) | (k.group == 0)),
        sees_prefix=True,
    )
    layout = Layout.of([0] * 30, group, range(30), range(30), offsets, [True] * 30, 0)
    assert_same(pair.forward(tokens, layout, tree), wanted)


def test_a_prompt_longer_than_the_original_context_has_the_same_logits(tmp_path: Path) -> None:
    length, chunk = 16700, 1670
    pair = make_pair(
        tmp_path, RELEASED, heads=2, kv_heads=1, hidden=32, layers=1, capacity=length + chunk
    )
    tokens = random_tokens(length)
    cache = transformers.DynamicCache(config=pair.theirs.config)
    for start in range(0, length, chunk):
        part = tokens[:, start : start + chunk]
        positions = torch.arange(start, start + chunk).unsqueeze(0)
        # transformers is about to rename the argument
        name = (
            "cache" if "cache" in signature(pair.theirs.forward).parameters else "past_key_values"
        )
        wanted = pair.reference(part, positions, use_cache=True, **{name: cache})
        found = pair.forward(part, Layout.causal(chunk))
        assert_same(found, wanted)
