"""One constant for layouts that are equal: forwards over the same rows share it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from nldc.codegen.program import Forward, Layout, Loop, Program, changed


def share_layouts(program: Program) -> Program:
    """Return the program with each layout that equals an earlier one replaced by that."""
    kept: dict[Layout, Layout] = {}
    instead: dict[str, str] = {}
    for layout in program.layouts:
        key = replace(layout, name="", origins=())
        known = kept.get(key)
        if known is None:
            kept[key] = layout
        else:
            kept[key] = replace(known, origins=(*known.origins, *layout.origins))
            instead[layout.name] = known.name

    def change(part: Any) -> Any:
        if isinstance(part, Forward) and part.layout in instead:
            return replace(part, layout=instead[part.layout])
        if isinstance(part, Loop) and part.append in instead:
            return replace(part, append=instead[part.append])
        return part

    return replace(
        program,
        layouts=tuple(kept.values()),
        prefill=changed(program.prefill, change),
        steps=changed(program.steps, change),
    )
