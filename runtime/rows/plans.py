"""The plans of a model's forwards, each made once for as long as its layout is in use."""

from __future__ import annotations

import weakref

import torch

from nldc.runtime.rows.layout import Layout
from nldc.runtime.rows.pattern import Pattern
from nldc.runtime.rows.plan import Plan


class Plans:
    """Plans on one device, in float32 or wider."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self._device = device
        self._dtype = torch.promote_types(dtype, torch.float32)
        self._known: weakref.WeakKeyDictionary[Layout, dict[Pattern, Plan]] = (
            weakref.WeakKeyDictionary()
        )

    def __call__(self, layout: Layout, pattern: Pattern) -> Plan:
        """Return the plan of a layout and a pattern."""
        plans = self._known.setdefault(layout, {})
        plan = plans.get(pattern)
        if plan is None:
            plan = plans[pattern] = Plan.of(layout, pattern, self._device, self._dtype)
        return plan

    def __len__(self) -> int:
        return len(self._known)
