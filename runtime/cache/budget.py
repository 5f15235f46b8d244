"""How much memory keys and values may take: a size that somebody wrote, or a share of what is free.

By default the CPU's half and a GPU's 45 % of what is free: a pool that grows is copied, so for a
moment twice that may be taken.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch

from nldc.runtime.errors import PromptError

SHARES = {"cpu": 0.5, "cuda": 0.45}
UNITS = {
    "": 1, "b": 1,
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
}  # fmt: skip
_SIZE = re.compile(r"(\d{1,30}(?:\.\d{1,30})?)\s*([a-z]*|%)", re.IGNORECASE | re.ASCII)
_CGROUP = Path("/sys/fs/cgroup")


def budget_of(size: str | int | None, device: torch.device) -> int:
    """Return the bytes that `size` allows on a device.

    It is a number of bytes, or a text such as `512MiB`, `2GiB` or `50%`, of what is free; None is
    the default share.

    Raises:
        PromptError: it is no size, or nothing.
    """
    if size is None:
        return int(free_memory(device) * SHARES.get(device.type, SHARES["cpu"]))
    written = _SIZE.fullmatch(str(size).strip())
    unit = written[2].lower() if written else "?"
    if isinstance(size, bool) or written is None or (unit != "%" and unit not in UNITS):
        raise _bad(size, "is no size")
    number = float(written[1])
    if unit == "%":
        if number > 100:
            raise _bad(size, "is more than there is")
        found = int(free_memory(device) * number / 100)
    else:
        exact = int(written[1]) if written[1].isdecimal() else number
        found = int(exact * UNITS[unit])
    if found < 1:
        raise _bad(size, "is nothing")
    return found


def _bad(size: object, why: str) -> PromptError:
    return PromptError(
        f"KV memory {str(size)[:50]!r} {why}", "write 512MiB, 2GiB, or 50% of what is free"
    )


def free_memory(device: torch.device) -> int:
    """Return how many bytes can be taken on a device, as far as anybody can say."""
    if device.type == "cuda":
        idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + idle
    known = [size for size in (available(), left_to_the_group()) if size is not None]
    return max(min(known), 0)


def available(meminfo: Path = Path("/proc/meminfo")) -> int:
    """Return what Linux says is available; elsewhere what is free, or half of what there is."""
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB", meminfo.read_text(), re.MULTILINE)
    except (OSError, ValueError):
        found = None
    if found is not None:
        return int(found[1]) * 1024
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        if "SC_AVPHYS_PAGES" in os.sysconf_names:
            return page * os.sysconf("SC_AVPHYS_PAGES")
        return page * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, OSError, ValueError):
        return 2**32


def left_to_the_group(folder: Path = _CGROUP) -> int | None:
    """Return what the control group of a container may still take, None: it has no limit."""
    try:
        most = (folder / "memory.max").read_text().strip()
        return None if most == "max" else int(most) - int((folder / "memory.current").read_text())
    except (OSError, ValueError):
        return None
