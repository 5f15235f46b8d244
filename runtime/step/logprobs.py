"""Log-probabilities of tokens by the model as AR decodes with it: each row sees those before it.

They are of the logits as the model gives them: before temperature, filters, processors and thinking
budgets, over the whole vocabulary, without adapters. A row has the same bits in any company, so
these logits are AR's to the bit, whichever strategy chose the token.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from nldc.runtime.model.backend import Backend
from nldc.runtime.rows.layout import Layout
from nldc.runtime.rows.pattern import Pattern, RowFacts
from nldc.runtime.step.host import Copy

HEAD_ROWS = 64
"""Rows whose logits are there at a time: bounds the memory that a long text takes."""
MOST_TOP = 20
"""The most of the likeliest tokens that may be asked for."""


@dataclass(frozen=True)
class TokenLogprob:
    """What the model thinks of a token behind the text before it.

    `logprob` is the log of its probability, in nats. `greedy`: it is the likeliest, which AR takes
    at temperature 0; of equal ones the lowest id. `top` are ids and log-probabilities of the
    likeliest tokens, as many as were asked for, the likeliest first; the token may be among them.
    """

    token: int
    logprob: float
    greedy: bool
    top: tuple[tuple[int, float], ...] = ()


def _sees(query: RowFacts, key: RowFacts) -> Tensor:
    return key.row <= query.row


def _kernel() -> Any:
    from nldc.runtime.kernels.causal import sees

    return sees


CAUSAL = Pattern("causal", _sees, _kernel, sees_prefix=True, looks_back=True)
"""Every row sees those before it: the rows that AR computes, in any strategy's decoder."""


@lru_cache(maxsize=64)
def following(rows: int) -> Layout:
    """Return the layout of so many rows of a text, the same one each time: it has a plan."""
    return Layout.causal(rows)


def logprobs_of(
    backend: Backend[Any], states: Tensor, tokens: Sequence[int], top: int
) -> list[TokenLogprob]:
    """Return what states [n, hidden] behind the last layer say of n tokens, one each.

    `top` is how many of the likeliest tokens each names. A row without numbers gives NaN.
    """
    ids = torch.tensor(tokens, dtype=torch.int64).to(states.device).unsqueeze(1)
    parts = []
    for first in range(0, len(tokens), HEAD_ROWS):
        rows = slice(first, first + HEAD_ROWS)
        parts.append(Copy.of(_measured(backend.head(states[rows]), ids[rows], top)))
    lines = (line for part in parts for line in part.read())
    return [_said(token, line) for token, line in zip(tokens, lines, strict=True)]


def _measured(logits: Tensor, tokens: Tensor, top: int) -> Tensor:
    """Return what is said of rows of logits [n, V], float64 [n, 2 + 2 * top]; overwrites them.

    The log-probability of each token, int64 [n, 1], whether it is the likeliest, and pairs of the
    likeliest ids and their log-probabilities. Sums are taken in float64 and rounded at the end, so
    that no order of adding shows in them.
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    scores = logits.double().log_softmax(-1).to(dtype)
    columns = [scores.gather(1, tokens), logits.argmax(-1, keepdim=True) == tokens]
    for _ in range(min(top, logits.shape[1])):  # one by one: of equal ones the lowest id
        best = logits.argmax(-1, keepdim=True)
        columns += [best, scores.gather(1, best)]
        logits.scatter_(1, best, -math.inf)
    return torch.cat([column.double() for column in columns], 1)


def _said(token: int, line: list[float]) -> TokenLogprob:
    logprob, greedy, *pairs = line
    best = zip(pairs[::2], pairs[1::2], strict=True)
    return TokenLogprob(token, logprob, bool(greedy), tuple((int(i), each) for i, each in best))


def are_numbers(found: Sequence[TokenLogprob]) -> bool:
    """Whether the rows that these came of hold numbers."""
    return not any(math.isnan(each.logprob) for each in found)


def pieces(first: int, end: int, size: int) -> Iterator[slice]:
    """Yield the rows from `first` on in order, so many at a time."""
    for start in range(first, end, size):
        yield slice(start, min(start + size, end))
