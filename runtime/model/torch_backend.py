"""The backend in torch: every other one computes what this one does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nldc.runtime.cache.kv_cache import KVCache, Places, moves
from nldc.runtime.checkpoint.adapter import Adapter, Selected
from nldc.runtime.invariant.line_tiles import KEY_TILE
from nldc.runtime.invariant.linear import linear
from nldc.runtime.invariant.norm import silu
from nldc.runtime.model.attention import Attention, TorchAttention, scratch_of
from nldc.runtime.model.backbone import Backbone
from nldc.runtime.model.backend import Between, Choice, Chooser
from nldc.runtime.model.rope import rotate
from nldc.runtime.model.sampler import Sampler
from nldc.runtime.model.scores import Scores, candidates, log_probability, mixed, scored
from nldc.runtime.rows.plan import Plan


@dataclass(frozen=True, eq=False)
class TorchRows:
    """What the layers share of the n rows of a forward.

    `cos` and `sin` [n, 1, head_dim] rotate, `factor` [n, 1, 1] scales queries; `attention` knows
    the cache, and `lora` which rows have an adapter.
    """

    cos: Tensor
    sin: Tensor
    factor: Tensor
    attention: Attention
    lora: Selected


class ThroughLogits:
    """What is computed behind the layers, by torch, of logits that a backend writes down."""

    capturable = False
    between: Between | None = None

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone

    @property
    def backbone(self) -> Backbone:
        """See `Backend`."""
        return self._backbone

    def head(self, states: Tensor) -> Tensor:
        """See `Backend`."""
        raise NotImplementedError

    def move(self, cache: KVCache, places: Places, path: Tensor, keep: Tensor) -> None:
        """See `Backend`."""
        table = cache.table[places.slot_index].long()
        rows = (places.start.unsqueeze(1) + each for each in moves(path, keep))
        (at, at_row), (there, row) = (
            (table.gather(1, each // KEY_TILE), each % KEY_TILE) for each in rows
        )
        cache.data[:, :, there, :, row] = cache.data[:, :, at, :, at_row]

    def choose(self, values: Tensor, choice: Choice) -> Tensor:
        """See `Backend`."""
        return choice.of(values)

    def measured(self, values: Tensor, scores: Scores) -> tuple[Tensor, ...]:
        """See `Backend`."""
        return scored(values, None, scores)

    def mix(self, parts: Sequence[Tensor], weights: Sequence[float | Tensor]) -> Tensor:
        """See `Backend`."""
        return mixed(parts, weights)

    def candidates(self, values: Tensor, count: int) -> Tensor:
        """See `Backend`."""
        return candidates(values, count)

    def safety(self, sampler: Sampler, logits: Tensor, tokens: Tensor, masked: Tensor) -> Tensor:
        """See `Backend`."""
        return sampler(logits, tokens, masked, self._backbone.config.mask_token_id)

    def head_choose(self, states: Tensor, choice: Choice) -> Tensor:
        """See `Backend`."""
        logits = self.head(states)
        return choice.of(logits.view(*choice.positions.shape, logits.shape[-1]))

    def head_choose_scored(
        self, states: Tensor, choice: Choice | Chooser, scores: Scores
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `Backend`."""
        logits = self.head(states.flatten(0, 1))
        logits = logits.view(*states.shape[:2], logits.shape[-1])
        tokens = choice.of(logits) if isinstance(choice, Choice) else choice(logits)
        return tokens, scored(logits, tokens, scores)

    def scored(self, states: Tensor, tokens: Tensor) -> Tensor:
        """See `Backend`."""
        logits = self.head(states)
        values = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return log_probability(values, tokens).float()


class TorchBackend(ThroughLogits):
    """A layer is some fifty calls of torch, in shapes in which a row's bits are its own.

    Its attention looks at pages one sequence after another, as the host knows them.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone)
        self._scratch = scratch_of(backbone.config, backbone.dtype, backbone.device)

    def attention(self, plan: Plan, cache: KVCache, places: Places) -> Attention:
        """Return the attention of one forward."""
        return TorchAttention(plan, cache, places, self._scratch)

    def rows(
        self,
        plan: Plan,
        cache: KVCache,
        places: Places,
        positions: Tensor,
        adapter: Adapter | None = None,
        adapter_rows: Tensor | None = None,
    ) -> TorchRows:
        """See `Backend`."""
        cos, sin, factor = self._backbone.rope.at(positions)
        attention = self.attention(plan, cache, places)
        return TorchRows(cos, sin, factor, attention, Selected(adapter, adapter_rows))

    def layer(self, number: int, states: Tensor, rows: TorchRows) -> Tensor:
        """See `Backend`."""
        config, layer = self._backbone.config, self._backbone.weights.layers[number]
        heads, kv_heads = config.num_heads, config.num_kv_heads
        input_norm, post_norm = self._backbone.norms[number]
        lora = rows.lora
        x = input_norm(states)
        qkv = lora.linear(number, "qkv", x, layer.qkv)
        qkv = qkv.view(-1, heads + 2 * kv_heads, config.head_dim)
        unturned, value = qkv.split_with_sizes((heads + kv_heads, kv_heads), 1)
        turned = rotate(unturned, rows.cos, rows.sin)
        query, key = turned.split_with_sizes((heads, kv_heads), 1)
        x = rows.attention(number, query, key, value, rows.factor)
        states = lora.linear(number, "output", x, layer.output).add_(states)
        x = post_norm(states)
        gate = silu(lora.linear(number, "gate", x, layer.gate))
        x = lora.linear(number, "up", x, layer.up).mul_(gate)
        return lora.linear(number, "down", x, layer.down).add_(states)

    def head(self, states: Tensor) -> Tensor:
        """See `Backend`."""
        return linear(self._backbone.last_norm(states), self._backbone.weights.head)
