"""A byte-level BPE, trained on the training files only, and the corpus as one row of token ids."""

from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

SPECIAL_TOKENS = ("<unk>", "<s>", "</s>", "<|mask|>")
"""In the order of their ids: 0 unknown, 1 beginning, 2 end, 3 mask."""

BOS, EOS, MASK = 1, 2, 3


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE of `vocab_size` entries, special tokens included.

    Digits are single tokens; a run of white space may be one token, which is what makes the
    indentation of source code cheap.
    """
    tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL_TOKENS[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def load_tokenizer(folder: Path) -> Tokenizer:
    """Read `tokenizer.json` of a checkpoint folder."""
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def encode_stream(tokenizer: Tokenizer, texts: Iterable[str]) -> torch.Tensor:
    """Return all texts as one int64 row: beginning, text, end, beginning, text, end, ..."""
    ids: list[int] = []
    for encoding in tokenizer.encode_batch(list(texts)):
        ids.append(BOS)
        ids.extend(encoding.ids)
        ids.append(EOS)
    return torch.tensor(ids, dtype=torch.int64)
