"""An imported model of 135 M parameters: sensible text, and self-speculation that is exactly AR's.

Opt-in: `python scripts/smollm2.py` fetches and imports the model, `make test-long` runs this.
NLDC_SMOLLM2 names the folder if it is not build/smollm2.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nldc.api import compile as compile_strategy
from nldc.import_gguf import import_gguf
from nldc.runtime.decoder import Decoder
from nldc.runtime.errors import CheckpointError
from nldc.runtime.text.chat import render
from nldc.verify import load_pair

ROOT = Path(__file__).parent.parent
FOLDER = Path(os.environ.get("NLDC_SMOLLM2", ROOT / "build" / "smollm2"))
PROMPTS = ["The capital of France is", "def fibonacci(n):\n", "Once upon a time"]
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        not (FOLDER / "config.json").exists(), reason="run `python scripts/smollm2.py` first"
    ),
]


def decoders(strategy: str, folder: Path) -> tuple[Decoder, Decoder]:
    artifact = compile_strategy(strategy, folder / strategy)
    pair = load_pair(artifact, FOLDER, device="cpu", backend="torch")
    return pair.decoder, pair.baseline


@pytest.fixture(scope="module")
def linear_and_ar(tmp_path_factory: pytest.TempPathFactory) -> tuple[Decoder, Decoder]:
    return decoders("linear_ss", tmp_path_factory.mktemp("artifacts"))


def test_greedy_text_is_sensible(linear_and_ar: tuple[Decoder, Decoder]) -> None:
    _, ar = linear_and_ar
    text = ar.generate(PROMPTS[:2], max_new_tokens=24).text
    assert text[0].startswith(" Paris")
    assert "fibonacci" in text[1]


def test_text_survives_the_tokenizer_and_digits_stand_alone(
    linear_and_ar: tuple[Decoder, Decoder],
) -> None:
    tokenizer = linear_and_ar[1].tokenizer
    for text in ("Hello world", "I have 12345 apples, don't I?\n\n\tx = 10**3", "naïve 日本語 🎉"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode("Hello world") == [19556, 905]
    assert len(tokenizer.encode("12345")) == 5


def test_the_chat_template_writes_the_turns(linear_and_ar: tuple[Decoder, Decoder]) -> None:
    text = render(linear_and_ar[1].tokenizer, [{"role": "user", "content": "Hi"}])
    assert text.startswith("<|im_start|>system\n")
    assert text.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


def test_linear_self_speculation_gives_exactly_the_text_of_ar(
    linear_and_ar: tuple[Decoder, Decoder],
) -> None:
    linear, ar = linear_and_ar
    for options in ({}, {"temperature": 0.8, "seed": 7}):
        found = linear.generate(PROMPTS, max_new_tokens=24, **options)
        wanted = ar.generate(PROMPTS, max_new_tokens=24, **options)
        assert found.tokens == wanted.tokens


def test_a_second_import_does_not_touch_the_first() -> None:
    with pytest.raises(CheckpointError, match="is not empty"):
        import_gguf(__file__, FOLDER)
