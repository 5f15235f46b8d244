"""The prompts of a benchmark, in the groups that are decoded together, and conversations unfolded.

A conversation of several turns becomes a prompt a turn: what a user asks after an answer. The
answers between are AR's, so that every strategy answers the same prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nldc.prompts import Prompt, choose_prompts
from nldc.suite import Row, categories_of, read_rows

if TYPE_CHECKING:
    from nldc.runtime.decoder import Decoder


@dataclass(frozen=True)
class Asked:
    """Prompts, and the groups that are decoded together: a category (None: there are none) and the
    places of its prompts.
    """

    prompts: tuple[Prompt, ...]
    groups: tuple[tuple[str | None, tuple[int, ...]], ...]


def asked_of(
    path: str | Path | None,
    count: int,
    folder: Path,
    vocabulary: int | None,
    ar: Decoder,
    generation: Mapping[str, Any],
) -> Asked:
    """Return what is asked: of the file at `path`, else of the checkpoint in `folder`.

    `ar` answers, with these options, the turns that others follow.

    Raises:
        NldcRuntimeError: the file cannot be read, a line is no row, or a turn cannot be answered.
    """
    chat = bool(generation.get("chat"))
    if path is None:
        chosen = choose_prompts(None, count, folder, vocabulary, chat=chat)
        return Asked(tuple(chosen), ((None, tuple(range(len(chosen)))),))
    rows = read_rows(path, count, chat=chat)
    unfolded = _unfolded(rows, ar, generation)
    prompts: list[Prompt] = []
    groups: dict[str | None, list[int]] = {}
    for own, category in zip(unfolded, categories_of(rows), strict=True):
        groups.setdefault(category, []).extend(range(len(prompts), len(prompts) + len(own)))
        prompts += own
    return Asked(tuple(prompts), tuple((name, tuple(places)) for name, places in groups.items()))


def _unfolded(
    rows: Sequence[Row], ar: Decoder, generation: Mapping[str, Any]
) -> list[list[Prompt]]:
    """Return the prompts of each row: one for each of its turns."""
    found: list[list[Prompt]] = [[] if row.prompt is None else [row.prompt] for row in rows]
    talks: list[list[dict[str, Any]]] = [[] for _ in rows]
    for turn in range(max(len(row.turns) for row in rows)):
        now = [place for place, row in enumerate(rows) if turn < len(row.turns)]
        for place in now:
            talks[place] = [*talks[place], {"role": "user", "content": rows[place].turns[turn]}]
            found[place].append(talks[place])
        on = [place for place in now if turn + 1 < len(rows[place].turns)]
        if on:
            answers = ar.generate([talks[place] for place in on], **generation).text
            for place, answer in zip(on, answers, strict=True):
                talks[place] = [*talks[place], {"role": "assistant", "content": answer}]
    return found
