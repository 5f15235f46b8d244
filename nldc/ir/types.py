"""The types of the language. Sizes are numbers: a graph is built for concrete params."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nldc.ir.layout import Layout
from nldc.ir.size import Size


@dataclass(frozen=True)
class Tokens:
    """Token ids, one a row. `ragged`: each sequence uses a leading part of its own length.

    That is `least` rows or more.
    """

    size: Size
    ragged: bool = False
    least: int = 0

    def __str__(self) -> str:
        return f"Tokens[{'<=' if self.ragged else ''}{self.size}]"


@dataclass(frozen=True)
class Rows:
    """Rows to be computed: a token or a mask each, laid out in segments and groups."""

    layout: Layout

    @property
    def size(self) -> Size:
        """The number of rows."""
        return self.layout.size

    def __str__(self) -> str:
        return f"Rows[{self.size}]"


@dataclass(frozen=True)
class Logits:
    """One distribution over the vocabulary for each of `size` rows of a forward's layout.

    `ragged` and `least` are those of Tokens.
    """

    size: Size
    layout: Layout
    ragged: bool = False
    least: int = 0

    def __str__(self) -> str:
        return f"Logits[{'<=' if self.ragged else ''}{self.size}]"


@dataclass(frozen=True)
class Scores:
    """How sure the model is, one number a row; of an entropy, less is surer; or noise."""

    size: Size
    by: Literal["probability", "margin", "entropy", "safety", "noise"]

    def __str__(self) -> str:
        return f"Scores[{self.size}]"


@dataclass(frozen=True)
class RowMask:
    """A choice of rows."""

    size: Size

    def __str__(self) -> str:
        return f"RowMask[{self.size}]"


@dataclass(frozen=True)
class Count:
    """A number a sequence, between `low` and `high`, known only when the step runs."""

    low: int
    high: int

    def __str__(self) -> str:
        return f"Count[{self.low}..{self.high}]"


@dataclass(frozen=True)
class Path:
    """Rows of the cache that may stay, `most` at most: those of the branch that was accepted."""

    most: int

    def __str__(self) -> str:
        return f"Path[<={self.most}]"


@dataclass(frozen=True)
class Accepted:
    """What `accept` found: `tokens`, `drafted`, `rows`, `matches` and `bonus`.

    `least` drafts are taken whatever agrees. Of several `branches` (None: there is but one chain of
    rows) also `branch` and `path`.
    """

    draft: Size
    most: int
    least: int = 0
    branches: int | None = None

    def __str__(self) -> str:
        return f"Accepted[<={self.most}]"


@dataclass(frozen=True)
class Unknown:
    """The type of a node with a mistake of its own; it fits everywhere: one mistake, one error."""

    def __str__(self) -> str:
        return "unknown"


Type = Tokens | Rows | Logits | Scores | RowMask | Count | Path | Accepted | Unknown


def accepted_fields(accepted: Accepted) -> dict[str, Type]:
    """Return the fields that `accept` offers, and their types."""
    most = Size(accepted.most)
    fields: dict[str, Type] = {
        "tokens": Tokens(most, ragged=True, least=1),
        "drafted": Tokens(accepted.draft, ragged=True, least=accepted.least),
        "rows": Count(1, accepted.most),
        "matches": Count(0, accepted.most - 1),
        "bonus": Tokens(Size(1)),
    }
    if accepted.branches is not None:
        fields |= {"branch": Count(0, accepted.branches - 1), "path": Path(accepted.most)}
    return fields
