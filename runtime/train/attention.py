"""Ways for rows to look at one another, and at rows of an earlier forward, while training."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nldc.runtime.checkpoint.config import ModelConfig
from nldc.runtime.reference.attention import Attention, Sight, attend, causal

Held = list[tuple[Tensor, Tensor]]
"""The keys and values of one forward, by layer."""


def by_ranges(sights: Sequence[Sight]) -> Attention:
    """Return the attention of consecutive row ranges, each with what it sees.

    A sight of so many keys gives its rows the LAST so many: rows that come later in the sequence
    and see no earlier range need not pay for it.
    """

    def look(_layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        ranges = torch.split(query, [sight.bias.shape[-2] for sight in sights], -2)
        found = []
        for rows, sight in zip(ranges, sights, strict=True):
            seen = slice(key.shape[-2] - sight.bias.shape[-1], None)
            found.append(attend(rows, key[..., seen, :], value[..., seen, :], sight))
        return torch.cat(found, -2)

    return look


def holding(attention: Attention, held: Held) -> Attention:
    """Return an attention that leaves the rows' keys and values in `held`, for later rows."""

    def look(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        held.append((key, value))
        return attention(layer, query, key, value)

    return look


def behind(held: Held, sight: Sight) -> Attention:
    """Return the attention of rows over those that are held, and behind these over one another."""

    def look(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        keys, values = held[layer]
        return attend(query, torch.cat((keys, key), -2), torch.cat((values, value), -2), sight)

    return look


class Continuing:
    """Causal attention of rows that follow one another, in room set aside once for all of them."""

    def __init__(self, config: ModelConfig, batch: int, room: int, dtype: torch.dtype) -> None:
        shape = (config.num_layers, batch, config.num_kv_heads, room, config.head_dim)
        self._keys = torch.zeros(shape, dtype=dtype)
        self._values = torch.zeros(shape, dtype=dtype)
        self._last = config.num_layers - 1
        self.length = 0

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Add keys and values (B, KV, T, D); return what (B, H, T, D) queries see of all so far.

        A single row, as in decoding, goes through torch's fused attention, which reads a slice of
        the room where it lies.
        """
        rows = query.shape[-2]
        start, stop = self.length, self.length + rows
        self._keys[layer, :, :, start:stop] = key
        self._values[layer, :, :, start:stop] = value
        if layer == self._last:
            self.length = stop
        keys, values = self._keys[layer, :, :, :stop], self._values[layer, :, :, :stop]
        if rows == 1:
            return F.scaled_dot_product_attention(query, keys, values, scale=1.0, enable_gqa=True)
        return attend(query, keys, values, Sight.of(causal(rows, start), query.dtype))
