"""From forwards to the layouts of a program."""

from __future__ import annotations

from nldc.codegen.columns import kind_column
from nldc.codegen.ordered import Ordered
from nldc.codegen.program import FixedLayout, Layout, Origin, Piece, PromptLayout
from nldc.expr import Boolean, Number, Ref
from nldc.ir.facts import NO_KIND
from nldc.ir.size import Size


def lower_layout(name: str, rows: Ordered, origin: Origin) -> Layout:
    """Return the layout of a forward."""
    return _prompt(name, rows, origin) if rows.dynamic else _fixed(name, rows, origin)


def _fixed(name: str, rows: Ordered, origin: Origin) -> FixedLayout:
    facts = {fact: tuple(values) for fact, values in rows.facts().items()}
    count, append = rows.size.fixed, rows.appended().fixed
    numbers = tuple(range(count))
    is_plain = (
        append in (0, count)
        and not rows.branched
        and all(facts[fact] == numbers for fact in ("index", "row", "offset"))
        and facts["kind"] == (NO_KIND,) * count
        and not any(facts["group"])
        and len(set(facts["predicts_next"])) == 1
    )
    return FixedLayout(
        name=name,
        kind=facts["kind"],
        group=facts["group"],
        index=facts["index"],
        row=facts["row"],
        offset=facts["offset"],
        predicts_next=tuple(bool(flag) for flag in facts["predicts_next"]),
        append=append,
        plain=is_plain,
        origins=(origin,),
        branched=rows.branched,
    )


def _prompt(name: str, rows: Ordered, origin: Origin) -> PromptLayout:
    forward, size = rows.forward, rows.size
    kind, offset = kind_column(forward.layout, rows.kinds), rows.column(forward.position)
    predicts_next = rows.column(forward.predicts_next)
    append = rows.kept_in_place
    is_plain = (
        append in (Size(0), size)
        and kind == (Piece(Number(NO_KIND), Size(0), size),)
        and offset == (Piece(Ref("row"), Size(0), size),)
        and predicts_next in [(Piece(Boolean(flag), Size(0), size),) for flag in (False, True)]
    )
    return PromptLayout(
        name=name,
        size=size,
        kind=kind,
        group=rows.column(Number(0)),
        index=rows.column(Ref("index")),
        row=rows.column(Ref("row")),
        offset=offset,
        predicts_next=predicts_next,
        append=append,
        stays=() if append is not None else rows.column(forward.append),
        plain=is_plain,
        origins=(origin,),
    )
