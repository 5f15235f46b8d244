"""The backbone that decodes computes what the plain one says, whatever the config and the rows."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from handwritten import BIDIRECTIONAL, CAUSAL, QUADRATIC, block_layout, quadratic_layout
from random_model import random_checkpoint
from torch import Tensor

from nldc.runtime.cache.kv_cache import KVCache, Places
from nldc.runtime.checkpoint.adapter import Adapter, LowRank
from nldc.runtime.checkpoint.config import ModelConfig
from nldc.runtime.checkpoint.weights import load_weights
from nldc.runtime.model.backbone import Backbone
from nldc.runtime.model.backend import through_layers
from nldc.runtime.model.torch_backend import TorchBackend
from nldc.runtime.reference.attention import Sight, attend, causal, over
from nldc.runtime.reference.backbone import PlainBackbone
from nldc.runtime.rows.layout import Layout
from nldc.runtime.rows.pattern import Pattern, RowFacts, visible
from nldc.runtime.rows.plan import Plan

CPU = torch.device("cpu")
WIDE = torch.float64


def _window(q: RowFacts, k: RowFacts) -> Tensor:
    return (k.position <= q.position) & (k.position > q.position - 5) & (q.row != 2)


FORWARDS: dict[str, tuple[Layout, Pattern]] = {
    "one row": (Layout.causal(1), CAUSAL),
    "causal": (Layout.causal(6), CAUSAL),
    "bidirectional": (block_layout(5), BIDIRECTIONAL),
    "blocks of masks": (quadratic_layout(3), QUADRATIC),
    "window, one row blind": (Layout.causal(6), Pattern("window", _window)),
}


def settings(seed: int) -> dict[str, Any]:
    """Draw the settings of a config: shared keys, rope of all kinds, a tied head or not."""
    choose = Random(seed).choice
    kv_heads = choose((1, 2, 3))
    yarn = {
        "rope_type": "yarn", "rope_theta": choose((1e4, 1e6)), "factor": choose((4.0, 16.0)),
        "original_max_position_embeddings": choose((8, 64)), "truncate": choose((True, False)),
        **choose(({"mscale": 1.0, "mscale_all_dim": 1.0}, {"mscale": 0.7, "mscale_all_dim": 0.3},
                  {"attention_factor": 0.8}, {})),
    }  # fmt: skip
    rope = choose(
        (
            {"rope_type": "default", "rope_theta": 1e4},
            {"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0},
            yarn,
            yarn,
        )
    )
    beta = choose((0.0, 0.4))
    if beta:
        rope = {"original_max_position_embeddings": 8, **rope, "llama_4_scaling_beta": beta}
    return {
        "hidden_size": choose((16, 24, 40)),
        "intermediate_size": choose((20, 64)),
        "num_hidden_layers": choose((1, 2, 3)),
        "num_attention_heads": kv_heads * choose((1, 2, 4)),
        "num_key_value_heads": kv_heads,
        "head_dim": choose((4, 10, 16)),
        "rms_norm_eps": choose((1e-6, 1e-2)),
        "tie_word_embeddings": choose((True, False)),
        "rope_parameters": rope,
    }


def drawn_adapter(config: ModelConfig, seed: int) -> Adapter:
    """Draw low-rank products of some of the modules of some layers."""
    random, generator = Random(seed), torch.Generator().manual_seed(seed)
    query, key = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    hidden, mlp = config.hidden_size, config.intermediate_size
    places = {
        "qkv": (query, query + key, hidden),  # the keys alone
        "output": (0, hidden, query),
        "gate": (0, mlp, hidden),
        "up": (0, mlp, hidden),
        "down": (0, hidden, mlp),
    }
    products = {}
    for layer in range(config.num_layers):
        for module in random.sample(sorted(places), 3):
            start, stop, inputs = places[module]
            down = torch.randn(3, inputs, generator=generator).to(WIDE) / 4
            up = torch.randn(stop - start, 3, generator=generator).to(WIDE) / 4
            products[layer, module] = (LowRank(start, stop, down, up, 1.5),)
    return Adapter(products)


class Decoding:
    """The backbone that decodes, and two sequences of one prefix length in its cache."""

    def __init__(self, folder: Path, rows: int) -> None:
        config = ModelConfig.load(folder)
        backbone = Backbone(config, load_weights(folder, config, WIDE, CPU), WIDE, CPU)
        self.backend = TorchBackend(backbone)
        self.cache = KVCache(config, WIDE, CPU)
        self.slots = tuple(self.cache.acquire(rows) for _ in range(2))
        self.length = 0

    def logits(self, tokens: Tensor, forward: tuple[Layout, Pattern], *lora: Any) -> Tensor:
        """Return logits [2, R, V] of tokens [2, R], whose keys and values stay in the cache."""
        layout, pattern = forward
        length, slots = self.length, self.slots
        places = Places(slots, (length, length), torch.tensor(slots), torch.full((2,), length))
        self.cache.reserve(slots, [length + layout.size] * 2)
        plan = Plan.of(layout, pattern, CPU, WIDE)
        backbone, backend = self.backend.backbone, self.backend
        backbone.rope.reserve(length + plan.reach)
        rows = backend.rows(plan, self.cache, places, (length + plan.offset).repeat(2), *lora)
        states = through_layers(backend, backbone.embed(tokens.flatten()), rows)
        self.length += layout.size
        return backend.head(states).unflatten(0, (2, -1))


@pytest.mark.parametrize("name", FORWARDS)
@pytest.mark.parametrize("seed", range(12))
def test_a_forward_behind_a_cached_prefix_is_the_plain_one_of_all_rows(
    tmp_path: Path, seed: int, name: str
) -> None:
    forward = FORWARDS[name]
    folder = random_checkpoint(tmp_path, seed, **settings(seed))
    plain = PlainBackbone.load(folder, WIDE)
    prefix, rows = Random(seed).choice((0, 1, 9, 70)), forward[0].size
    tokens = torch.randint(260, (2, prefix + rows), generator=torch.Generator().manual_seed(seed))
    adapter = drawn_adapter(plain.config, seed)
    chosen = torch.rand(2, rows, generator=torch.Generator().manual_seed(seed)) < 0.6
    decoding = Decoding(folder, prefix + rows)
    with torch.inference_mode():
        found = []
        if prefix:
            found.append(decoding.logits(tokens[:, :prefix], (Layout.causal(prefix), CAUSAL)))
        numbers = chosen.flatten().nonzero().flatten()
        found.append(decoding.logits(tokens[:, prefix:], forward, adapter, numbers))

        sees = torch.zeros(prefix + rows, prefix + rows, dtype=torch.bool)
        sees[:prefix, :prefix] = causal(prefix)
        sees[prefix:] = torch.cat(visible(forward[0], forward[1], prefix), 1)
        states = plain.forward(
            plain.embed(tokens),
            torch.cat((torch.arange(prefix), prefix + forward[0].offset)),
            over(sees, WIDE),
            adapter,
            torch.cat((torch.zeros(2, prefix, dtype=torch.bool), chosen), 1),
        )
        want = plain.head(states)
    assert (torch.cat(found, 1) - want).abs().max() <= 1e-11 * want.abs().max()
    assert want.std() > 0.1


def test_an_adapter_without_rows_is_on_all_of_them_in_both(tmp_path: Path) -> None:
    folder = random_checkpoint(tmp_path)
    plain, decoding = PlainBackbone.load(folder, WIDE), Decoding(folder, 6)
    tokens, forward = torch.arange(12).view(2, 6), FORWARDS["causal"]
    adapter = drawn_adapter(plain.config, 0)
    with torch.inference_mode():
        found = decoding.logits(tokens, forward, adapter)
        see = over(causal(6), WIDE)
        want, bare = (
            plain.head(plain.forward(plain.embed(tokens), torch.arange(6), see, each))
            for each in (adapter, None)
        )
    torch.testing.assert_close(found, want, rtol=1e-11, atol=1e-11)
    assert (want - bare).abs().max() > 0.1


def test_gradients_are_those_of_differences(tmp_path: Path) -> None:
    yarn = {
        "rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "llama_4_scaling_beta": 0.5,
        "original_max_position_embeddings": 2,
    }  # fmt: skip
    shape = {"hidden_size": 6, "intermediate_size": 5, "num_attention_heads": 2, "head_dim": 4}
    folder = random_checkpoint(tmp_path, rope_parameters=yarn, num_key_value_heads=1, **shape)
    plain = PlainBackbone.load(folder, WIDE)
    adapter = drawn_adapter(plain.config, 1)
    (low,) = next(iter(adapter.products.values()))
    sees = over(torch.tensor([[1, 1, 0], [0, 0, 0], [1, 0, 1]]).bool(), WIDE)

    def run(*given: Tensor) -> Tensor:
        return plain.forward(given[0], torch.arange(3), sees, adapter)

    states = torch.randn(2, 3, 6, dtype=WIDE)
    leaves = (states, low.down, low.up, plain.weights.layers[0].qkv, plain.weights.layers[1].down)
    for leaf in leaves:
        assert isinstance(leaf, Tensor)
        leaf.requires_grad_()
    assert torch.autograd.gradcheck(run, leaves)


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2), (3, 1)])
def test_attention_is_a_softmax_over_what_each_row_sees(heads: int, kv_heads: int) -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, heads, 5, 8, generator=generator)
    key, value = torch.randn(2, 2, kv_heads, 7, 8, generator=generator)
    sees = torch.rand(2, 5, 7, generator=generator) < 0.5
    sees[1, 3] = False
    found = attend(query, key, value, Sight.of(sees, torch.float32))
    for batch, head, row in ((b, h, r) for b in range(2) for h in range(heads) for r in range(5)):
        shared = head // (heads // kv_heads)
        kept = sees[batch, row].nonzero().flatten()
        keys, values = key[batch, shared, kept], value[batch, shared, kept]
        want = (keys @ query[batch, head, row]).softmax(0) @ values
        torch.testing.assert_close(found[batch, head, row], want)


def test_rows_of_low_precision_are_near_those_of_high(tmp_path: Path) -> None:
    folder = random_checkpoint(tmp_path)
    tokens, logits = torch.arange(20), {}
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
        plain = PlainBackbone.load(folder, dtype)
        states = plain.forward(plain.embed(tokens), tokens, over(causal(20), dtype))
        logits[dtype] = plain.head(states)
        assert logits[dtype].dtype == dtype
    want = logits.pop(torch.float64)
    for dtype, found in logits.items():
        error = (found.double() - want).norm() / want.norm()
        assert error < 10 * torch.finfo(dtype).eps, dtype
