"""The backend with kernels for CPUs: one call a layer, of weights of 8 and 4 bits as they are.

What `TorchBackend` computes, with fewer roundings: sums stay in float32, and what is rounded to the
model's dtype are the states behind attention and behind the MLP, keys and values, and logits. Which
products an adapter adds is computed by torch, between two parts of such a call.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nldc.runtime.cache.kv_cache import KVCache, Places
from nldc.runtime.checkpoint.adapter import Adapter, Selected
from nldc.runtime.cpu import job as at
from nldc.runtime.cpu.attention import attention, room_of
from nldc.runtime.cpu.layer import TILE, layer
from nldc.runtime.cpu.numbers import NUMBERS
from nldc.runtime.cpu.product import product, scales_of
from nldc.runtime.cpu.team import team
from nldc.runtime.errors import BackendError
from nldc.runtime.invariant.blocked import LINE, OUTPUTS, Arena, Blocked
from nldc.runtime.invariant.linear import Weight, linear
from nldc.runtime.invariant.quantised import Quantised
from nldc.runtime.model.attention import MASK_ROOM
from nldc.runtime.model.backbone import Backbone
from nldc.runtime.model.torch_backend import ThroughLogits
from nldc.runtime.rows.pattern import visible
from nldc.runtime.rows.plan import QUERY_TILE, Plan, in_order

LOG = logging.getLogger("nldc")
_Words = np.ndarray[Any, Any]
"""A table of int64."""
MODULES = ("qkv", "output", "gate", "up", "down")


@dataclass(frozen=True, eq=False)
class _Look:
    """Some rows of a sequence, and what they see: see `job`."""

    words: tuple[int, ...]
    keeps: tuple[Any, ...]


@dataclass(eq=False)
class NumbaRows:
    """What the layers share of the n rows of a forward.

    `job` is what kernels are told, and `keeps` and `shown` the memory that it names. `looks` say
    which rows see what; None: what that takes is too large to keep, and is made in every layer.
    """

    job: _Words
    threads: int
    keys: int
    values: int
    stride: int
    lora: Selected
    x: Tensor
    attended: Tensor
    qkv: Tensor
    added: Tensor
    gate: Tensor
    up: Tensor
    looking: _Looking
    looks: tuple[_Look, ...] | None
    keeps: tuple[Any, ...]
    made: Tensor | None = None
    shown: tuple[Any, ...] = ()


class NumbaBackend(ThroughLogits):
    """Computes with compiled kernels on a CPU; imports numba.

    Kernels are compiled when a backend is made, where they are not found on disk.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone)
        config = backbone.config
        if backbone.dtype not in NUMBERS:
            raise BackendError(
                f"the kernels for CPUs do not compute in {backbone.dtype}", "use backend torch"
            )
        self._number = NUMBERS[backbone.dtype]
        self._arena = Arena()
        weights = backbone.weights
        every = [
            [self._blocked(getattr(layer, name)) for name in MODULES] for layer in weights.layers
        ]
        head = self._blocked(weights.head)
        self._layers = [
            _Layer.of(layer.input_norm, layer.post_norm, own)
            for layer, own in zip(weights.layers, every, strict=True)
        ]
        self._head = _Layer.of(weights.norm, weights.norm, [head])
        self._widest = max(_stride(each) for own in (*every, [head]) for each in own)
        self._compiled = layer()
        self._attention = attention(self._number, config.head_dim)
        self._team = team()
        if self._team is None and torch.get_num_threads() > 1:
            LOG.info("kernels for CPUs compute in one thread: torch's threads are not to be had")
        self._masks: weakref.WeakKeyDictionary[Plan, tuple[Tensor, Tensor]] = (
            weakref.WeakKeyDictionary()
        )

    def _blocked(self, weight: Weight) -> Blocked:
        if isinstance(weight, Blocked):
            return weight
        if not isinstance(weight, Tensor | Quantised):
            weight = weight.to_dense()
        return self._arena.blocked(weight)

    def rows(
        self,
        plan: Plan,
        cache: KVCache,
        places: Places,
        positions: Tensor,
        adapter: Adapter | None = None,
        adapter_rows: Tensor | None = None,
    ) -> NumbaRows:
        """See `Backend`."""
        config = self._backbone.config
        heads, kv_heads, dim = config.num_heads, config.num_kv_heads, config.head_dim
        count, each = len(positions), plan.layout.size
        cos, sin, factor = self._backbone.rope.at(positions)
        ends = [length + each for length in places.lengths]
        for slot, end in zip(places.slots, ends, strict=True):
            cache.claim(slot, end)
        pages = [np.array(cache.pages(slot), np.int64) for slot in places.slots]
        sequences = np.array(
            [(length, own.ctypes.data) for length, own in zip(places.lengths, pages, strict=True)],
            np.int64,
        )
        qkv = _rows(count, (heads + 2 * kv_heads) * dim)
        added, gate = _rows(count, config.hidden_size), _rows(count, config.intermediate_size)
        up = torch.empty_like(gate)
        x = _floats(count, config.hidden_size)
        attended = _floats(count, heads * dim)
        job, kept, threads = self._job(count, room_of(dim, max(ends)))
        data = cache.data
        job[at.X] = x.data_ptr()
        job[at.QKV], job[at.QKV_STRIDE] = qkv.data_ptr(), 4 * qkv.stride(0)
        job[at.ATTENDED] = attended.data_ptr()
        job[at.ADDED], job[at.ADDED_STRIDE] = added.data_ptr(), 4 * added.stride(0)
        job[at.GATE], job[at.UP] = gate.data_ptr(), up.data_ptr()
        job[at.MLP_STRIDE], job[at.MLP] = 4 * gate.stride(0), config.intermediate_size
        job[at.HEADS], job[at.KV_HEADS], job[at.DIM] = heads, kv_heads, dim
        job[at.COS], job[at.SIN] = cos.data_ptr(), sin.data_ptr()
        job[at.FACTOR] = factor.data_ptr()
        job[at.SEQUENCES], job[at.SEQUENCES_AT] = len(pages), sequences.ctypes.data
        job[at.ATTENTION] = self._attention.address
        looking = _Looking(plan, places, pages, self._masks)
        looks = tuple(looking.all()) if looking.kept else None
        found = NumbaRows(
            job=job,
            threads=threads,
            keys=data[0].data_ptr(),
            values=data[1].data_ptr(),
            stride=data.stride(1) * data.element_size(),
            lora=Selected(adapter, adapter_rows),
            x=x,
            attended=attended,
            qkv=qkv,
            added=added,
            gate=gate,
            up=up,
            looking=looking,
            looks=looks,
            keeps=(cos, sin, factor, pages, sequences, kept, data),
        )
        if looks is not None:
            _set_looks(found, looks)
        return found

    def layer(self, number: int, states: Tensor, rows: NumbaRows) -> Tensor:
        """See `Backend`."""
        job = rows.job
        states = states.contiguous()
        if rows.made is not states:  # what the caller brought stays as it is
            rows.made = torch.empty_like(states)
        job[at.STATES], job[at.STATES_OUT] = states.data_ptr(), rows.made.data_ptr()
        job[at.LAYER] = self._layers[number].address
        job[at.KEYS] = rows.keys + number * rows.stride
        job[at.VALUES] = rows.values + number * rows.stride
        if rows.lora.adapter is None and rows.looks is not None:
            self._run(rows, at.NORM, at.STAGES)
            return rows.made
        dtype, mlp = states.dtype, self._backbone.config.intermediate_size
        self._run(rows, at.NORM, at.TURN)
        self._adapted(rows, number, "qkv", rows.x.to(dtype), rows.qkv)
        self._run(rows, at.TURN, at.ATTEND)
        self._attend(rows)
        self._run(rows, at.OUTPUT, at.ADD_NORM)
        self._adapted(rows, number, "output", rows.attended.to(dtype), rows.added)
        self._run(rows, at.ADD_NORM, at.GATED)
        x = rows.x.to(dtype)
        self._adapted(rows, number, "gate", x, rows.gate)
        self._adapted(rows, number, "up", x, rows.up)
        self._run(rows, at.GATED, at.ADD)
        self._adapted(rows, number, "down", rows.gate[:, :mlp].to(dtype), rows.added)
        self._run(rows, at.ADD, at.STAGES)
        return rows.made

    def _attend(self, rows: NumbaRows) -> None:
        if rows.looks is not None:
            self._run(rows, at.ATTEND, at.OUTPUT)
            return
        for look in rows.looking.all():
            _set_looks(rows, (look,))
            self._run(rows, at.ATTEND, at.OUTPUT)

    def _adapted(self, rows: NumbaRows, layer: int, module: str, x: Tensor, out: Tensor) -> None:
        """Add to `out` float32 [n, out] what an adapter adds to a product of x [n, in]."""
        lora = rows.lora
        if lora.adapter is None:
            return
        for low in lora.adapter.products.get((layer, module), ()):
            columns = out[:, low.start : low.stop]
            some = x if lora.rows is None else x[lora.rows]
            delta = linear(linear(some, low.down), low.up).float()
            if lora.rows is None:
                columns.add_(delta, alpha=low.scale)
            else:
                columns.index_add_(0, lora.rows, delta, alpha=low.scale)

    def _run(self, rows: NumbaRows, first: int, last: int) -> None:
        """Compute the stages from `first` to `last` of a job."""
        self._compute(rows.job, rows.threads, first, last)

    def _compute(self, job: _Words, threads: int, first: int, last: int) -> None:
        job[at.FIRST], job[at.LAST] = first, last
        if self._team is None or threads == 1:
            self._compiled.call(job.ctypes.data)
        else:
            self._team.run(self._compiled.address, job.ctypes.data, threads)

    def _job(self, rows: int, least: int) -> tuple[_Words, Any, int]:
        """Return a job for so many rows, the memory that it names, and how many threads it is for.

        Each has `least` bytes to compute in, or more.
        """
        threads = 1 if self._team is None else torch.get_num_threads()
        size = -(-max(min(rows, TILE) * self._widest, least) // LINE) * LINE
        room = torch.empty(size * threads, dtype=torch.uint8, device="cpu")
        job = np.zeros(at.JOB_WORDS, np.int64)
        config = self._backbone.config
        job[at.ROWS], job[at.NUMBER] = rows, self._number
        job[at.HIDDEN], job[at.EPS] = config.hidden_size, _bits(config.rms_norm_eps)
        job[at.ROOM], job[at.ROOM_BYTES] = room.data_ptr(), size
        if self._team is not None and threads > 1:
            job[at.BARRIER], job[at.WHO] = self._team.barrier, self._team.who
            job[at.COUNT] = self._team.count
        return job, room, threads

    def head(self, states: Tensor) -> Tensor:
        """See `Backend`."""
        config = self._backbone.config
        count, states = len(states), states.contiguous()
        logits = _rows(count, config.vocab_size)
        x = _floats(count, config.hidden_size)
        job, kept, threads = self._job(count, 0)
        job[at.STATES], job[at.X] = states.data_ptr(), x.data_ptr()
        job[at.QKV], job[at.QKV_STRIDE] = logits.data_ptr(), 4 * logits.stride(0)
        job[at.LAYER] = self._head.address
        if count:
            self._compute(job, threads, at.NORM, at.TURN)
        del kept
        return logits[:, : config.vocab_size].to(self._backbone.dtype)


def _set_looks(rows: NumbaRows, looks: tuple[_Look, ...]) -> None:
    table = np.array([look.words for look in looks], np.int64)
    rows.shown = table, looks
    rows.job[at.LOOKS], rows.job[at.LOOKS_AT] = len(looks), table.ctypes.data


class _Looking:
    """What the rows of a forward see, as a look for each sequence, or for each part of a long one.

    `kept`: what that takes may be kept for all layers.
    """

    def __init__(
        self,
        plan: Plan,
        places: Places,
        pages: list[_Words],
        masks: weakref.WeakKeyDictionary[Plan, tuple[Tensor, Tensor]],
    ) -> None:
        self._plan, self._places, self._pages, self._known = plan, places, pages, masks
        self._ordered = in_order(plan.layout, plan.pattern)
        size = plan.layout.size
        seen = sum(places.lengths) if not plan.pattern.sees_prefix else 0
        self.kept = self._ordered or size * (size * len(pages) + seen) <= MASK_ROOM

    def all(self) -> Iterator[_Look]:
        """Yield the looks, made one after another."""
        size = self._plan.layout.size
        step = size if self._ordered else QUERY_TILE
        for number, length in enumerate(self._places.lengths):
            for first in range(0, size, step):
                part = slice(first, min(first + step, size))
                yield self._look(number, length, part)

    def _look(self, number: int, length: int, part: slice) -> _Look:
        size, rows = self._plan.layout.size, part.stop - part.start
        own, cached, limits = self._seen(number, length, part)
        words = (
            length,
            self._pages[number].ctypes.data,
            number * size + part.start,
            rows,
            limits.data_ptr(),
            0 if own is None else own.data_ptr(),
            size,
            0 if cached is None else cached.data_ptr(),
        )
        return _Look(words, (own, cached, limits))

    def _seen(
        self, number: int, length: int, part: slice
    ) -> tuple[Tensor | None, Tensor | None, Tensor]:
        """Return which of the rows and of the cached ones are seen, uint8, and the limits."""
        plan = self._plan
        if self._ordered:
            seen = torch.arange(part.start, part.stop, device="cpu") + (length + 1)
            return None, None, seen
        if plan.pattern.sees_prefix:
            if plan.layout.size > QUERY_TILE:
                own, last = _own(visible(plan.layout, plan.pattern, 0, part)[1])
            else:
                if plan not in self._known:
                    self._known[plan] = _own(visible(plan.layout, plan.pattern, 0)[1])
                own, last = self._known[plan]
            return own, None, last + length
        prompt = 0
        if plan.pattern.asks_prompt:
            assert self._places.prompts is not None
            prompt = self._places.prompts[number]
        cached, sees = visible(plan.layout, plan.pattern, length, part, prompt)
        own, last = _own(sees)
        return own, cached.to("cpu", torch.uint8).contiguous(), last + length


def _own(sees: Tensor) -> tuple[Tensor, Tensor]:
    """Return bool [n, R] as uint8, and for each row how many come up to the last that is seen."""
    sees = sees.cpu()
    places = torch.arange(1, sees.shape[1] + 1, device="cpu")
    return sees.to(torch.uint8).contiguous(), (sees * places).amax(1)


def _rows(count: int, width: int) -> Tensor:
    """Return float32 rows, as wide as the products that are written there."""
    return _floats(count, -(-width // OUTPUTS) * OUTPUTS)


def _floats(count: int, width: int) -> Tensor:
    """Return float32 [count, width] on the CPU, whatever torch makes where nobody says it."""
    return torch.empty((count, width), dtype=torch.float32, device="cpu")


def _bits(value: float) -> int:
    return int(np.float32(value).view(np.uint32))


def _stride(weight: Blocked) -> int:
    """Return the bytes that a row of x takes for a product with a weight."""
    return -(-4 * weight.groups * (weight.padded + 1) // LINE) * LINE


@dataclass(frozen=True, eq=False)
class _Layer:
    """A layer's table, and the memory that it names."""

    words: _Words
    keeps: tuple[Any, ...]

    @property
    def address(self) -> int:
        """Where the table lies."""
        return int(self.words.ctypes.data)

    @staticmethod
    def of(input_norm: Tensor, post_norm: Tensor, weights: Sequence[Blocked]) -> _Layer:
        """Return the table of these norms, [hidden], and weights; compile products for them."""
        norms = [norm.float().contiguous() for norm in (input_norm, post_norm)]
        scales = [scales_of(weight) for weight in weights]
        words = [norm.data_ptr() for norm in norms]
        for weight, own in zip(weights, scales, strict=True):
            words += (
                product(weight.form, wide=weight.wide).address,
                weight.data.data_ptr(),
                own.ctypes.data,
                weight.group,
                weight.groups,
                weight.words,
                weight.blocks,
                weight.padded,
                _stride(weight),
            )
        return _Layer(np.array(words, np.int64), (norms, scales, weights))
