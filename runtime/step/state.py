"""What is known of the sequences of a decoder between steps, on the device, a line for each slot.

A batch is made for a step and forgotten; this stays for as long as the cache that it goes with.
"""

from __future__ import annotations

import torch

from nldc.runtime.checkpoint.config import ModelConfig
from nldc.runtime.step.sight import TextTable
from nldc.runtime.step.thinking import ThinkingBudget


class StepState:
    """What a batch must know of its sequences beside the cache; whoever owns that, owns this.

    `text` holds the token ids behind the cache's rows, for processors that see tokens and for
    thinking budgets, whose rule is `budget`.
    """

    def __init__(self, config: ModelConfig, device: torch.device) -> None:
        self.text = TextTable(config.vocab_size, config.mask_token_id, device)
        self.budget = ThinkingBudget()
