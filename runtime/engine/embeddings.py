"""Prompts given as embeddings: the seam for inputs that are no text, such as images.

A vision encoder makes rows of the backbone's width; between rows of text they form a prompt. From
there on nothing is different: a prompt row's embedding is all that a forward asks of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nldc.runtime.errors import PromptError


@dataclass(frozen=True, eq=False)
class PromptEmbeddings:
    """A prompt of P rows: `embeddings`, floating point [P, hidden].

    `tokens` are the P ids for strategies that look up text in the prompt (mask token id: none
    there); they are not embedded. Without them nothing of the prompt is found.
    """

    embeddings: Tensor
    tokens: Sequence[int] | None = None

    def check(self, hidden: int, name: str) -> None:
        """Raise PromptError, naming the prompt, unless the embeddings fit the model's width."""
        rows = self.embeddings
        if not isinstance(rows, Tensor) or rows.dim() != 2 or rows.shape[1] != hidden:
            shape = list(rows.shape) if isinstance(rows, Tensor) else type(rows).__name__
            raise PromptError(
                f"{name} holds embeddings of shape {shape}",
                f"give a tensor [rows, {hidden}], as Decoder.embed does",
            )
        if not rows.is_floating_point() or not bool(torch.isfinite(rows).all()):
            raise PromptError(f"{name} holds embeddings that are not finite numbers", None)
        if self.tokens is not None and len(self.tokens) != len(rows):
            raise PromptError(
                f"{name} has {len(rows)} embeddings and {len(self.tokens)} tokens",
                "give one id for each row, or none at all",
            )
