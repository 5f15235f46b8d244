"""The backbone as plain functions over a dictionary of parameters with the released names.

A Ministral-3 decoder (NLD): pre-norm, RMSNorm, grouped queries without biases, half-split RoPE,
SwiGLU, an untied head. Parameters are float32 masters; `cast` gives the copies a step computes
with. Attention is given as an additive mask, so one function serves causal, bidirectional and dual-
stream forwards. Nothing is shared with the inference backbone.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Params = Mapping[str, Tensor]


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


@dataclass(frozen=True)
class Adapter:
    """A LoRA on the output projections: one (r, in) and one (out, r) matrix a layer, and alpha /
    r."""

    down: tuple[Tensor, ...]
    up: tuple[Tensor, ...]
    scale: float


class Cache:
    """Keys and values of all layers, in room set aside once."""

    def __init__(self, geometry: Geometry, batch: int, room: int, dtype: torch.dtype) -> None:
        g = geometry
        shape = (g.num_hidden_layers, batch, g.num_key_value_heads, room, g.head_dim)
        self._keys = torch.zeros(shape, dtype=dtype)
        self._values = torch.zeros(shape, dtype=dtype)
        self._layers = g.num_hidden_layers
        self.length = 0

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add (B, KV, T, D) rows of one layer; return all of that layer's rows so far."""
        stop = self.length + keys.shape[2]
        self._keys[layer, :, :, self.length : stop] = keys
        self._values[layer, :, :, self.length : stop] = values
        if layer == self._layers - 1:
            self.length = stop
        return self._keys[layer, :, :, :stop], self._values[layer, :, :, :stop]


class Context:
    """Keys and values of one forward, for later rows to see; those later rows keep gradients."""

    def __init__(self, layers: int) -> None:
        self._rows: list[tuple[Tensor, Tensor] | None] = [None] * layers
        self.frozen = False

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return a layer's stored rows followed by these; store these while not frozen."""
        stored = self._rows[layer]
        if stored is not None:
            keys = torch.cat((stored[0], keys), dim=2)
            values = torch.cat((stored[1], values), dim=2)
        if not self.frozen:
            self._rows[layer] = (keys, values)
        return keys, values


def parameter_shapes(geometry: Geometry) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter, by released name, in the order of the layers."""
    g = geometry
    queries = g.num_attention_heads * g.head_dim
    keys = g.num_key_value_heads * g.head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "encoder.embed_tokens.weight": (g.vocab_size, g.hidden_size)
    }
    for layer in range(g.num_hidden_layers):
        at = f"encoder.layers.{layer}."
        shapes |= {
            at + "input_layernorm.weight": (g.hidden_size,),
            at + "self_attn.q_proj.weight": (queries, g.hidden_size),
            at + "self_attn.k_proj.weight": (keys, g.hidden_size),
            at + "self_attn.v_proj.weight": (keys, g.hidden_size),
            at + "self_attn.o_proj.weight": (g.hidden_size, queries),
            at + "post_attention_layernorm.weight": (g.hidden_size,),
            at + "mlp.gate_proj.weight": (g.intermediate_size, g.hidden_size),
            at + "mlp.up_proj.weight": (g.intermediate_size, g.hidden_size),
            at + "mlp.down_proj.weight": (g.hidden_size, g.intermediate_size),
        }
    shapes["encoder.norm.weight"] = (g.hidden_size,)
    shapes["diffusion_head.weight"] = (g.vocab_size, g.hidden_size)
    return shapes


def init_params(geometry: Geometry, seed: int) -> dict[str, Tensor]:
    """Draw float32 parameters: norms 1, matrices normal, residual outputs scaled by the depth."""
    generator = torch.Generator().manual_seed(seed)
    params: dict[str, Tensor] = {}
    for name, shape in parameter_shapes(geometry).items():
        if len(shape) == 1:
            params[name] = torch.ones(shape)
            continue
        std = (
            0.02
            if name in ("encoder.embed_tokens.weight", "diffusion_head.weight")
            else (shape[1] ** -0.5)
        )
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            std /= (2 * geometry.num_hidden_layers) ** 0.5
        params[name] = torch.randn(shape, generator=generator) * std
    return params


def cast(params: Params, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return copies in the compute dtype through which gradients reach the masters."""
    return {name: value.to(dtype) for name, value in params.items()}


