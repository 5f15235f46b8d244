"""A trace without text: how much, how sure, where from, how long; and no token of anybody's."""

from __future__ import annotations

from dataclasses import replace

from nldc.trace.document import Part, Trace

TEXTS = ("stop",)
"""Options that are text of whoever asked."""


def without_text(trace: Trace) -> Trace:
    """Return a trace in which every token is 0: prompts, drafts, choices and texts are left out."""
    return replace(
        trace,
        text=False,
        pieces={},
        options={name: value for name, value in trace.options.items() if name not in TEXTS},
        sequences=tuple(replace(each, prompt=None) for each in trace.sequences),
        steps=tuple(replace(step, parts=tuple(map(_part, step.parts))) for step in trace.steps),
    )


def _part(part: Part) -> Part:
    draft = part.draft
    if draft is not None:
        draft = replace(draft, tokens=_blank(draft.tokens), targets=_blank(draft.targets))
    return replace(
        part,
        tokens=_blank(part.tokens),
        draft=draft,
        forwards=tuple(replace(each, tokens=_blank(each.tokens)) for each in part.forwards),
        choices=tuple(
            replace(
                each,
                tokens=_blank(each.tokens),
                first=_blank(each.first),
                second=_blank(each.second),
            )
            for each in part.choices
        ),
        rounds=tuple(replace(each, tokens=_blank(each.tokens)) for each in part.rounds),
    )


def _blank(tokens: tuple[int, ...]) -> tuple[int, ...]:
    return (0,) * len(tokens)
