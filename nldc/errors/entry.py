"""One error code's page, as data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """What a code means. The examples are lines of its case in tests/diagnostics."""

    code: str
    title: str
    explanation: str
    bad: str
    good: str
