"""What one forward, or one head, takes: bytes moved, and floating-point operations."""

from __future__ import annotations

from dataclasses import dataclass

from nldc.cost.geometry import Geometry
from nldc.cost.visible import Visible

LOGIT = 4
"""Bytes of a logit, where logits are written: they are float32."""


@dataclass(frozen=True)
class Work:
    """Bytes moved and operations done, all rows of all sequences together.

    `weights` are read once; `keys` are keys and values, those of the prefix and of the own rows;
    `activations` what products read and write. `products` and `attention` are operations, two a
    multiplication with its sum. `layers` are 0 for a head, `adapted` the low-rank products a layer.
    """

    weights: int = 0
    keys: int = 0
    activations: int = 0
    products: int = 0
    attention: int = 0
    layers: int = 0
    adapted: int = 0

    @property
    def bytes(self) -> int:
        """All bytes that are moved."""
        return self.weights + self.keys + self.activations

    @property
    def flops(self) -> int:
        """All floating-point operations."""
        return self.products + self.attention


def forward_work(
    geometry: Geometry,
    width: int,
    batch: int,
    rows: int,
    prefix: int,
    seen: Visible,
    adapted: int | None = None,
) -> Work:
    """Return what a forward of `rows` rows a sequence takes, behind `prefix` cached tokens.

    `width` are the bytes of a number, `seen` what the rows of a sequence see, `adapted` how many of
    them the adapter is on for (None: there is none).
    """
    layers, total = geometry.layers, batch * rows
    around = sum(wide + out for wide, out in geometry.products)
    key_bytes = 2 * geometry.kv_heads * geometry.head_dim * width
    pairs = batch * (seen.prefix * prefix + seen.own)
    low = sum(rank * (wide + out) for wide, rank, out in geometry.adapter)
    low_rows = 0 if adapted is None else batch * adapted
    read = prefix if seen.prefix else 0
    return Work(
        weights=width * (geometry.streamed + (layers * low if low_rows else 0)),
        keys=layers * batch * key_bytes * (read + 2 * rows),
        activations=width * total * (layers * around + geometry.hidden),
        products=2 * (geometry.streamed * total + layers * low * low_rows),
        attention=4 * layers * geometry.heads * geometry.head_dim * pairs,
        layers=layers,
        adapted=len(geometry.adapter) if low_rows else 0,
    )


def head_work(geometry: Geometry, width: int, rows: int, *, writes: bool) -> Work:
    """Return what a head takes for `rows` rows of all sequences; `writes`: logits are kept."""
    logits = LOGIT * rows * geometry.vocabulary if writes else 0
    return Work(
        weights=width * geometry.head,
        activations=width * rows * geometry.hidden + logits,
        products=2 * geometry.head * rows,
    )


def together(*parts: Work) -> Work:
    """Return the work of several parts one after another."""
    columns = zip(*(vars(part).values() for part in parts), strict=True)
    return Work(*map(sum, columns))
