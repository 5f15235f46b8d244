"""What the benchmarks of kernels share: cases, a clock, and the table that they print.

A case is a kernel of the 8B model's shape for some rows. It is captured into one CUDA graph with as
many copies of its weights as the cache of the device cannot hold, so that each launch reads its own
from memory; the graph's time over the number of launches is what one takes, boundary included. The
floor is the time in which the bytes that must be read are read at the best rate measured here.

    python benchmarks/gpu/product.py [--rows 1 32 72] [--dtype bfloat16]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median

import torch
import triton
import triton.language as tl
from setting import LARGE, captured
from torch import Tensor

ROWS = (1, 8, 16, 32, 64, 72, 128, 272, 1056)
HIDDEN, MLP, VOCABULARY = LARGE.hidden, LARGE.intermediate, LARGE.vocabulary
HEADS, KV_HEADS, DIM = LARGE.heads, LARGE.kv_heads, LARGE.head_dim
BEYOND_CACHE = 256 << 20
"""Bytes of weights that no device's cache holds."""


@dataclass(frozen=True)
class Case:
    """One kernel: `call(copy)` launches it on one of `copies` sets of weights.

    `read` are the bytes that a launch has to read.
    """

    name: str
    rows: int
    read: int
    copies: int
    call: Callable[[int], object]


Cases = Callable[[int, torch.dtype, torch.device], Iterator[Case]]


def drawn(*shape: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return random values of the size that weights have."""
    return torch.empty(shape, dtype=dtype, device=device).normal_(0, 0.02)


def copies_of(size: int) -> int:
    """Return how many weights of so many bytes the cache cannot hold."""
    return max(2, -(-BEYOND_CACHE // size))


def microseconds(case: Case, repeats: int = 10) -> float:
    """Return the median time of a launch within a graph."""
    turns = max(1, 40 // case.copies)

    def launched(times: int = 1) -> None:
        for _ in range(times):
            for copy in range(case.copies):
                case.call(copy)

    replay = captured(lambda: launched(turns), warm=launched)
    found = []
    for _ in range(repeats + 2):
        begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begun.record()
        replay()
        ended.record()
        torch.cuda.synchronize()
        found.append(begun.elapsed_time(ended) * 1e3 / (turns * case.copies))
    return median(found[2:])


@triton.jit  # type: ignore[untyped-decorator]
def read_kernel(given_ptr, found_ptr, turns, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    """Read `turns` blocks a program, one behind that of the last program, and leave their sum."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.int32)
    for _ in range(turns):
        total += tl.load(given_ptr + place)
        place += tl.num_programs(0) * BLOCK
    tl.store(found_ptr + tl.program_id(0), tl.sum(total, 0))


def read_rate(device: torch.device) -> float:
    """Return the bytes a second of the best read: torch's library reads a tenth slower."""
    given = torch.empty(1 << 29, dtype=torch.int32, device=device).random_()
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    rates = []
    for block, warps, blocks in ((4096, 4, 4), (4096, 8, 4), (8192, 8, 4), (4096, 4, 8)):
        programs = processors * blocks
        found = torch.empty(programs, dtype=torch.int32, device=device)
        turns = given.numel() // (programs * block)
        times = []
        for _ in range(7):
            begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begun.record()
            read_kernel[(programs,)](given, found, turns, BLOCK=block, num_warps=warps)
            ended.record()
            torch.cuda.synchronize()
            times.append(begun.elapsed_time(ended) * 1e-3)
        rates.append(4 * programs * block * turns / median(times))
    return max(rates)


def main(cases: Cases) -> None:
    """Time the cases that the command line asks for, and print them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float16", "float32"))
    parser.add_argument("--compile", action="store_true", help="launch each once and time nothing")
    given = parser.parse_args()
    device, dtype = torch.device("cuda"), getattr(torch, given.dtype)
    if given.compile:
        for rows in given.rows:
            for case in cases(rows, dtype, device):
                case.call(0)
        torch.cuda.synchronize()
        return
    rate = read_rate(device)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {given.dtype}, "
          f"{rate / 1e12:.2f} TB/s read")  # fmt: skip
    for rows in given.rows:
        for case in cases(rows, dtype, device):
            time, floor = microseconds(case), case.read / rate * 1e6
            print(f"{case.name:28} {rows:5} rows {time:9.2f} us  floor {floor:8.2f}  "
                  f"x {time / floor:.2f}")  # fmt: skip
