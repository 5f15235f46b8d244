"""What generated code may ask of a batch. Whatever runs generated code keeps to this."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from nldc.runtime.model.scores import ScoreName
from nldc.runtime.rows.layout import Layout
from nldc.runtime.rows.pattern import Pattern
from nldc.runtime.rows.table import Table
from nldc.runtime.step.choose import Temperature
from nldc.runtime.step.history import History
from nldc.runtime.step.noted import Notes
from nldc.runtime.step.params import Asked, Role
from nldc.runtime.step.values import Choosing, Counting, Hidden, Logits, Rows, Scored


class StepBatch(Protocol):
    """The live sequences of a prefill or a step: B of them, in order.

    `mask_token_id` fills rows that are masked; all tensors lie on `device`.
    """

    @property
    def size(self) -> int:
        """The number of sequences, B."""
        ...

    @property
    def device(self) -> torch.device:
        """Where all values lie."""
        ...

    @property
    def mask_token_id(self) -> int:
        """The token that stands in rows that are masked."""
        ...

    @property
    def notes(self) -> Notes | None:
        """Where the step's ops are noted, to be done between two forwards; None: they are done."""
        ...

    @property
    def end_ids(self) -> Tensor:
        """The ids that end each sequence, int64 [B, e]; what is none fills a line."""
        ...

    def param(self, asked: Asked, role: Role = "score") -> Tensor:
        """Return what each sequence brings of a param, or of what params are worth, [B, 1].

        `role` says what it is for, and so its dtype: that of scores, int64 for what counts rows,
        float64 for temperatures.
        """
        ...

    def forward(
        self,
        tokens: Tensor,
        layout: Layout,
        pattern: Pattern,
        *,
        adapter: str | None = None,
        adapter_rows: Sequence[bool] | Table | None = None,
        counted: bool = True,
        active: Tensor | None = None,
        hold: bool = False,
        embeddings: Tensor | None = None,
        states: slice | None = None,
        node: str = "",
    ) -> Hidden:
        """Run the backbone over token ids [B, R] laid out by `layout`, seeing what `pattern` says.

        `adapter` names one of the decoder's adapters, used on the rows of `adapter_rows`: a flag
        for each, or a table of their places (None: all); a decoder that was loaded without it runs
        the base weights. `active`, bool [B], are the sequences for which the forward counts (None:
        all); with `hold`, the others keep the keys and values that they wrote last, for `append`,
        and get states of no use. `embeddings` [B, R, hidden] replace those of the tokens. Of the
        rows' states, those of the rows `states` are returned (None: all). `node` is the strategy's
        name for it, for whoever watches.
        """
        ...

    def append(self, rows: int) -> None:
        """Let the first `rows` rows of the last forward stay in the cache, as speculative ones."""
        ...

    def head(self, hidden: Hidden) -> Logits:
        """Return the logits of these rows."""
        ...

    def mix(self, logits: Sequence[Logits], weights: Sequence[float | Tensor]) -> Logits:
        """Return the sum of logits for the same positions, each times its weight.

        A weight may be [B, 1], a number a sequence; one of 0 leaves the part out. What is `due`
        where they disagree about that is what the first of them says.
        """
        ...

    def sample(
        self,
        logits: Logits,
        mask_token: Choosing = "allowed",
        temperature: Temperature = None,
    ) -> Tensor:
        """Return the chosen token of each row, int64 [B, n], at the request's temperature or at
        this one.
        """
        ...

    def head_choose(
        self,
        hidden: Hidden,
        mask_token: Choosing = "allowed",
        temperature: Temperature = None,
    ) -> Tensor:
        """Return the token that `sample` takes of each row's logits, which nobody else needs."""
        ...

    def head_choose_scored(
        self,
        hidden: Hidden,
        *names: ScoreName,
        tokens: Tensor | None = None,
        mask_token: Choosing = "allowed",
        mask_token_scored: Counting = "counted",
        temperature: Temperature = None,
    ) -> tuple[Tensor, ...]:
        """Return what `head_choose` does, int64 [B, n], and the row's raw scores by name, [B, n].

        A probability is that of `tokens` [B, n], or else of the chosen ones.
        """
        ...

    def candidates(self, logits: Logits, count: int) -> Tensor:
        """Return the `count` likeliest tokens of each row, int64 [B, n * count]; see `ops`."""
        ...

    def probability(
        self,
        logits: Logits,
        tokens: Tensor,
        of: Scored = "raw",
        mask_token: Counting = "counted",
    ) -> Tensor:
        """Return the probability of tokens [B, n] in their rows, [B, n]."""
        ...

    def entropy(
        self, logits: Logits, of: Scored = "raw", mask_token: Counting = "counted"
    ) -> Tensor:
        """Return the entropy of each row, [B, n]."""
        ...

    def margin(
        self, logits: Logits, of: Scored = "raw", mask_token: Counting = "counted"
    ) -> Tensor:
        """Return how far each row's likeliest token is ahead of the second, [B, n]."""
        ...

    def safety(self, logits: Logits, rows: Rows, sampler: str) -> Tensor:
        """Return how safe a trained sampler of the decoder's takes it to be to commit each row's
        likeliest token, [B, n]; without it, that token's probability.
        """
        ...

    def noise(self, rows: Hidden | Logits, stream: int, iteration: int) -> Tensor:
        """Return a random number in [0, 1) for each row, [B, n]; see `step/noise.py`."""
        ...

    def ends(self, tokens: Tensor, *, first: bool = False) -> Tensor:
        """Return which tokens [B, n] end their sequence, bool; `first`: by the first of its ids."""
        ...

    def everyone(self) -> Tensor:
        """Return bool [B], all true: the sequences that a loop begins with."""
        ...

    def rounds(
        self, active: Tensor, most: int, *, least: int = 0, apart: bool = False
    ) -> Iterator[int]:
        """Yield the numbers of a loop's rounds: up to `most`, and not on when nobody is active.

        `active` bool [B] says who goes on; a round changes it where it lies. From `least` on it is
        asked before each round. `apart`: a round does other work than the one before it, as it uses
        its number.
        """
        ...

    def history(self) -> History:
        """Return the text of each sequence: its prompt, and what was emitted before this step."""
        ...

    def forwards(self) -> Tensor:
        """Return how many counted forwards each sequence had a part in, int64 [B]."""
        ...
