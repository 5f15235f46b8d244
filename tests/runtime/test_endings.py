"""What ends a text: any file of a checkpoint may say it, and a caller may say something else."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from handwritten import Ar, LinearSS
from random_model import random_checkpoint

from nldc.runtime.decoder import Decoder
from nldc.runtime.errors import CheckpointError, CheckpointWarning, PromptError

PROMPT = [5, 9, 20]
LENGTH = 24
OPTIONS: dict[str, Any] = {"dtype": "float64", "device": "cpu", "backend": "torch"}


def load(folder: Path, kind: type[Decoder] = Ar) -> Decoder:
    return kind.from_checkpoint(folder, **OPTIONS)


@pytest.fixture(scope="module")
def free(tmp_path_factory: pytest.TempPathFactory) -> list[int]:
    """What the model writes when nothing ends it."""
    folder = random_checkpoint(tmp_path_factory.mktemp("free"), text=True)
    result = load(folder).generate([PROMPT], max_new_tokens=LENGTH, eos=())
    return result.tokens[0]


def checkpoint(folder: Path, config: Any, **files: Any) -> Path:
    """Write the model of `free` with an eos_token_id in config.json, and files beside it."""
    random_checkpoint(folder, text=True, eos_token_id=config)
    for name, data in files.items():
        text = data if isinstance(data, str) else json.dumps(data)
        (folder / f"{name}.json").write_text(text)
    return folder


def text_of(folder: Path, token: int) -> str:
    found: str = load(folder).tokenizer.inner.id_to_token(token)
    return found


@pytest.mark.parametrize("kind", [Ar, LinearSS])
@pytest.mark.parametrize("config", [1, None])
@pytest.mark.parametrize("single", [True, False])
def test_the_ids_of_generation_config_end_a_text(
    tmp_path: Path, free: list[int], kind: type[Decoder], config: int | None, single: bool
) -> None:
    end = free[5]
    named = {"eos_token_id": end if single else [1, end]}
    folder = checkpoint(tmp_path, config, generation_config=named)
    result = load(folder, kind).generate([PROMPT], max_new_tokens=LENGTH)
    assert result.finish == ["eos"]
    assert result.tokens[0] == free[: free.index(end) + 1]


@pytest.mark.parametrize("place", ["tokenizer_config", "special_tokens_map"])
def test_the_eos_token_of_the_tokenizer_ends_a_text(
    tmp_path: Path, free: list[int], place: str
) -> None:
    folder = checkpoint(tmp_path, 1)
    name = text_of(folder, free[5])
    (folder / f"{place}.json").write_text(json.dumps({"eos_token": {"content": name}}))
    decoder = load(folder)
    assert decoder.endings.ids == (1, free[5])
    assert decoder.endings.sources == ("config.json", "tokenizer_config.json")
    result = decoder.generate([PROMPT], max_new_tokens=LENGTH)
    assert result.tokens[0] == free[: free.index(free[5]) + 1]


def test_every_file_is_heard_and_no_id_twice(tmp_path: Path) -> None:
    folder = checkpoint(
        tmp_path, [1, 7], generation_config={"eos_token_id": [7, 9]},
        tokenizer_config={"eos_token": "</s>"},
    )  # fmt: skip
    assert load(folder).endings.ids == (7, 9, 1)


def test_a_checkpoint_in_which_nothing_ends_a_text_says_so_once(tmp_path: Path) -> None:
    decoder = load(checkpoint(tmp_path, [], generation_config={}))
    with pytest.warns(CheckpointWarning, match="nothing ends a text but its length") as caught:
        decoder.generate([PROMPT], max_new_tokens=2)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decoder.generate([PROMPT], max_new_tokens=2)
        load(tmp_path).generate([PROMPT], max_new_tokens=2, eos=())


def test_an_end_that_the_model_cannot_write_is_named(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 1, tokenizer_config={"eos_token": "<|nowhere|>"})
    with pytest.warns(CheckpointWarning) as caught:
        assert load(folder).endings.ids == (1,)
    said = " ".join(str(each.message) for each in caught)
    assert "no token `<|nowhere|>` (260)" in said
    assert "has 261 tokens, and the model 260" in said


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "cannot be read as JSON"),
        ("[]", "holds no JSON object"),
        ({"eos_token_id": "x"}, "eos_token_id = 'x'"),
        ({"eos_token_id": [1, True]}, "eos_token_id = "),
        ({"eos_token_id": 260}, "eos_token_id 260 is not in the vocabulary of 260"),
        ({"eos_token_id": [-1]}, "eos_token_id -1 is not in"),
    ],
)
def test_a_damaged_generation_config_is_an_error(
    tmp_path: Path, content: Any, message: str
) -> None:
    folder = checkpoint(tmp_path, 1, generation_config=content)
    with pytest.raises(CheckpointError, match=message) as caught:
        load(folder).generate([PROMPT], max_new_tokens=2)
    assert "generation_config.json" in caught.value.message


def test_settings_that_would_choose_other_tokens_are_named(tmp_path: Path) -> None:
    settings = {
        "repetition_penalty": 1.2, "stop_strings": ["x"], "min_length": 0, "temperature": 0.6,
    }  # fmt: skip
    folder = checkpoint(tmp_path, 1, generation_config=settings)
    with pytest.warns(CheckpointWarning, match="not followed: stop_strings, repetition_penalty;"):
        load(folder).generate([PROMPT], max_new_tokens=2)


def test_a_caller_names_ends_by_id_or_by_text(tmp_path: Path, free: list[int]) -> None:
    folder = checkpoint(tmp_path, 1)
    decoder, end = load(folder), free[5]
    name = text_of(folder, end)
    for eos in (end, [end], (end,), name, [name], [1, name]):
        result = decoder.generate([PROMPT], max_new_tokens=LENGTH, eos=eos)
        assert result.tokens[0] == free[: free.index(end) + 1]
    assert decoder.generate([PROMPT], max_new_tokens=LENGTH, eos=()).tokens[0] == free
    assert "".join(decoder.stream(PROMPT, max_new_tokens=LENGTH, eos=end))


@pytest.mark.parametrize(
    ("eos", "message"),
    [
        (260, "eos holds the token id 260"),
        ([-1], "eos holds the token id -1"),
        ("no such token", "eos holds 'no such token', which is no token"),
        ([1.5], "eos holds 1.5"),
        (True, "eos True is not allowed"),
        (object, "eos .* is not allowed"),
    ],
)
def test_an_end_that_is_no_token_is_refused(tmp_path: Path, eos: Any, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        load(checkpoint(tmp_path, 1)).generate([PROMPT], max_new_tokens=2, eos=eos)


def test_an_end_by_text_needs_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="has no tokenizer"):
        load(random_checkpoint(tmp_path)).generate([PROMPT], max_new_tokens=2, eos="</s>")
