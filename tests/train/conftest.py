"""A checkpoint small enough to train on, whose texts are one function over and over."""

from __future__ import annotations

from pathlib import Path

import pytest

from nldc.runtime.train import texts
from nldc.runtime.train.corpus import SourceFile
from nldc.runtime.train.export import export_checkpoint
from nldc.runtime.train.geometry import Geometry, model_config
from nldc.runtime.train.model import init_params
from nldc.runtime.train.tokenizer import train_tokenizer

TEXT = "def f(x):\n    return x + 1\n" * 30
SMALL = Geometry(
    vocab_size=270,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=24,
)


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(
        texts, "read_files", lambda _root, *, held_out: [SourceFile(str(held_out), TEXT)]
    )
    train_tokenizer([TEXT], SMALL.vocab_size).save(str(tmp_path / "tokenizer.json"))
    folder = tmp_path / "checkpoint"
    export_checkpoint(
        init_params(model_config(SMALL, 4), 0), SMALL, 4, tmp_path / "tokenizer.json", folder
    )
    return folder
