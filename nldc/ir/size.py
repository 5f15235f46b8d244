"""Sizes: numbers, but for the prompt's length, which is unknown when a strategy is compiled."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Size:
    """A number of rows: `fixed + prompts · len(prompt)`."""

    fixed: int
    prompts: int = 0

    def __add__(self, other: Size) -> Size:
        return Size(self.fixed + other.fixed, self.prompts + other.prompts)

    def at(self, prompt_length: int) -> int:
        """Return the number of rows for a prompt of that many tokens."""
        return self.fixed + self.prompts * prompt_length

    def __str__(self) -> str:
        if not self.prompts:
            return str(self.fixed)
        prompt = "prompt" if self.prompts == 1 else f"{self.prompts}*prompt"
        return prompt if not self.fixed else f"{prompt}+{self.fixed}"
