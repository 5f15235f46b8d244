"""Pages of prompts, found by what they hold: requests that begin alike share them.

A row's keys and values depend on the tokens before it, its own, and the adapters of all of these,
where the rows see nothing else; and a row has the same bits in whatever company it is computed. So
a page is named by its tokens, their adapters, and the name of the page before it. Rows that stand
for a picture all have one token; what the picture shows, by its digest, is part of the name then.
Rows that are given as embeddings, of which nobody says what they are, have no name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from nldc.runtime.invariant.line_tiles import KEY_TILE

NAME_BYTES = 32
BASE = 0
"""The mark of a row without an adapter."""


@dataclass(frozen=True, eq=False)
class Known:
    """What names a prompt whose rows are given as embeddings: its `tokens`, and of rows that stand
    for a picture, by their numbers, the picture's digest.
    """

    tokens: Sequence[int]
    contents: Mapping[int, bytes] = field(default_factory=dict)

    def named(self, ids: Sequence[int], first: int) -> tuple[list[int], dict[int, bytes]]:
        """Return the tokens of ids and what rows show; ids from `first` on are rows of the prompt,
        see `embedded`.
        """
        rows = {place: token - first for place, token in enumerate(ids) if token >= first}
        shown = {place: self.contents[row] for place, row in rows.items() if row in self.contents}
        return [self.tokens[rows[n]] if n in rows else own for n, own in enumerate(ids)], shown


def names_of(
    tokens: Sequence[int],
    marks: Sequence[int] | None = None,
    contents: Mapping[int, bytes] | None = None,
) -> list[bytes]:
    """Return the names of the full pages of a text; `marks` says which adapter each row has.

    None: none has any. `contents` has digests of what rows show that stand for pictures.
    """
    contents = contents or {}
    names: list[bytes] = []
    parent = b""
    for first in range(0, len(tokens) // KEY_TILE * KEY_TILE, KEY_TILE):
        rows = slice(first, first + KEY_TILE)
        held = (tokens[rows], [BASE] * KEY_TILE if marks is None else marks[rows])
        text = b"".join(number.to_bytes(8, "little", signed=True) for own in held for number in own)
        for row in range(first, first + KEY_TILE) if contents else ():
            if row in contents:
                text += (row - first).to_bytes(8, "little") + contents[row]
        parent = blake2b(parent + text, digest_size=NAME_BYTES).digest()
        names.append(parent)
    return names


class Prefixes:
    """Names of pages, and those pages that nobody uses and that are kept in case somebody will."""

    def __init__(self) -> None:
        self._pages: dict[bytes, int] = {}
        self._names: dict[int, bytes] = {}
        self._idle: dict[int, None] = {}
        self._things: list[object] = []

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, page: int) -> bool:
        return page in self._names

    @property
    def idle(self) -> tuple[int, ...]:
        """The pages that are only kept, least recently used first."""
        return tuple(self._idle)

    def mark(self, adapter: object) -> int:
        """Return the mark of rows with an adapter, the same for the same one."""
        for number, thing in enumerate(self._things, BASE + 1):
            if thing is adapter:
                return number
        self._things.append(adapter)
        return BASE + len(self._things)

    def find(self, names: Sequence[bytes]) -> Iterator[int]:
        """Yield the pages that have these names, up to the first that is not there."""
        for name in names:
            if name not in self._pages:
                return
            yield self._pages[name]

    def enter(self, page: int, name: bytes) -> None:
        """Name a page, unless it has a name or another page has this one."""
        if page not in self._names and name not in self._pages:
            self._pages[name] = page
            self._names[page] = name

    def forget(self, page: int) -> None:
        """Let a page have no name, if it had any."""
        name = self._names.pop(page, None)
        if name is not None:
            del self._pages[name]
        self._idle.pop(page, None)

    def rest(self, page: int) -> None:
        """Keep a page that nobody uses, as the one that was used last."""
        self._idle[page] = None

    def wake(self, page: int) -> bool:
        """Let a page be used; return whether it was only kept."""
        if page not in self._idle:
            return False
        del self._idle[page]
        return True

    def move(self, moved: Mapping[int, int]) -> None:
        """Follow pages that go to other places; those that are not named stay."""
        self._pages = {name: moved.get(page, page) for name, page in self._pages.items()}
        self._names = {page: name for name, page in self._pages.items()}
        self._idle = {moved.get(page, page): None for page in self._idle}
