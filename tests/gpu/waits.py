"""Waits for the device as errors."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def without_waits() -> Iterator[None]:
    """Let every wait for the device be an error, but those for a copy's event."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch says once that it does not see all of them
            torch.cuda.set_sync_debug_mode("error")
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
