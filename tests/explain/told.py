"""Explanations of strategies, made once, and one whose every text is hostile."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import Any

from nldc import api
from nldc.explain.build import explained
from nldc.explain.model import Explained, Forward, Line

HOSTILE = "</script><img src=x onerror=alert(1)>\x1b[31m\u202e & 'x' \"y\""


@cache
def told(name: str, *, merge: bool = False, most: int = 128, **params: int) -> Explained:
    checked = api.check(name, params, others=False)
    return explained(checked, most_lines=most, merge=merge)


def forward(name: str, node: str, **options: Any) -> Forward:
    (found,) = (each for each in told(name, **options).forwards if each.name == node)
    return found


def line(name: str, node: str, row: int, **options: Any) -> Line:
    (found,) = (e for e in forward(name, node, **options).grid.lines if e.first <= row <= e.last)
    return found


def hostile(part: Any, chosen: tuple[str, ...] = ("sort", "what", "cached")) -> Any:
    """Return the same data with every text but those of a fixed choice replaced by a hostile one.

    Names stay unlike one another.
    """
    if isinstance(part, str):
        return f"{part}{HOSTILE}"
    if isinstance(part, tuple):
        return tuple(hostile(each) for each in part)
    if is_dataclass(part) and not isinstance(part, type):
        old = {item.name: getattr(part, item.name) for item in fields(part)}
        new = {name: each if name in chosen else hostile(each) for name, each in old.items()}
        return replace(part, **new)
    return part
