"""Params that follow a checkpoint: declared, checked, taken, shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nldc import api
from nldc.diagnostics import StrategyError
from nldc.explain import explain
from nldc.runtime.errors import CheckpointError

GOLDEN = Path(__file__).parents[1] / "golden_checkpoints" / "random-1"


def checkpoint(folder: Path, block_size: int | None) -> Path:
    config = json.loads((GOLDEN / "config.json").read_text())
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**config, "block_size": block_size}))
    return folder


def declaring(folder: Path, key: str, type_: str = "int") -> Path:
    text = (api.find("linear_ss")).read_text()
    old = "{type: int, default: 16, min: 2, max: 64, checkpoint: block_size,"
    assert old in text
    new = f"{{type: {type_}, default: 16, min: 2, max: 64, {key},"
    path = folder / "made.yaml"
    path.write_text(text.replace(old, new))
    return path


def test_a_param_takes_the_checkpoint_s_value_unless_it_is_set(tmp_path: Path) -> None:
    model = checkpoint(tmp_path / "model", 8)
    assert dict(api.follow("linear_ss", {}, model)) == {"block_length": 8}
    assert dict(api.follow("linear_ss", {"block_length": 5}, model)) == {"block_length": 5}
    assert dict(api.follow("quadratic_ss", {}, model)) == {}
    assert dict(api.follow("ar", {}, model)) == {}
    followed, own, free = api.check_together(("linear_ss", "quadratic_ss", "ar"), {}, model)
    assert followed.graph.params["block_length"] == 8
    assert (
        own.graph.params["block_length"] == api.check("quadratic_ss").graph.params["block_length"]
    )
    assert free.graph.params == {}
    folder = api.compile("linear_ss", tmp_path / "out", model=model)
    assert json.loads((folder / "manifest.json").read_text())["params"] == {"block_length": 8}
    assert api.load(folder).CHECKPOINT_PARAMS == {"block_length": ("block_size", 8)}


def test_without_a_checkpoint_or_its_value_the_default_stays(tmp_path: Path) -> None:
    assert api.check("linear_ss").graph.params == {"block_length": 16}
    none = checkpoint(tmp_path / "none", 0)
    assert api.check_together(["linear_ss"], {}, none)[0].graph.params == {"block_length": 16}


def test_a_value_outside_the_bounds_is_an_error_that_names_both(tmp_path: Path) -> None:
    model = checkpoint(tmp_path / "model", 4096)
    with pytest.raises(StrategyError) as caught:
        api.compile("linear_ss", tmp_path / "out", model=model)
    (found,) = caught.value.diagnostics
    assert found.code == "NLD016"
    assert found.message == "the checkpoint's block_size 4096 is not between 2 and 64"
    assert "--set block_length" in found.help[0]
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_that_cannot_be_read_is_an_error_even_if_nothing_follows_it() -> None:
    with pytest.raises(CheckpointError, match="is not a folder"):
        api.check_together(["ar"], {}, "nowhere")


@pytest.mark.parametrize(
    ("key", "type_", "code"),
    [
        ("checkpoint: hidden_size", "int", "NLD012"),
        ("checkpoint: 3", "int", "NLD012"),
        ("chekpoint: block_size", "int", "NLD010"),
        ("checkpoint: block_size", "float", "NLD010"),
    ],
)
def test_what_is_followed_is_checked(key: str, type_: str, code: str, tmp_path: Path) -> None:
    with pytest.raises(StrategyError) as caught:
        api.check(declaring(tmp_path, key, type_))
    assert [each.code for each in caught.value.diagnostics][:1] == [code]


def test_explain_says_what_a_param_follows() -> None:
    line = "block_length follows a checkpoint's block_size (compile with --model); here it is 16"
    assert line in explain(api.check("linear_ss"))
    assert "follows a checkpoint" not in explain(api.check("quadratic_ss"))
