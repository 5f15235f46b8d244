"""The text of sequences on the device: every token so far, from the prompt's first on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nldc.runtime.step import noted_ops
from nldc.runtime.step.noted import Noted


@dataclass(frozen=True, eq=False)
class History:
    """Tokens int64 [B, n], of which the first `count` int64 [B] of each line are its text.

    Both may be noted: then the tokens are where the texts lie, and what is looked up is noted too.
    """

    tokens: Tensor
    count: Tensor

    @staticmethod
    def of(texts: Sequence[Sequence[int]], device: torch.device) -> History:
        """Return the history of texts that are on the host."""
        longest = max(map(len, texts))
        lines = [[*text, *[0] * (longest - len(text))] for text in texts]
        return History(
            torch.tensor(lines, dtype=torch.int64, device=device),
            torch.tensor([len(text) for text in texts], dtype=torch.int64, device=device),
        )

    def at(self, place: Tensor) -> Tensor:
        """Return the tokens at places, int64 [B, m]; behind the last, the last again."""
        last = self.count.unsqueeze(1) - 1
        return self.tokens.gather(1, torch.minimum(place, last).clamp_min(0))

    def continued(self, length: int, ngram: int) -> Tensor:
        """Return int64 [B, length]: what followed the last tokens the last time they occurred.

        Fewer than `ngram` tokens are looked for if that many never occurred before; what is missing
        at the end is the last token again.
        """
        if isinstance(self.tokens, Noted):
            return noted_ops.continued(self.tokens, self.count, length, ngram)
        size = self.tokens.shape[1]
        end = torch.arange(size, device=self.tokens.device)
        # How many of the last tokens stand before each place, none of them the last token itself.
        there = end < self.count.unsqueeze(1)
        matched = torch.zeros_like(self.tokens)
        for back in range(1, min(ngram, size - 1) + 1):
            wanted = self.at(self.count.unsqueeze(1) - back)
            there[:, :back].fill_(False)
            there[:, back:] &= self.tokens[:, : size - back] == wanted
            matched += there
        best = (matched * size + end).argmax(1, keepdim=True)  # the most tokens, then the latest
        found = matched.gather(1, best) > 0
        place = torch.where(found, best, size) + torch.arange(length, device=end.device)
        return self.at(place)
