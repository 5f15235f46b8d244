"""`nldc train drafter` makes a drafter for every checkpoint that decodes, and decoders take it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from handwritten import BIDIRECTIONAL, Ar, LinearSS, block_layout
from random_model import random_checkpoint
from safetensors.torch import load_file, save_file
from test_golden import batch_of
from test_import_gguf import Model

from nldc import api
from nldc.cli import cli
from nldc.import_gguf import import_gguf
from nldc.runtime.train import texts
from nldc.runtime.train.corpus import SourceFile

TEXT = "def f(x):\n    return x + 1\n" * 20
PROMPT = TEXT[:40]
SETTINGS = {
    "steps": 6, "rank": 4, "alpha": 8, "learning_rate": 0.1, "texts": 2, "sequences": 2,
    "blocks": 4, "block_length": 4, "sequence_length": 176, "threads": 1,
}  # fmt: skip
YARN = {
    "rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "llama_4_scaling_beta": 0.3,
    "original_max_position_embeddings": 32,
}  # fmt: skip


def one_file(folder: Path) -> Path:
    return random_checkpoint(folder, text=True)


def sharded(folder: Path) -> Path:
    tensors = load_file(random_checkpoint(folder, text=True) / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, held in shards.items():
        save_file({name: tensors[name] for name in held}, folder / file)
    places = {name: file for file, held in shards.items() for name in held}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return folder


def yarn_and_temperature(folder: Path) -> Path:
    return random_checkpoint(folder, text=True, rope_parameters=YARN)


def tied_head(folder: Path) -> Path:
    return random_checkpoint(folder, text=True, tie_word_embeddings=True, bos_token_id=0)


def stored_in(dtype: torch.dtype) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        name = str(dtype).removeprefix("torch.")
        path = random_checkpoint(folder, text=True, dtype=name) / "model.safetensors"
        save_file({name: value.to(dtype) for name, value in load_file(path).items()}, path)
        return folder

    make.__name__ = str(dtype)
    return make


def imported_gguf(folder: Path) -> Path:
    import_gguf(Model().write(folder.with_suffix(".gguf")), folder)
    return folder


MAKERS = (
    one_file, sharded, yarn_and_temperature, tied_head, stored_in(torch.float16),
    stored_in(torch.float64), stored_in(torch.bfloat16), imported_gguf,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _small_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    files = [SourceFile("a.py", TEXT)]
    monkeypatch.setattr(texts, "read_files", lambda _root, *, held_out: files[held_out:])


def train(folder: Path, *arguments: str, **changed: int) -> str:
    """Run the command; return what it says of an error, nothing if there is none."""
    numbers = {**SETTINGS, **changed}
    settings = [f"--set={name}={value}" for name, value in numbers.items()]
    run = CliRunner().invoke(cli, ["train", "drafter", str(folder), *settings, *arguments])
    assert run.exit_code == (1 if run.stderr else 0), run.output
    return run.stderr


def drafts(decoder: LinearSS) -> torch.Tensor:
    """Return the logits [20, 3, V] of masks behind one token each, as the adapter drafts them."""
    mask, found = decoder.config.mask_token_id, []
    with torch.inference_mode():
        for token in decoder.tokenizer.encode(PROMPT)[:20]:
            batch = batch_of(decoder)
            block = torch.tensor([[token, mask, mask, mask]])
            seen = batch.forward(block, block_layout(4), BIDIRECTIONAL, adapter="drafter")
            found.append(batch.head(seen).values[0, 1:].double())
    return torch.stack(found)


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_any_checkpoint_gets_a_drafter_that_changes_drafts_and_no_token(
    make: Callable[[Path], Path], tmp_path: Path
) -> None:
    folder = make(tmp_path / "checkpoint")
    bare = LinearSS.from_checkpoint(folder, device="cpu")
    assert bare.notes == ("no drafter adapter: drafting with base weights",)
    assert train(folder) == ""
    helped = LinearSS.from_checkpoint(folder, device="cpu")
    assert helped.notes == ()
    before, after = drafts(bare), drafts(helped)
    assert (before.argmax(-1) != after.argmax(-1)).any()
    want = Ar.from_checkpoint(folder, device="cpu").generate(PROMPT, max_new_tokens=16)
    assert helped.generate(PROMPT, max_new_tokens=16).tokens == want.tokens


def test_the_drafter_is_the_one_that_the_command_run_takes(tmp_path: Path) -> None:
    folder = yarn_and_temperature(tmp_path / "checkpoint")
    artifact = api.compile("linear_ss_lora", tmp_path / "artifact", certify=False)
    command = ["run", str(artifact), "--model", str(folder), "--prompt", PROMPT, "--device=cpu"]
    before = CliRunner().invoke(cli, command)
    assert before.exit_code == 0, before.output
    assert "no drafter adapter" in before.stderr
    assert train(folder) == ""
    after = CliRunner().invoke(cli, command)
    assert after.exit_code == 0, after.output
    assert "no drafter adapter" not in after.stderr
    assert after.stdout == before.stdout


def test_what_cannot_be_trained_is_said_before_anything_is_written(tmp_path: Path) -> None:
    folder, out = one_file(tmp_path / "checkpoint"), tmp_path / "out"
    at = ("-o", str(out))
    assert "give sequence_length=164 or more" in train(folder, *at, sequence_length=163)
    assert "leaves nothing to draft" in train(folder, *at, block_length=1)
    (folder / "tokenizer.json").rename(folder / "kept.json")
    assert "put the model's tokenizer.json there" in train(folder, *at)
    (folder / "kept.json").rename(folder / "tokenizer.json")
    random_checkpoint(folder, vocab_size=101)
    assert "and the model has 101 tokens" in train(folder, *at)
    assert not out.exists()
