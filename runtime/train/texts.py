"""A model's own text, which drafters and samplers are trained on: training text, gone on with."""

from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from nldc.runtime.checkpoint.config import ModelConfig
from nldc.runtime.errors import TokenizerError
from nldc.runtime.reference.backbone import PlainBackbone
from nldc.runtime.text.endings import find_endings
from nldc.runtime.text.tokenizer import Tokenizer
from nldc.runtime.text.tokenizer_files import TOKENIZER
from nldc.runtime.train.corpus import read_files, stdlib_root
from nldc.runtime.train.evaluate import continue_greedily


class TextRecipe(Protocol):
    """How many texts, of which length, behind prompts of which lengths, and the seed of all."""

    @property
    def texts(self) -> int: ...  # noqa: D102
    @property
    def prompt_lengths(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def sequence_length(self) -> int: ...  # noqa: D102
    @property
    def seed(self) -> int: ...  # noqa: D102


def training_stream(checkpoint: Path, config: ModelConfig) -> Tensor:
    """Return the training text as one row of a checkpoint's tokens, int64.

    Each text stands between the token that begins one and one that ends it, as far as the
    checkpoint's files name them.

    Raises:
        TokenizerError: there is no tokenizer, it is damaged, or it is another model's.
    """
    if not Tokenizer.exists(checkpoint):
        raise TokenizerError(
            f"{checkpoint / TOKENIZER} is missing, so that there are no tokens to train on",
            f"put the model's {TOKENIZER} there",
        )
    tokenizer = Tokenizer.load(checkpoint)
    ends = find_endings(checkpoint, config.eos_token_ids, config.vocab_size, tokenizer).ids[:1]
    begin = [] if config.bos_token_id is None else [config.bos_token_id]
    ids: list[int] = []
    for file in read_files(stdlib_root(), held_out=False):
        ids += [*begin, *tokenizer.encode(file.text, special=False), *ends]
    if max(ids) >= config.vocab_size:
        raise TokenizerError(
            f"{checkpoint / TOKENIZER} makes token {max(ids)} of the training text, and the model "
            f"has {config.vocab_size} tokens",
            "take the released model's tokenizer",
        )
    return torch.tensor(ids, dtype=torch.int64)


def own_text(recipe: TextRecipe, backbone: PlainBackbone, stream: Tensor) -> tuple[Tensor, Tensor]:
    """Continue training text greedily, from random places of its `stream` on.

    Returns:
        int64 (texts, sequence_length), and int64 (texts,), where each continuation begins.
    """
    generator = torch.Generator().manual_seed(recipe.seed)
    drawn, lengths = [], []
    for number, first in enumerate(range(0, recipe.texts, 256)):
        batch = min(256, recipe.texts - first)
        length = recipe.prompt_lengths[number % len(recipe.prompt_lengths)]
        starts = torch.randint(len(stream) - length, (batch, 1), generator=generator)
        prompts = stream[starts + torch.arange(length)]
        drawn.append(continue_greedily(backbone, prompts, recipe.sequence_length - length))
        lengths.append(torch.full((batch,), length))
    return torch.cat(drawn), torch.cat(lengths)