def rope_table(geometry: Geometry, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cosines and sines, float32, of shape positions.shape + (head_dim,)."""
    half = geometry.head_dim // 2
    exponents = torch.arange(half, dtype=torch.float64) / half
    angles = positions.to(torch.float64)[..., None] * geometry.rope_theta**-exponents
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos().float(), angles.sin().float()


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Apply half-split RoPE to (..., rows, head_dim)."""
    left, right = x.chunk(2, dim=-1)
    return x * cosines + torch.cat((-right, left), dim=-1) * sines


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Attention of (B, H, Q, D) queries over (B, KV, K, D) keys under an additive mask.

    The mask broadcasts to (B, H, Q, K): 0 where a row sees a key, minus infinity where not. Query
    heads of one group share their keys without copying them. A single row, as in decoding, goes
    through torch's fused attention, which reads a slice of a cache where it lies.
    """
    batch, heads, rows, dim = q.shape
    if rows == 1:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
    groups = k.shape[1]
    packed = (q * dim**-0.5).reshape(batch, groups, heads // groups * rows, dim)
    scores = torch.matmul(packed, k.transpose(-1, -2)).view(batch, heads, rows, k.shape[2])
    weights = (scores + mask).softmax(dim=-1).view(batch, groups, heads // groups * rows, -1)
    return torch.matmul(weights, v).view(batch, heads, rows, dim)


def hidden_states(
    params: Params,
    geometry: Geometry,
    ids: Tensor,
    positions: Tensor,
    masks: tuple[Tensor, ...],
    adapter: Adapter | None = None,
    cache: Cache | Context | None = None,
) -> Tensor:
    """Run the decoder over (B, T) ids and return the (B, T, hidden) states after the last norm.

    Args:
        params: All parameters in the compute dtype.
        geometry: The sizes.
        ids: int64 (B, T).
        positions: int64 (T,), the position of every row, or (B, 1, T).
        masks: Additive masks of consecutive row ranges that together cover the T rows. A mask of
            shape (b, 1, rows, keys) gives its rows the LAST `keys` keys: rows that come later
            in the sequence and see no earlier range need not pay for it.
        adapter: A LoRA on the output projections of the rows of the FIRST range; the other rows,
            the verifier's, never meet it.
        cache: Earlier keys and values. The rows are appended to it, and a mask's keys are then
            the last ones of cache and rows together.
    """
    g = geometry
    batch, rows = ids.shape
    x = F.embedding(ids, params["encoder.embed_tokens.weight"])
    cosines, sines = (table.to(x.dtype) for table in rope_table(g, positions))
    for layer in range(g.num_hidden_layers):
        at = f"encoder.layers.{layer}."
        h = F.rms_norm(x, (g.hidden_size,), params[at + "input_layernorm.weight"], g.rms_norm_eps)
        q, k, v = (
            F.linear(h, params[f"{at}self_attn.{name}_proj.weight"])
            .view(batch, rows, -1, g.head_dim)
            .transpose(1, 2)
            for name in "qkv"
        )
        q, k = rotate(q, cosines, sines), rotate(k, cosines, sines)
        if cache is not None:
            k, v = cache.append(layer, k, v)
        parts, start = [], 0
        for mask in masks:
            stop, keys = start + mask.shape[-2], mask.shape[-1]
            parts.append(attend(q[:, :, start:stop], k[:, :, -keys:], v[:, :, -keys:], mask))
            start = stop
        mixed = torch.cat(parts, dim=2).transpose(1, 2).reshape(batch, rows, -1)
        out = F.linear(mixed, params[at + "self_attn.o_proj.weight"])
        if adapter is not None:
            drafting = masks[0].shape[-2]
            low = F.linear(mixed[:, :drafting], adapter.down[layer].to(x.dtype))
            change = adapter.scale * F.linear(low, adapter.up[layer].to(x.dtype))
            out = torch.cat((out[:, :drafting] + change, out[:, drafting:]), dim=1)
        x = x + out
        norm = params[at + "post_attention_layernorm.weight"]
        h = F.rms_norm(x, (g.hidden_size,), norm, g.rms_norm_eps)
        gate = F.silu(F.linear(h, params[at + "mlp.gate_proj.weight"]))
        up = F.linear(h, params[at + "mlp.up_proj.weight"])
        x = x + F.linear(gate * up, params[at + "mlp.down_proj.weight"])
    return F.rms_norm(x, (g.hidden_size,), params["encoder.norm.weight"], g.rms_norm_eps)


def head(params: Params, hidden: Tensor) -> Tensor:
    """Return the logits of hidden states, over the whole vocabulary, in the compute dtype."""
    return F.linear(hidden, params["diffusion_head.weight"])
