"""Rows: segments of tokens and masks, laid out in groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from nldc.diagnostics import nearest
from nldc.expr import Value as Constant
from nldc.ir import ops
from nldc.ir.attributes import choose
from nldc.ir.layout import MAX_ROWS, Layout, Segment
from nldc.ir.ops import Value
from nldc.ir.reader import ATTRIBUTE, BAD_SIZE, UNKNOWN_NAME, WRONG_SIZE, Made, Reader
from nldc.ir.scope import Scope
from nldc.ir.size import Size
from nldc.ir.taper import MOST_GROUPS, taper
from nldc.ir.types import Rows, Tokens, Type, Unknown
from nldc.schema import DealtMasks, RowsOp
from nldc.schema import Segment as SegmentModel
from nldc.source import Path

SEGMENT = "NLD017"
PROFILE_FORM = "{type: profile, default: [[60, 30, 10]]}"


def make_rows(reader: Reader, path: Path, full: str, model: RowsOp, scope: Scope) -> Made | None:
    """Rows from segments, repeated for each group."""
    groups = 1
    if model.groups is not None:
        found = reader.whole((*path, "groups"), model.groups, low=1, high=MAX_ROWS)
        if found is None:
            return None
        groups = found
    made = [
        _segment(reader, (*path, "segments", number), segment, scope, groups)
        for number, segment in enumerate(model.segments)
    ]
    segments = tuple(one[0] for one in made if one is not None)
    parts = tuple(one[1] for one in made if one is not None)
    if len(segments) < len(made):
        return None
    if model.seed == "masked" and not _begins_with_seed(segments, groups):
        reader.error(
            ATTRIBUTE, "these rows do not begin with a seed", (*path, "seed"),
            "there is none to mask",
            help_text="`seed` is of one group of rows: a segment with one token, then masks",
        )  # fmt: skip
        return None
    is_masked = _seed(reader, full, model) == "masked" and _begins_with_seed(segments, groups)
    if is_masked:
        first = replace(segments[0], tokens=False)
        segments, parts = (first, *segments[1:]), (None, *parts[1:])
    layout = Layout(segments, groups, by_segment=model.order == "segments")
    if not 0 < layout.size.at(1) <= MAX_ROWS:
        reader.error(
            BAD_SIZE, f"the layout has {layout.size} rows", path,
            f"between 1 and {MAX_ROWS} rows",
        )  # fmt: skip
        return None
    profiles = [s.masks.profile for s in model.segments if isinstance(s.masks, DealtMasks)]
    profile = profiles[0] if profiles else None
    return ops.LayRows(layout, parts, "masked" if is_masked else "given", profile), Rows(layout)


def _seed(reader: Reader, full: str, model: RowsOp) -> Any:
    is_free = full not in reader.verified and not full.startswith("prefill.")
    return choose("rows.seed", model.seed, reader.compat if is_free else None)


def _segment(
    reader: Reader, path: Path, segment: SegmentModel, scope: Scope, groups: int
) -> tuple[Segment, Value | None] | None:
    if (segment.tokens is None) == (segment.masks is None):
        reader.error(SEGMENT, "a segment has `tokens` or `masks`", path, "one of the two")
        return None
    if isinstance(segment.masks, DealtMasks):
        dealt = _dealt(reader, (*path, "masks"), segment.masks, groups)
        return None if dealt is None else (Segment(dealt, False, segment.kind), None)
    if segment.masks is not None:
        sizes = _mask_sizes(reader, (*path, "masks"), segment.masks, groups)
        return None if sizes is None else (Segment(sizes, False, segment.kind), None)
    found = reader.reference((*path, "tokens"), segment.tokens, scope, Tokens)
    if found is None or isinstance(found[1], Unknown):
        return None
    sizes = _token_sizes(reader, (*path, "tokens"), found[1], groups)
    return None if sizes is None else (Segment(sizes, True, segment.kind), found[0])


def _mask_sizes(reader: Reader, path: Path, text: Any, groups: int) -> tuple[Size, ...] | None:
    sizes: list[Size] = []
    for group in range(groups):
        extra: dict[str, Constant] = {"group": group} if groups > 1 else {}
        size = reader.whole(path, text, low=0, high=MAX_ROWS, extra=extra)
        if size is None:
            return None
        sizes.append(Size(size))
    return tuple(sizes)


def _dealt(reader: Reader, path: Path, masks: DealtMasks, groups: int) -> tuple[Size, ...] | None:
    """Return the masks that the budget allows, where an acceptance profile says they bring most.

    Group i stands behind the acceptance of i + 1 tokens; see `nldc.ir.taper`.
    """
    at_most = reader.whole((*path, "at_most"), masks.at_most, low=0, high=MAX_ROWS)
    if masks.profile in reader.broken or at_most is None:
        return None
    profile = reader.profiles.get(masks.profile)
    if profile is None:
        meant = nearest(masks.profile, reader.profiles)
        reader.error(
            UNKNOWN_NAME, f"`{masks.profile}` is no param of the type profile", (*path, "profile"),
            f"did you mean `{meant}`?" if meant else "an acceptance profile is needed here",
            help_text=f"declare it under params: `{masks.profile}: {PROFILE_FORM}`",
        )  # fmt: skip
        return None
    if not 1 < groups <= MOST_GROUPS:
        reader.error(
            SEGMENT, f"masks cannot be dealt to {groups} group{'s' * (groups != 1)}",
            (*path, "at_most"), f"these are for 2 to {MOST_GROUPS} groups",
            help_text="each of the `groups` stands behind a point where a draft may be cut off",
        )  # fmt: skip
        return None
    return tuple(map(Size, taper(profile, groups, at_most)))


def _token_sizes(reader: Reader, path: Path, type_: Type, groups: int) -> tuple[Size, ...] | None:
    assert isinstance(type_, Tokens)
    if groups == 1:
        return (type_.size,)
    if type_.size.prompts or type_.size.fixed % groups:
        reader.error(
            WRONG_SIZE, f"{type_} cannot be shared evenly among {groups} groups", path,
            f"this is {type_}",
        )  # fmt: skip
        return None
    return (Size(type_.size.fixed // groups),) * groups


def _begins_with_seed(segments: Sequence[Segment], groups: int) -> bool:
    first, *others = segments
    is_one = first.tokens and first.sizes == (Size(1),)
    return groups == 1 and is_one and any(not segment.tokens for segment in others)
