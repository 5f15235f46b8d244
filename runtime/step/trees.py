"""Ops of drafts that branch, as pure functions of tensors: what recalls and accepts them.

Where a step's ops are noted, these are too (`noted_ops.py`): branches are few rows, and a pool is
some hundred tokens of its sequence. None waits for the device.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nldc.runtime.rows.table import Table


@dataclass(frozen=True)
class Longest:
    """The branch with most matches, of each sequence.

    `branch` and `matches` are int64 [B], `drafted` and `tokens` its drafts and targets, int64
    [B, n], and `bonus`, int64 [B, 1], the target behind the matches.
    """

    branch: Tensor
    matches: Tensor
    drafted: Tensor
    tokens: Tensor
    bonus: Tensor


def longest_branch(draft: Tensor, target: Tensor, branches: Table) -> Longest:
    """Hold each branch's targets against the drafts in its next rows; of equals take the first.

    `draft` and `target`, int64 [B, R], are those of all rows, a branch's rows a line of [w, n].
    """
    rows = branches.on(draft.device)
    width, length = rows.shape
    drafts, targets = (
        each[:, rows.reshape(-1)].view(-1, width, length) for each in (draft, target)
    )
    equal = targets[:, :, :-1] == drafts[:, :, 1:]
    agreed = equal.long().cumprod(2).sum(2)
    # Most matches first, then the lowest number: one number for both, so that none is a tie.
    branch = (agreed * width - torch.arange(width, device=rows.device)).argmax(1)
    matches = agreed.gather(1, branch.unsqueeze(1)).squeeze(1)
    own = branch.view(-1, 1, 1).expand(-1, 1, length)
    drafted, tokens = (each.gather(1, own).squeeze(1) for each in (drafts, targets))
    return Longest(branch, matches, drafted, tokens, tokens.gather(1, matches.unsqueeze(1)))


def recalled(pool: Tensor, entry: int, after: Tensor, count: int) -> Tensor:
    """Return what follows `after` [B, 1] in entries of `pool` [B, e * entry] that begin with it.

    They are int64 [B, count * (entry - 1)], of equal entries the first, and behind them the other
    entries in order.
    """
    entries = pool.reshape(len(pool), -1, entry)
    order = begun(entries, after).long().sort(dim=1, descending=True, stable=True)
    index = order.indices[:, :count].unsqueeze(2).expand(-1, -1, entry - 1)
    return entries[:, :, 1:].gather(1, index).flatten(1)


def begun(entries: Tensor, after: Tensor) -> Tensor:
    """Return which of entries [B, e, n] begin with `after` [B, 1], of equal ones the first."""
    same = (entries.unsqueeze(1) == entries.unsqueeze(2)).all(3)
    again = same.tril(-1).any(2)
    return (entries[:, :, 0] == after) & ~again
